//! Names that `bpftool` shows and that pins carry. They are part of the contract: changing one breaks users.

/// The tc classifier, attached with tcx or clsact on the ingress of a tap.
pub const PROGRAM_TC: &str = "cutover_tc";
/// The XDP program, attached to a tap.
pub const PROGRAM_XDP: &str = "cutover_xdp";

/// Armed watches: ifindex → [`crate::abi::Watch`]. Written by the agent only.
pub const MAP_WATCHES: &str = "WATCHES";
/// Latched announcements: generation → [`crate::abi::Evidence`]. Inserted by the kernel, removed by the agent.
pub const MAP_EVIDENCE: &str = "EVIDENCE";
/// Ring buffer of [`crate::abi::Announcement`] records.
pub const MAP_EVENTS: &str = "EVENTS";
/// What concerns every watch: a single [`crate::abi::Settings`]. Written by the agent only.
pub const MAP_SETTINGS: &str = "SETTINGS";
/// Per-CPU counters: a single [`crate::Counters`].
pub const MAP_COUNTERS: &str = "COUNTERS";

/// The tc classifier at the egress of the tunnel's device.
pub const PROGRAM_FORWARD: &str = "cutover_forward";
/// The tc classifier at the ingress of the tunnel's device.
pub const PROGRAM_RECEIVE: &str = "cutover_receive";

/// Where what is sent to an address goes: [`crate::tunnel::Address`] by prefix → [`crate::tunnel::Forward`]. Written by the agent only.
pub const MAP_FORWARDS: &str = "FORWARDS";
/// What may come out of the tunnel: identifier → [`crate::tunnel::Reception`]. Written by the agent only.
pub const MAP_RECEPTIONS: &str = "RECEPTIONS";
/// To whom: [`crate::tunnel::Delivery`] by prefix. Written by the agent only.
pub const MAP_DELIVERIES: &str = "DELIVERIES";
/// Per-CPU: identifier of a tunnel → [`crate::tunnel::Traffic`] that went into it.
pub const MAP_FORWARDED: &str = "FORWARDED";
/// Per-CPU: identifier of a tunnel → [`crate::tunnel::Traffic`] that came out of it.
pub const MAP_RECEIVED: &str = "RECEIVED";
/// Per-CPU counters: a single [`crate::tunnel::TunnelCounters`].
pub const MAP_TUNNEL_COUNTERS: &str = "TUNNEL_COUNTERS";

/// The filter of a packet socket that is bound to the tap of a virtual machine which is about to leave.
pub const PROGRAM_LEAVING: &str = "cutover_leaving";
/// When the last frame came: ifindex → CLOCK_BOOTTIME in nanoseconds. The agent adds and removes entries, the program writes the time.
pub const MAP_LAST_FRAMES: &str = "LAST_FRAMES";

/// The device of the tunnel.
pub const DEVICE_TUNNEL: &str = "cutover0";

/// Sub-folder of the pin path that holds the maps, each under its own name.
pub const PIN_DIR_MAPS: &str = "maps";
/// Sub-folder of the pin path that holds the programs, each under its own name.
pub const PIN_DIR_PROGRAMS: &str = "programs";
/// Sub-folder of the pin path that holds the links, each under the name of its tap.
pub const PIN_DIR_LINKS: &str = "links";
