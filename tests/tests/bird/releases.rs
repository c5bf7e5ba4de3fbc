//! A whole migration with other versions of BIRD than the installed one.

use crate::judging::Gaps;
use crate::migrations::migrate;
use cutover_tests::Release;
use cutover_tests::fabric::{Fabric, Shape};

#[test]
fn bird_3_in_a_full_mesh() {
    with(Release::Bird3, Shape::Mesh);
}

#[test]
fn bird_3_through_a_reflector() {
    with(Release::Bird3, Shape::Reflector);
}

#[test]
fn bird_3_through_a_tor() {
    with(Release::Bird3, Shape::Tor);
}

#[test]
fn bird_3_4_in_a_full_mesh() {
    with(Release::Bird34, Shape::Mesh);
}

#[test]
fn bird_3_4_through_a_tor() {
    with(Release::Bird34, Shape::Tor);
}

#[test]
fn bird_2_17_in_a_full_mesh() {
    with(Release::Bird217, Shape::Mesh);
}

fn with(release: Release, shape: Shape) {
    if release.is_there("a migration") {
        let races = release.is_bird_3() && shape == Shape::Mesh;
        migrate(&mut Fabric::new(release, shape), if races { Gaps::Race } else { Gaps::Ipv6 });
    }
}
