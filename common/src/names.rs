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

/// Sub-folder of the pin path that holds the maps, each under its own name.
pub const PIN_DIR_MAPS: &str = "maps";
/// Sub-folder of the pin path that holds the programs, each under its own name.
pub const PIN_DIR_PROGRAMS: &str = "programs";
/// Sub-folder of the pin path that holds the links, each under the name of its tap.
pub const PIN_DIR_LINKS: &str = "links";
