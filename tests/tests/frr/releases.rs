//! A whole migration with another version of FRR than the installed one.

use crate::mixed::migrate;
use cutover_tests::Release;
use cutover_tests::fabric::Shape;

#[test]
fn frr_10_in_a_full_mesh() {
    with_frr_10(Shape::Mesh);
}

#[test]
fn frr_10_through_a_tor() {
    with_frr_10(Shape::Tor);
}

fn with_frr_10(shape: Shape) {
    if Release::Frr10.is_there("a migration") {
        migrate(Release::Frr10, Release::Frr10, shape);
    }
}
