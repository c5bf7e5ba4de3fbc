//! Which capabilities the agent has, or would have if it were started as this process was.

use super::finding::{Area, Check, Finding};
use std::fs;
use std::path::Path;

static CAPABILITIES: Check = Check {
    area: Area::Agent,
    name: "capabilities",
    wants: "CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_SYS_NICE and CAP_NET_RAW",
    why: "CAP_NET_ADMIN changes routes and attaches programs, CAP_BPF and CAP_PERFMON load them; CAP_SYS_NICE gives the fast path its real-time priority, without which a busy host delays it, and without CAP_NET_RAW nobody knows how long a VM was not seen that leaves.",
};

pub(super) static CHECKS: &[&Check] = &[&CAPABILITIES];

/// A capability, its number (linux/capability.h), and whether the agent works without it.
const WANTED: [(&str, u32, bool); 5] = [
    ("CAP_NET_ADMIN", 12, false),
    ("CAP_BPF", 39, false),
    ("CAP_PERFMON", 38, false),
    ("CAP_SYS_NICE", 23, true),
    ("CAP_NET_RAW", 13, true),
];
/// KERNEL: includes CAP_BPF and CAP_PERFMON, and was what they are now before Linux 5.8.
const CAP_SYS_ADMIN: u32 = 21;

/// Whose capabilities were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Privileges {
    /// The running agent, or nobody but this process.
    pub(super) agent: Option<u32>,
    pub(super) effective: Option<u64>,
}

impl Privileges {
    pub(super) fn look(proc: &Path, agent: Option<u32>) -> Self {
        let process = agent.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let status = fs::read_to_string(proc.join(process).join("status")).unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self { agent, effective: effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()) }
    }
}

pub(super) fn judge(seen: &Privileges) -> Vec<Finding> {
    let who = seen
        .agent
        .map_or_else(|| "this process".to_owned(), |pid| format!("the running agent (process {pid})"));
    let Some(effective) = seen.effective else {
        return vec![CAPABILITIES.notice(format!("could not read what {who} may do"), "mount /proc")];
    };
    let has = |number: u32| effective & (1 << number) != 0;
    let lacks = |(name, number, optional): (&'static str, u32, bool)| {
        let included = matches!(name, "CAP_BPF" | "CAP_PERFMON") && has(CAP_SYS_ADMIN);
        (!has(number) && !included).then_some((name, optional))
    };
    let missing: Vec<(&str, bool)> = WANTED.into_iter().filter_map(lacks).collect();
    let names = |optional: bool| -> Vec<&str> {
        missing.iter().filter(|(_, it)| *it == optional).map(|(name, _)| *name).collect()
    };
    let change = |names: &[&str]| {
        if seen.agent.is_some() {
            format!(
                "add {} to CapabilityBoundingSet in the unit of the agent, and restart it",
                names.join(" ")
            )
        } else {
            format!("run the agent as root, with {} in the bounding set of its unit", names.join(" "))
        }
    };
    let mut findings = Vec::new();
    let (needed, useful) = (names(false), names(true));
    if !needed.is_empty() {
        let what = format!("{who} lacks {}", needed.join(", "));
        // Without an agent it only says who runs the doctor.
        findings.push(if seen.agent.is_some() {
            CAPABILITIES.error(what, change(&needed))
        } else {
            CAPABILITIES.notice(what, change(&needed))
        });
    }
    if !useful.is_empty() && (seen.agent.is_some() || needed.is_empty()) {
        findings.push(CAPABILITIES.warning(format!("{who} lacks {}", useful.join(", ")), change(&useful)));
    }
    if findings.is_empty() {
        findings.push(CAPABILITIES.ok(format!("{who} has all that it takes")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let all: u64 = WANTED.iter().map(|(_, number, _)| 1 << number).sum();
        let without = |number: u32| all & !(1 << number);
        let agent = Some(7);
        for (effective, agent, expected) in [
            (all, agent, Level::Ok),
            (all, None, Level::Ok),
            (without(12), agent, Level::Error),
            (without(39), agent, Level::Error),
            (without(39) | 1 << CAP_SYS_ADMIN, agent, Level::Ok),
            (without(38) | 1 << CAP_SYS_ADMIN, agent, Level::Ok),
            (without(12) | 1 << CAP_SYS_ADMIN, agent, Level::Error),
            (without(23), agent, Level::Warning),
            (without(13), agent, Level::Warning),
            (0, None, Level::Notice),
        ] {
            let found = judge(&Privileges { agent, effective: Some(effective) });
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].level, expected, "{effective:x} {found:?}");
        }
        let found = judge(&Privileges { agent, effective: Some(without(38)) });
        assert!(found[0].what.ends_with("lacks CAP_PERFMON"), "{found:?}");
        assert!(found[0].change.as_ref().unwrap().contains("add CAP_PERFMON to CapabilityBoundingSet"));
    }

    #[test]
    fn this_process_can_be_read() {
        assert!(Privileges::look(Path::new("/proc"), None).effective.is_some());
    }
}
