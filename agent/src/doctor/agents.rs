//! The running agent, and other programs that would undo what it does.

use super::finding::{Area, Check, Finding};
use cutover_daemon::control::Status;
use cutover_daemon::processes::{Process, Processes};
use std::io;

static RUNNING: Check = Check {
    area: Area::Agent,
    name: "running",
    wants: "The agent runs, is this version, and has read the whole datastore",
    why: "Without it announcements change nothing until it is back; resources that it cannot read are VMs that it does not move.",
};
static OTHERS: Check = Check {
    area: Area::Agent,
    name: "others",
    wants: "No other agent programs routes of VMs",
    why: "Two agents on one host undo each other's routes: the other one takes the elevated route away, or advertises a VM that is not here.",
};

static WATCHES: Check = Check {
    area: Area::Agent,
    name: "watches",
    wants: "Every tap that a VM is about to arrive on is watched",
    why: "An announcement on a tap that is not watched raises no priority; the VM is reached only when the migration is over.",
};

static PROGRESS: Check = Check {
    area: Area::Agent,
    name: "progress",
    wants: "Every part of the agent makes progress",
    why: "A part that does not come back from the kernel or a disk does nothing more; Neutron takes the agent for dead meanwhile.",
};

pub(super) static CHECKS: &[&Check] = &[&RUNNING, &PROGRESS, &WATCHES, &OTHERS];

/// `felix_may` run beside the agent.
pub(super) fn judge(
    processes: &Processes,
    agent: &io::Result<Status>,
    host: &str,
    felix_may: bool,
) -> Vec<Finding> {
    let mut findings = vec![running(agent, host)];
    findings.extend(agent.as_ref().ok().into_iter().flat_map(progress));
    findings.extend(agent.as_ref().ok().into_iter().flat_map(watches));
    findings.extend(others(processes, agent.as_ref().ok().map(|status| status.pid), felix_may));
    findings
}

fn running(agent: &io::Result<Status>, host: &str) -> Finding {
    let status = match agent {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return RUNNING.needs_root("may not ask the running agent");
        }
        Err(error) => {
            return RUNNING.notice(format!("no agent answers: {error}"), "systemctl enable --now cutover");
        }
    };
    let this = env!("CARGO_PKG_VERSION");
    let memory = if status.from_memory.is_some() { "; it works with what state.json knows" } else { "" };
    if let Some(trouble) = &status.datastore_trouble {
        let what = format!(
            "the agent runs, but has not followed the datastore for {} s, which is {}{memory}",
            trouble.for_ms / 1000,
            trouble.reason
        );
        return RUNNING.warning(what, "see the findings about the datastore");
    }
    if !status.in_sync {
        let what = format!("the agent runs, but has not read the datastore yet{memory}");
        return RUNNING.warning(what, "see what it logs, and the findings about the datastore");
    }
    if !status.complete {
        let what = "the agent runs, but could not read some resources";
        return RUNNING.warning(what, "mend the resources that it names in its log");
    }
    if !host.is_empty() && status.hostname != host {
        return RUNNING.warning(
            format!("the agent calls this host {}, the settings call it {host}", status.hostname),
            "systemctl restart cutover, or name its configuration file with -c",
        );
    }
    if status.version != this {
        let what = format!("the agent that runs is version {}, this is {this}", status.version);
        return RUNNING.notice(what, "systemctl restart cutover");
    }
    RUNNING.ok(format!("the agent runs (process {}) and is in sync", status.pid))
}

fn progress(status: &Status) -> Vec<Finding> {
    let stuck = status.stuck.iter().map(|(part, milliseconds)| {
        let what = format!("{part} has been busy for {} s without a pause", milliseconds / 1000);
        PROGRESS.error(
            what,
            "see what keeps it in /proc/PID/task/*/stack, and what the kernel says; then restart the agent",
        )
    });
    let findings: Vec<Finding> = stuck.collect();
    if findings.is_empty() { vec![PROGRESS.ok("every part makes progress")] } else { findings }
}

fn watches(status: &Status) -> Vec<Finding> {
    let unarmed = status.unarmed.iter().map(|(interface, reason)| {
        let what = format!("{interface} cannot be watched: {reason}");
        WATCHES.error(what, "mend what the message says; the agent tries again by itself")
    });
    let findings: Vec<Finding> = unarmed.collect();
    if findings.is_empty() { vec![WATCHES.ok("no tap is left that cannot be watched")] } else { findings }
}

fn others(processes: &Processes, agent: Option<u32>, felix_may: bool) -> Vec<Finding> {
    let describe = |process: &Process| format!("{} (process {})", process.name, process.pid);
    let mut findings: Vec<Finding> = processes
        .felix()
        .filter(|_| !felix_may)
        .map(|process| {
            OTHERS.error(
                format!("Calico's Felix runs here, too: {}", describe(process)),
                "systemctl disable --now calico-felix, or CutoverRole = routes and docs/beside-felix.md",
            )
        })
        .collect();
    let second = processes.named(&["cutover"]).filter(|process| {
        process.arguments.get(1).is_some_and(|command| command == "agent") && Some(process.pid) != agent
    });
    // Without an answer from it, the one that runs may be ours with another configuration file.
    findings.extend(second.filter(|_| agent.is_some()).map(|process| {
        OTHERS.error(
            format!("a second agent of ours runs here: {}", describe(process)),
            "stop one of them; each network namespace has one agent",
        )
    }));
    for name in ["ovn-bgp-agent", "neutron-bgp-dragent"] {
        findings.extend(processes.running(name).map(|process| {
            OTHERS.notice(
                format!("{name} runs here (process {}); it may program routes of VMs", process.pid),
                format!("see that {name} leaves the addresses of VMs on this host alone"),
            )
        }));
    }
    if findings.is_empty() {
        findings.push(OTHERS.ok("no other agent runs here"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::example;
    use cutover_daemon::control::Trouble;

    fn status() -> Status {
        Status {
            hostname: "host1".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: 5,
            ..example::status(Vec::new())
        }
    }

    #[test]
    fn what_the_agent_says_of_itself() {
        let denied = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let away = || Err(io::Error::from(io::ErrorKind::NotFound));
        for (answer, expected) in [
            (Ok(status()), Level::Ok),
            (Ok(Status { in_sync: false, ..status() }), Level::Warning),
            (
                Ok(Status {
                    datastore_trouble: Some(Trouble { reason: "lost".into(), for_ms: 2000 }),
                    ..status()
                }),
                Level::Warning,
            ),
            (Ok(Status { complete: false, ..status() }), Level::Warning),
            (Ok(Status { hostname: "host2".into(), ..status() }), Level::Warning),
            (Ok(Status { version: "0.0.1".into(), ..status() }), Level::Notice),
            (denied(), Level::Notice),
            (away(), Level::Notice),
        ] {
            let finding = running(&answer, "host1");
            assert_eq!(finding.level, expected, "{finding:?}");
        }
        assert!(running(&denied(), "host1").is_for_lack_of_privilege());
    }

    #[test]
    fn each_tap_that_cannot_be_watched_is_an_error() {
        assert_eq!(watches(&status()).iter().map(|it| it.level).collect::<Vec<_>>(), [Level::Ok]);
        let unarmed =
            [("tap1", "no memory"), ("tap2", "no such file")].map(|(tap, why)| (tap.into(), why.into()));
        let found = watches(&Status { unarmed: unarmed.into(), ..status() });
        assert!(found.len() == 2 && found.iter().all(|it| it.level == Level::Error), "{found:?}");
        assert!(found[0].what.contains("tap1") && found[0].what.contains("no memory"), "{found:?}");
    }

    #[test]
    fn each_part_that_is_stuck_is_an_error() {
        assert_eq!(progress(&status()).iter().map(|it| it.level).collect::<Vec<_>>(), [Level::Ok]);
        let found = progress(&Status { stuck: [("the loop".to_owned(), 95_000)].into(), ..status() });
        assert!(
            matches!(&found[..], [it] if it.level == Level::Error && it.what.contains("the loop has been busy for 95 s"))
        );
    }

    #[test]
    fn other_agents_are_found_by_name_and_argument() {
        let process = |pid, line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let name = arguments[0].rsplit('/').next().unwrap().to_owned();
            Process { pid, name, arguments, executable: None }
        };
        for (line, expected) in [
            ("/usr/bin/calico-felix --config-file=/etc/calico/felix.cfg", Level::Error),
            ("calico-node -felix", Level::Error),
            ("calico-node -confd", Level::Ok),
            ("/usr/local/bin/cutover agent", Level::Error),
            ("cutover doctor", Level::Ok),
            ("/usr/bin/python3 /usr/bin/ovn-bgp-agent", Level::Notice),
            ("bird -c /etc/bird/bird.conf", Level::Ok),
        ] {
            let found =
                others(&Processes(vec![process(5, "cutover agent"), process(6, line)]), Some(5), false);
            assert_eq!(found.len(), 1, "{line}");
            assert_eq!(found[0].level, expected, "{line}");
        }
        let felix = Processes(vec![process(6, "calico-felix")]);
        assert_eq!(others(&felix, None, true)[0].level, Level::Ok, "it may run beside");
        let alone = Processes(vec![process(6, "cutover agent -c other.cfg")]);
        assert_eq!(others(&alone, None, false)[0].level, Level::Ok);
    }
}
