//! A whole migration with other versions of FRR than the installed one.

use crate::mixed::migrate;
use cutover_tests::Release;
use cutover_tests::fabric::Shape;

#[test]
fn frr_10_3_in_a_full_mesh() {
    with(Release::Frr10, Shape::Mesh);
}

#[test]
fn frr_10_3_through_a_tor() {
    with(Release::Frr10, Shape::Tor);
}

#[test]
fn frr_10_7_in_a_full_mesh() {
    with(Release::Frr107, Shape::Mesh);
}

#[test]
fn frr_10_7_through_a_tor() {
    with(Release::Frr107, Shape::Tor);
}

fn with(release: Release, shape: Shape) {
    if release.is_there("a migration") {
        migrate(release, release, shape);
    }
}
