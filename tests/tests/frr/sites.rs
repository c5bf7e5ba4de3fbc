//! Hosts that had a configuration before, and were told by `cutover bgp frr --snippet` what to add; and sessions that are signed,
//! and run between addresses that are on no subnet.

use crate::mixed::migrate_in;
use cutover_tests::Release;
use cutover_tests::fabric::{Fabric, Manner};

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
    fabric.wait_services();
}

fn guarded(release: Release) {
    if !release.is_there("signed sessions") {
        return;
    }
    let mut fabric = Fabric::behind_tor(release, Manner::Guarded);
    fabric.assert_signed();
    migrate_in(&mut fabric);
}
