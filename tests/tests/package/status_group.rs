//! Operators who are not root see how things stand, and change nothing.

use crate::site::{STARTED, Site, UNIT, on_each_release};
use cutover_tests::wait;

/// Runs a command as this user; what it said, on either channel, and whether it went well.
fn run_as(site: &Site, user: &str, command: &str) -> (String, bool) {
    let output = site.debian.try_run(&format!("exec setpriv --reuid={user} --init-groups -- {command} 2>&1"));
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

#[test]
fn members_of_the_status_group_see_everything_and_change_nothing() {
    on_each_release("the status group", |site| {
        site.debian.run(
            "echo 'noc:x:900:supplementary' >>/etc/group
             echo 'supplementary:x:901:65534::/:/bin/sh' >>/etc/passwd
             echo 'primary:x:902:900::/:/bin/sh' >>/etc/passwd
             echo 'stranger:x:903:65534::/:/bin/sh' >>/etc/passwd
             echo 'CutoverStatusGroup = noc' >>/etc/calico/felix.cfg",
        );
        site.debian.install(1);
        assert_eq!(site.state(UNIT), "active");
        for user in ["supplementary", "primary"] {
            let (said, is_fine) = run_as(site, user, "cutover status");
            assert!(is_fine && said.contains(&site.port.interface), "{user}: {said}");
            let (said, is_fine) = run_as(site, user, "cutover timeline");
            assert!(is_fine, "{user}: {said}");
            let (said, is_fine) = run_as(site, user, "cutover release 1");
            assert!(!is_fine && said.contains("only root may ask this"), "{user}: {said}");
        }
        for command in ["cutover status", "cutover timeline"] {
            let (said, is_fine) = run_as(site, "stranger", command);
            assert!(!is_fine && said.contains("only root may ask this"), "{said}");
        }
        // What the agent reads again when it starts is nobody else's business.
        let (said, is_fine) = run_as(site, "primary", "cat /run/cutover/state.json");
        assert!(!is_fine && said.contains("Permission denied"), "{said}");

        site.debian.run("sed -i /CutoverStatusGroup/d /etc/calico/felix.cfg; systemctl restart cutover");
        wait::until(STARTED, "only root may ask again", || !run_as(site, "primary", "cutover status").1);
        assert!(site.debian.run("cutover status").contains(&site.port.interface));
    });
}
