//! Hosts that had a configuration before, and were told by `cutover bgp frr --snippet` what to add; and sessions that are signed,
//! and run between addresses that are on no subnet.

use crate::mixed::migrate_in;
use cutover_tests::fabric::{CONVERGED, Fabric, Manner, Who};
use cutover_tests::{Release, site, wait};

#[test]
fn a_site_with_frr_8_4() {
    site_of(Release::Frr8);
}

#[test]
fn a_site_with_frr_10_3() {
    site_of(Release::Frr10);
}

#[test]
fn signed_sessions_with_frr_8_4() {
    guarded(Release::Frr8);
}

#[test]
fn signed_sessions_with_frr_10_3() {
    guarded(Release::Frr10);
}

/// A migration, and what the site announced before is announced still.
fn site_of(release: Release) {
    if !release.is_there("what a site adds to its configuration") {
        return;
    }
    let mut fabric = Fabric::behind_tor(release, Manner::Added);
    migrate_in(&mut fabric);
    let third = fabric.router(Who::Third).speaker;
    for (number, autonomous_systems) in [(1, "64512 64513"), (2, "64512 64514")] {
        let knows = || third.path(site::service(number)).map(|path| path.autonomous_systems);
        let is_so = || knows().as_deref() == Some(autonomous_systems);
        wait::until(CONVERGED, format_args!("the service of host {number} is announced"), is_so);
    }
}

fn guarded(release: Release) {
    if !release.is_there("signed sessions") {
        return;
    }
    let mut fabric = Fabric::behind_tor(release, Manner::Guarded);
    for (who, sessions) in [(Who::Source, 2), (Who::Target, 2), (Who::Third, 2), (Who::Middle, 6)] {
        assert_eq!(fabric.router(who).signed_sessions(), sessions, "{who:?}");
    }
    migrate_in(&mut fabric);
}
