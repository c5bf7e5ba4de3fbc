//! Hosts that had a configuration before, and were told by `cutover bgp bird --snippet` what to add; and sessions that are signed,
//! and run between addresses that are on no subnet.

use crate::judging::Gaps;
use crate::migrations::migrate;
use cutover_tests::Release;
use cutover_tests::fabric::{Fabric, Manner};

#[test]
fn a_site_with_bird_2() {
    site_of(Release::Bird2);
}

#[test]
fn a_site_with_bird_3() {
    site_of(Release::Bird3);
}

#[test]
fn signed_sessions_with_bird_2() {
    guarded(Release::Bird2);
}

#[test]
fn signed_sessions_with_bird_3() {
    guarded(Release::Bird3);
}

/// A migration, and what the site announced before is announced still.
fn site_of(release: Release) {
    if !release.is_there("what a site adds to its configuration") {
        return;
    }
    let mut fabric = Fabric::behind_tor(release, Manner::Added);
    migrate(&mut fabric, Gaps::Ipv6);
    fabric.wait_services();
}

fn guarded(release: Release) {
    if !release.is_there("signed sessions") {
        return;
    }
    let mut fabric = Fabric::behind_tor(release, Manner::Guarded);
    fabric.assert_signed();
    migrate(&mut fabric, Gaps::Ipv6);
}
