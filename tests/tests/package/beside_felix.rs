//! A host with Felix: the package starts nothing that would stop it.

use crate::site::{Site, UNIT, on_each_release};

const BESIDE: &str = "cutover-beside-felix.service";
const FELIX: &str = "calico-felix.service";

/// The unit of Felix's package, with a process that does nothing.
fn start_felix(site: &Site) {
    let unit = "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
    site.debian.write(&format!("/usr/lib/systemd/system/{FELIX}"), unit);
    site.debian.run("systemctl daemon-reload; systemctl enable --now calico-felix");
}

#[test]
fn felix_is_never_stopped_by_the_package() {
    on_each_release("an installation beside Felix", |site| {
        start_felix(site);
        let felix = site.pid(FELIX);
        let said = site.debian.install(1);
        assert!(said.contains("Felix is on this host, so nothing was started"), "{said}");
        assert_eq!([UNIT, BESIDE].map(|unit| site.state(unit)), ["inactive", "inactive"]);
        assert_eq!(site.pid(FELIX), felix, "Felix was stopped");

        // As docs/from-felix.md says.
        site.debian.run(
            "cp -r /usr/share/doc/cutover/examples/calico-felix.service.d /etc/systemd/system/
             systemctl daemon-reload
             systemctl restart calico-felix
             systemctl enable --now cutover-beside-felix",
        );
        let felix = site.pid(FELIX);
        let begun = site.settle();
        assert_eq!(site.status()["role"], "routes");

        let agent = site.pid(BESIDE);
        site.debian.install(2);
        assert_eq!(site.state(BESIDE), "active", "{}", site.journal());
        assert_ne!(site.pid(BESIDE), agent, "the new version runs");
        assert_eq!(site.state(UNIT), "inactive");
        assert_eq!(site.pid(FELIX), felix, "Felix was stopped");

        let said = site.debian.run("apt-get remove --yes --quiet cutover");
        assert!(said.contains("/etc/systemd/system/calico-felix.service.d still tells Felix"), "{said}");
        assert_eq!(site.pid(FELIX), felix, "Felix was stopped");
        site.assert_untouched(begun);
    });
}

#[test]
fn of_the_units_one_runs_at_a_time() {
    on_each_release("both units", |site| {
        site.debian.install(1);
        let begun = site.settle();
        site.debian.run("systemctl start cutover-beside-felix");
        assert_eq!([UNIT, BESIDE].map(|unit| site.state(unit)), ["inactive", "active"]);
        site.debian.run("systemctl start cutover");
        assert_eq!([UNIT, BESIDE].map(|unit| site.state(unit)), ["active", "inactive"]);
        site.assert_untouched(begun);
    });
}
