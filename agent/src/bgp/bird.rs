//! BIRD: versions 2 and 3, which have both families in one file, and version 1.6, which has a daemon and a file for each.
//!
//! The filters are the same; what differs is how a protocol block is written.

mod render;
#[cfg(test)]
mod tests;

use super::{Family, Parameters};
use render::{Dialect, File};

/// bird.conf of a host with BIRD 2 or 3.
#[must_use]
pub fn configuration(parameters: &Parameters) -> String {
    let families = [Family::Ipv4, Family::Ipv6];
    let families = families.into_iter().filter(|family| parameters.priorities(*family).is_some()).collect();
    File { parameters, families, dialect: Dialect::Two }.to_string()
}

/// bird.conf (IPv4) or bird6.conf (IPv6) of a host with BIRD 1.6.
#[must_use]
pub fn configuration_1(parameters: &Parameters, family: Family) -> String {
    File { parameters, families: vec![family], dialect: Dialect::One }.to_string()
}
