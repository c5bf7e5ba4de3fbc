//! OpenBGPD, which does not know of route priority: what it does to a host. Its configuration is not read.

use super::frr;
use crate::doctor::finding::{Area, Check, Finding};
use cutover_daemon::processes::Processes;

pub(super) static DAEMON: Check = Check {
    area: Area::Bgp,
    name: "openbgpd",
    wants: "OpenBGPD does not write routes to VMs into the kernel",
    why: "OpenBGPD 9.3 writes IPv4 routes without a metric, which is metric 0 and wins over the VM's own route on the host where it runs, normal or elevated; and when the next hop is new, it deletes the old route before it adds the new one.",
};

pub(super) fn judge(processes: &Processes) -> Vec<Finding> {
    let frr: Vec<u32> = frr::daemons(processes).map(|process| process.pid).collect();
    let mut pids: Vec<u32> = processes.named(&["bgpd"]).map(|process| process.pid).collect();
    pids.retain(|pid| !frr.contains(pid));
    // It runs as several processes.
    let Some(pid) = pids.into_iter().min() else { return Vec::new() };
    vec![DAEMON.warning(
        format!("OpenBGPD runs here: bgpd (process {pid}) is not FRR's"),
        "BIRD or FRR in its place, with what cutover bgp prints; or fib-update no in bgpd.conf, if it only has to tell of other routes",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use cutover_daemon::processes::Process;

    fn process(pid: u32, name: &str, executable: Option<&str>, line: &str) -> Process {
        let arguments = line.split(' ').map(str::to_owned).collect();
        Process { pid, name: name.into(), arguments, executable: executable.map(Into::into) }
    }

    #[test]
    fn it_is_told_from_frr_by_its_folder_and_by_zebra() {
        let of = |executable, line| process(7, "bgpd", executable, line);
        let zebra = process(8, "zebra", Some("/usr/local/sbin/zebra"), "zebra -d");
        let watch = process(9, "watchfrr", None, "/usr/local/sbin/watchfrr -d zebra bgpd");
        for (processes, is_openbgpd) in [
            (vec![], false),
            (vec![process(7, "bird", Some("/usr/sbin/bird"), "bird")], false),
            (vec![of(Some("/usr/lib/frr/bgpd"), "/usr/lib/frr/bgpd -d")], false),
            (vec![of(None, "/usr/lib/frr/bgpd -d")], false),
            (vec![of(Some("/usr/local/sbin/bgpd"), "bgpd -d"), zebra], false),
            (vec![of(Some("/usr/local/sbin/bgpd"), "bgpd -d"), watch], false),
            (vec![of(Some("/usr/sbin/bgpd"), "bgpd: route decision engine")], true),
            (vec![of(None, "/usr/sbin/bgpd")], true),
            (vec![of(Some("/opt/frrouting/bgpd"), "bgpd")], true),
        ] {
            let processes = Processes(processes);
            let found = judge(&processes);
            assert_eq!(!found.is_empty(), is_openbgpd, "{processes:?}: {found:?}");
            let is_bgpd = processes.named(&["bgpd"]).next().is_some();
            assert_eq!(frr::daemons(&processes).next().is_some(), is_bgpd && !is_openbgpd);
        }
    }

    #[test]
    fn its_processes_are_one_warning() {
        let bgpd = |pid| process(pid, "bgpd", Some("/usr/sbin/bgpd"), "bgpd: session engine");
        let found = judge(&Processes(vec![bgpd(12), bgpd(11), bgpd(13)]));
        assert_eq!(found.iter().map(|it| it.level).collect::<Vec<_>>(), [Level::Warning]);
        assert!(found[0].what.contains("process 11"), "{found:?}");
    }
}
