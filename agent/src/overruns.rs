//! Which BGP daemons were not told of some changes, because their receive buffer was full.
//!
//! KERNEL: the list of netlink sockets counts what was dropped since a socket was opened, and says nothing of what it was or when. A
//! daemon that was started again has a new socket and a new count. Owns the looking, for `cutover status` and the doctor; whoever writes
//! many changes takes care that it does not happen (`cutover_daemon::applier`).

use cutover_daemon::netlink::listeners::{self, Listener};
use cutover_daemon::processes::{Process, Processes};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

/// The daemons that hear of the kernel's routes.
const DAEMONS: [&str; 3] = ["bird", "bird6", "zebra"];

/// A daemon that listens to the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Overrun {
    /// The name of its program.
    pub(crate) daemon: String,
    /// Number of its process.
    pub(crate) pid: u32,
    /// Notifications that it was not given since it opened its socket.
    pub(crate) lost: u64,
}

impl Overrun {
    /// FRR's zebra does not notice, unlike BIRD, which looks at everything again at its next scan.
    pub(crate) fn is_for_good(&self) -> bool {
        self.daemon == "zebra"
    }
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { daemon, pid, lost } = self;
        write!(
            f,
            "{daemon} (process {pid}) was not told of {lost} changes, because its receive buffer was full"
        )
    }
}

/// Every daemon with a socket that listens, whether it lost something or not. `proc` is where /proc is.
pub(crate) fn of_daemons(proc: &Path, processes: &Processes) -> io::Result<Vec<Overrun>> {
    let listeners = listeners::in_namespace_of(&proc.join("thread-self"))?;
    Ok(counted(proc, processes, &listeners))
}

/// Daemons in the network namespace of a process that lost something. Says so quickly where there are none.
pub(crate) fn beside(proc: &Path, pid: u32) -> io::Result<Vec<Overrun>> {
    let mut listeners = listeners::in_namespace_of(&proc.join(pid.to_string()))?;
    listeners.retain(|listener| listener.lost > 0);
    if listeners.is_empty() {
        return Ok(Vec::new());
    }
    Ok(counted(proc, &Processes::beside(proc, pid), &listeners))
}

fn counted(proc: &Path, processes: &Processes, listeners: &[Listener]) -> Vec<Overrun> {
    let lost = |process: &Process| {
        let sockets = listeners::sockets_in(&proc.join(process.pid.to_string()).join("fd"));
        let is_its = |listener: &&Listener| match &sockets {
            Ok(sockets) => sockets.contains(&listener.inode),
            // Whoever may not look knows at least the first socket of a process by its port.
            Err(_) => listener.port == process.pid,
        };
        let its: BTreeMap<u64, u64> =
            listeners.iter().filter(is_its).map(|listener| (listener.inode, listener.lost)).collect();
        (!its.is_empty()).then(|| its.values().sum())
    };
    let daemons = processes.named(&DAEMONS);
    daemons
        .filter_map(|process| {
            Some(Overrun { daemon: process.name.clone(), pid: process.pid, lost: lost(process)? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn listener(port: u32, inode: u64, lost: u64) -> Listener {
        Listener { port, inode, groups: listeners::OF_ROUTES, queued_bytes: 0, lost }
    }

    #[test]
    fn sockets_are_found_by_inode_or_by_port_where_nobody_may_look() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, name: &str| Process { pid, name: name.into(), ..Process::default() };
        for (pid, inodes) in [(11, &[101, 102, 103][..]), (12, &[]), (14, &[104])] {
            let folder = proc.path().join(pid.to_string()).join("fd");
            fs::create_dir_all(&folder).unwrap();
            for inode in inodes {
                symlink(format!("socket:[{inode}]"), folder.join(inode.to_string())).unwrap();
            }
        }
        let processes = Processes(vec![
            process(11, "zebra"),
            process(12, "bird"),
            // Its folder is not there.
            process(13, "bird6"),
            process(14, "systemd-network"),
        ]);
        // The second one does not belong to process 12, although it has its number.
        let listeners =
            [listener(11, 101, 3), listener(12, 999, 5), listener(13, 105, 0), listener(7, 102, 4)];
        let lost = |daemon: &str, pid, lost| Overrun { daemon: daemon.into(), pid, lost };
        let expected = [lost("zebra", 11, 7), lost("bird6", 13, 0)];
        assert_eq!(counted(proc.path(), &processes, &listeners), expected);
        assert!(expected[0].is_for_good() && !expected[1].is_for_good());
    }
}
