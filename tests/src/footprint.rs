//! What an agent and the kernel hold for it on one host: whatever could be left behind, counted. Asks `/proc`, `ip` and `nft`, so a bug of the agent's
//! netlink code cannot hide itself there.

use crate::agent::Agent;
use crate::firewall;
use crate::host::Host;
use std::fs;
use std::ops::Add;
use std::path::Path;

/// What there is of something, by its place in [`NAMES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footprint([u64; NAMES.len()]);

/// What is counted.
pub const NAMES: [&str; 14] = [
    "private memory of the agents [KiB]",
    "file descriptors",
    "threads",
    "children",
    "BPF programs held",
    "BPF maps held",
    "BPF links held",
    "pins",
    "network devices",
    "routes",
    "rules",
    "permanent neighbours",
    "nf_tables rules",
    "tracked connections",
];

/// The place of what grows and shrinks by itself: memory.
pub const MEMORY: usize = 0;

/// The place of what is forgotten after a time: tracked connections.
pub const CONNECTIONS: usize = NAMES.len() - 1;

impl Footprint {
    /// What there is now.
    ///
    /// # Panics
    /// When the agent does not run, or without `ip` and `nft`.
    #[must_use]
    #[track_caller]
    pub fn of(host: &Host, agent: &Agent) -> Self {
        let pid = agent.pid().expect("it runs");
        let process = format!("/proc/{pid}");
        let held = Held::by(&process);
        let children = fs::read_to_string(format!("{process}/task/{pid}/children")).unwrap_or_default();
        let lines = |arguments: &[&str]| {
            let output = host.namespace().command("ip").args(arguments).output().expect("ip");
            count(String::from_utf8_lossy(&output.stdout).lines().count())
        };
        let both = |arguments: &[&str]| {
            ["-4", "-6"].iter().map(|family| lines(&[&[*family, "-o"], arguments].concat())).sum()
        };
        Self([
            private_kib(&process),
            held.descriptors,
            entries(Path::new(&format!("{process}/task"))),
            count(children.split_ascii_whitespace().count()),
            held.programs,
            held.maps,
            held.links,
            files_below(agent.pin_path()),
            lines(&["-o", "link", "show"]),
            both(&["route", "show", "table", "all"]),
            both(&["rule", "show"]),
            both(&["neigh", "show", "nud", "permanent"]),
            count(firewall::rules(host.namespace()).lines().count()),
            host.namespace()
                .sysctl("net/netfilter/nf_conntrack_count")
                .and_then(|text| text.parse().ok())
                .unwrap_or_default(),
        ])
    }

    /// All of it, in the order of [`NAMES`].
    #[must_use]
    pub const fn counts(&self) -> &[u64; NAMES.len()] {
        &self.0
    }
}

impl From<[u64; NAMES.len()]> for Footprint {
    fn from(counts: [u64; NAMES.len()]) -> Self {
        Self(counts)
    }
}

impl Add for Footprint {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|place| self.0[place] + other.0[place]))
    }
}

/// What a process has open.
#[derive(Default)]
struct Held {
    descriptors: u64,
    programs: u64,
    maps: u64,
    links: u64,
}

impl Held {
    fn by(process: &str) -> Self {
        let mut held = Self::default();
        for entry in fs::read_dir(format!("{process}/fdinfo")).expect("it runs").flatten() {
            held.descriptors += 1;
            // It may be closed by now.
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let has = |field: &str| u64::from(text.lines().any(|line| line.starts_with(field)));
            // KERNEL: what a link leads to is said as well, so a program is what names no link.
            let (link, program) = (has("link_id:"), has("prog_id:"));
            held.links += link;
            held.programs += program.saturating_sub(link);
            held.maps += has("map_id:");
        }
        held
    }
}

/// What no other process shares with it.
fn private_kib(process: &str) -> u64 {
    let text = fs::read_to_string(format!("{process}/smaps_rollup")).expect("it runs");
    let is_private = |line: &&str| line.starts_with("Private_");
    let kib = |line: &str| line.split_ascii_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    text.lines().filter(is_private).filter_map(kib).sum()
}

fn entries(folder: &Path) -> u64 {
    count(fs::read_dir(folder).into_iter().flatten().count())
}

fn files_below(folder: &Path) -> u64 {
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    below.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).expect("64 bits")
}
