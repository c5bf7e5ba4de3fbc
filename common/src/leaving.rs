//! Layout of what the program on the tap of a virtual machine that is about to leave shares with the agent: `LAST_FRAMES`, from the number
//! of a tap to when the last frame came from it, CLOCK_BOOTTIME in nanoseconds, or 0 if none has since it has been listened to.

/// How many taps can be listened to at once. LIMIT: one for each virtual machine that leaves.
pub const LEAVING_MAX: u32 = 4096;
