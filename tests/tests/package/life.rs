//! From the first installation to the purge.

use crate::site::{STARTED, Site, UNIT, on_each_release};
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::{Port, debian, frames, wait};
use std::process::Stdio;

const DEFAULTS: &str = "/etc/default/cutover";

fn version(site: &Site) -> String {
    site.debian.run("dpkg-query --show --showformat='${Version}' cutover")
}

#[test]
fn one_command_after_the_download_the_agent_runs() {
    on_each_release("an installation", |site| {
        site.debian.install(1);
        assert_eq!(site.state(UNIT), "active", "{}", site.journal());
        assert_eq!(site.debian.run("systemctl is-enabled cutover").trim(), "enabled");
        site.wait_metrics(&site.port, &[NORMAL]);
        // Everything that is not the agent itself.
        let found = site.debian.run(
            "zcat /usr/share/man/man8/cutover.8.gz | grep -c '^\\.SH'
             zcat /usr/share/man/man8/cutover-status.8.gz | grep -q 'cutover status'
             bash -n /usr/share/bash-completion/completions/cutover
             bash -c '. /usr/share/bash-completion/completions/cutover; complete -p cutover'
             grep -q '#compdef cutover' /usr/share/zsh/vendor-completions/_cutover
             grep -q 'complete -c cutover' /usr/share/fish/vendor_completions.d/cutover.fish
             test -f /usr/share/doc/cutover/examples/calico-felix.service.d/50-cutover.conf
             test -f /usr/share/doc/cutover/examples/monitoring/dashboard.json
             test -x /usr/share/doc/cutover/examples/libvirt/cutover
             test -f /usr/lib/systemd/system/cutover-libvirt.service
             zcat /usr/share/man/man8/cutover-libvirt-hook.8.gz | grep -q 'hook'
             grep -q 'MIT or Apache-2.0' /usr/share/doc/cutover/copyright
             test -f /usr/lib/systemd/system/cutover-beside-felix.service
             dpkg-query --listfiles cutover | grep -qx /etc/cutover/resources
             dpkg --verify cutover
             dpkg-query --show --showformat='${Conffiles}' cutover",
        );
        assert!(found.contains(DEFAULTS), "{found}");
        // What is only for those who pack is not offered.
        let hidden = site.debian.try_run(
            "grep -l 'libvirt-events\\|write-pages' /usr/share/zsh/vendor-completions/_cutover \
             /usr/share/bash-completion/completions/cutover /usr/share/fish/vendor_completions.d/cutover.fish; \
             ls /usr/share/man/man8 | grep 'libvirt-events\\|write-pages'",
        );
        assert_eq!(String::from_utf8_lossy(&hidden.stdout), "");
    });
}

#[test]
fn neither_upgrade_nor_downgrade_touches_a_live_vm_or_loses_a_migration() {
    on_each_release("upgrades over a running migration", |site| {
        site.debian.install(1);
        let first = version(site);
        let begun = site.settle();
        site.debian.run(&format!("echo '# ours' >>{DEFAULTS}"));
        for (revision, port) in [(2, Port::new(2)), (1, Port::new(3))] {
            let tap = site.host.plug(&port.interface, port.tap_mac());
            let driver = site.driver(&port);
            let _uid = driver.start(SOURCE, TARGET);
            wait::until(STARTED, "the tap of the arriving VM is watched", || {
                let status = site.status();
                let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
                endpoints.iter().any(|it| it["interface"] == port.interface.as_str() && it["watch"].is_u64())
            });
            let hypervisor = tap.open();
            let old = site.pid(UNIT);
            let command = site.debian.command(&debian::install(revision)).stdout(Stdio::null()).spawn();
            let mut command = command.expect("util-linux is installed");
            // While the old agent is gone and before the new one has begun, as far as can be seen from outside.
            wait::until(STARTED, "the old agent ends", || {
                !site.debian.path(&format!("/proc/{old}")).exists()
            });
            hypervisor.send(&frames::rarp(port.mac));
            assert!(command.wait().expect("it is a child").success());
            site.wait_metrics(&port, &[ELEVATED]);
            driver.succeed_extended(SOURCE, TARGET);
            site.wait_metrics(&port, &[NORMAL]);
            assert_eq!(site.state(UNIT), "active");
            assert!(version(site).ends_with(&format!("-{revision}")), "{}", version(site));
            site.assert_untouched(begun);
        }
        assert_eq!(version(site), first);
        assert!(
            site.debian.run(&format!("cat {DEFAULTS}")).ends_with("# ours\n"),
            "the file of the administrator's"
        );
    });
}

#[test]
fn an_upgrade_starts_nothing_that_was_stopped() {
    on_each_release("an upgrade of a stopped agent", |site| {
        site.debian.install(1);
        let begun = site.settle();
        site.debian.run("systemctl stop cutover");
        site.debian.install(2);
        assert_eq!(site.state(UNIT), "inactive");
        site.debian.run("systemctl start cutover");
        site.assert_untouched(begun);
    });
}

#[test]
fn removal_and_purge_leave_routes_of_live_vms_alone() {
    on_each_release("removal and purge", |site| {
        site.debian.install(1);
        let begun = site.settle();
        let said = site.debian.run("apt-get remove --yes --quiet cutover");
        assert!(said.contains("Routes of VMs stay in the kernel"), "{said}");
        assert_eq!(site.state(UNIT), "inactive");
        site.debian
            .run(&format!("! test -e /usr/bin/cutover; test -e {DEFAULTS}; test -d /sys/fs/bpf/cutover"));
        site.assert_untouched(begun);

        // As on the first day: what was enabled is started, and takes over what is there.
        site.debian.install(1);
        assert_eq!(site.state(UNIT), "active", "{}", site.journal());
        let _ = site.settle();
        site.assert_untouched(begun);

        let said = site.debian.run("apt-get purge --yes --quiet cutover");
        assert!(said.contains("the routes of VMs stay until the next boot"), "{said}");
        assert_eq!(
            site.debian.run("find /etc/systemd/system -xtype l; ls /etc/default | grep cutover || true"),
            ""
        );
        site.assert_untouched(begun);

        // And for a host that has nothing to do with it any more.
        site.debian.install(1);
        let _ = site.settle();
        site.debian.run("systemctl stop cutover; cutover cleanup; apt-get purge --yes --quiet cutover");
        site.wait_metrics(&site.port, &[]);
        site.debian.run("! test -e /sys/fs/bpf/cutover; ! test -e /run/cutover");
    });
}
