//! What the units take away from the agent, and that it does its work all the same.

use crate::site::{STARTED, Site, UNIT, on_each_release};
use cutover_tests::scene::{NORMAL, TARGET};
use cutover_tests::{Port, wait};
use std::fs;
use std::path::Path;

/// A line of /proc/PID/status.
fn of_process(site: &Site, name: &str) -> String {
    // A unit whose first start fails is started again, and has no process in between.
    let read = || fs::read_to_string(site.debian.path(&format!("/proc/{}/status", site.pid(UNIT)))).ok();
    let status = wait::for_some(STARTED, "a process of the agent", read);
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of it");
    line.trim().to_owned()
}

#[test]
fn the_agent_has_what_the_unit_leaves_it() {
    /// CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_NICE, CAP_PERFMON, CAP_BPF.
    const CAPABILITIES: u64 = 1 << 2 | 1 << 12 | 1 << 13 | 1 << 23 | 1 << 38 | 1 << 39;
    on_each_release("what the unit takes away", |site| {
        site.debian.install(1);
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(u64::from_str_radix(&of_process(site, set), 16), Ok(CAPABILITIES), "{set}");
        }
        assert_eq!(of_process(site, "Seccomp:"), "2", "system calls are filtered");
        assert_eq!(of_process(site, "Umask:"), "0077");
        let mounts = site.debian.path(&format!("/proc/{}/mounts", site.pid(UNIT)));
        let mounts = fs::read_to_string(mounts).expect("it runs");
        // The last one over a folder counts.
        let options = |folder: &str| {
            let line = mounts.lines().rev().find(|line| line.split(' ').nth(1) == Some(folder));
            line.and_then(|line| line.split(' ').nth(3))
                .unwrap_or_default()
                .split(',')
                .next()
                .unwrap_or_default()
        };
        for (folder, expected) in [
            ("/", "ro"),
            ("/sys/devices", "ro"),
            ("/sys/kernel", "ro"),
            ("/sys/module", "ro"),
            ("/sys/fs/cgroup", "ro"),
            ("/proc/sys", "ro"),
            ("/proc/sys/net", "rw"),
            ("/sys/fs/bpf", "rw"),
        ] {
            assert_eq!(options(folder), expected, "{folder}:\n{mounts}");
        }
    });
}

/// FRR's zebra is a process of another user's. Only if it is seen are routes written again when their tap gets its carrier.
#[test]
fn the_agent_sees_processes_of_other_users() {
    on_each_release("zebra", |site| {
        let port = Port::new(2);
        let tap = site.host.plug(&port.interface, port.tap_mac());
        site.debian.install(1);
        site.driver(&port).bind(TARGET);
        site.wait_metrics(&port, &[NORMAL]);
        site.debian.run(
            "cp /usr/bin/sleep /usr/local/bin/zebra
             systemd-run --quiet --uid=nobody /usr/local/bin/zebra infinity",
        );
        site.watch.wait_quiet(STARTED, wait::SOON / 20);
        let mark = site.watch.mark();
        let _hypervisor = tap.open();
        wait::until(STARTED, format_args!("the route is written again:\n{}", site.journal()), || {
            site.watch.since(mark).metrics(port.ipv4()).len() > 1
        });
        site.wait_metrics(&port, &[NORMAL]);
    });
}

/// The process that listens to libvirt is started, gives up its privileges and finds that there is no library.
#[test]
fn what_listens_to_libvirt_can_be_started() {
    on_each_release("the helper for libvirt", |site| {
        // It is listened to where the agents talk to each other.
        site.debian.run(&format!(
            "mkdir -p /run/libvirt /etc/cutover/peers
             touch /run/libvirt/libvirt-sock-ro
             echo 'CutoverPeering = files' >>/etc/calico/felix.cfg
             echo 'CutoverPeerAddress = {}' >>/etc/calico/felix.cfg",
            site.host.ipv4(),
        ));
        site.debian.install(1);
        let why = || site.status()["libvirt"]["why"].as_str().unwrap_or_default().to_owned();
        let is_said = wait::holds_within(STARTED, || why().contains("libvirt.so.0"));
        assert!(is_said, "{:?}\n{}", site.status()["libvirt"], site.journal());
    });
}

/// What `systemd-analyze security` says of the units is what the documents say.
#[test]
fn the_documents_have_the_figure_of_systemd() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install.md");
    let page = fs::read_to_string(&page).expect("the page is there");
    let mut missing = Vec::new();
    on_each_release("systemd-analyze", |site| {
        site.debian.install(1);
        let systemd = site.debian.run("systemctl --version | head -n 1 | cut -d ' ' -f 2");
        for unit in ["cutover", "cutover-beside-felix"] {
            let said =
                site.debian.run(&format!("systemd-analyze security --no-pager {unit}.service | tail -n 1"));
            let figure = said.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a figure");
            let line = format!("| `{unit}.service` | {} | {figure} |", systemd.trim());
            missing.extend((!page.contains(&line)).then_some(line));
        }
    });
    assert!(missing.is_empty(), "not in docs/install.md:\n{}", missing.join("\n"));
}
