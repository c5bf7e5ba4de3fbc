//! BIRD: versions 2 and 3, which have both families in one file, and version 1.6, which has a daemon and a file for each.
//!
//! The filters are the same; what differs is how a protocol block is written.

mod render;
mod snippet;
#[cfg(test)]
mod tests;

use super::{Family, KernelMetric, Parameters};
use render::{Dialect, File};
use snippet::Snippet;

/// There is no metric between elevated and normal, which routes from BGP need.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{elevated} = {value}: one less than {normal}, so no metric is left between the two for the routes from BGP, which have to \
     win over a host's own normal route and lose against its own elevated one; lower {elevated} by one at least"
)]
pub struct NoMetricBetween {
    elevated: &'static str,
    normal: &'static str,
    value: u32,
}

/// Which BIRD reads a configuration with both families. Either takes the other's; what is good for the one is not for the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Version {
    /// BIRD 2
    #[default]
    #[cfg_attr(feature = "clap", value(name = "2"))]
    Two,
    /// BIRD 3
    #[cfg_attr(feature = "clap", value(name = "3"))]
    Three,
}

/// bird.conf of a host with BIRD 2 or 3.
///
/// # Errors
/// When the priorities leave no metric for routes from BGP.
pub fn configuration(
    parameters: &Parameters,
    metric: KernelMetric,
    version: Version,
) -> Result<String, NoMetricBetween> {
    Ok(file(parameters, metric, version)?.to_string())
}

/// What a host that has a bird.conf for BIRD 2 or 3 adds to it.
///
/// # Errors
/// When the priorities leave no metric for routes from BGP.
pub fn snippet(
    parameters: &Parameters,
    metric: KernelMetric,
    version: Version,
) -> Result<String, NoMetricBetween> {
    Ok(Snippet(file(parameters, metric, version)?).to_string())
}

/// bird.conf (IPv4) or bird6.conf (IPv6) of a host with BIRD 1.6.
///
/// # Errors
/// When the priorities leave no metric for routes from BGP.
pub fn configuration_1(
    parameters: &Parameters,
    metric: KernelMetric,
    family: Family,
) -> Result<String, NoMetricBetween> {
    Ok(file_1(parameters, metric, family)?.to_string())
}

/// What a host that has such a file for BIRD 1.6 adds to it.
///
/// # Errors
/// When the priorities leave no metric for routes from BGP.
pub fn snippet_1(
    parameters: &Parameters,
    metric: KernelMetric,
    family: Family,
) -> Result<String, NoMetricBetween> {
    Ok(Snippet(file_1(parameters, metric, family)?).to_string())
}

fn file(
    parameters: &Parameters,
    metric: KernelMetric,
    version: Version,
) -> Result<File<'_>, NoMetricBetween> {
    let dialect = match version {
        Version::Two => Dialect::Two,
        Version::Three => Dialect::Three,
    };
    let families = [Family::Ipv4, Family::Ipv6];
    let families = families.into_iter().filter(|family| parameters.priorities(*family).is_some()).collect();
    possible(File { parameters, families, dialect, metric })
}

fn file_1(
    parameters: &Parameters,
    metric: KernelMetric,
    family: Family,
) -> Result<File<'_>, NoMetricBetween> {
    possible(File { parameters, families: vec![family], dialect: Dialect::One, metric })
}

/// A file, if there is a metric for the routes from BGP.
fn possible(file: File<'_>) -> Result<File<'_>, NoMetricBetween> {
    for &family in &file.families {
        if let Some(priorities) = file.parameters.priorities(family)
            && priorities.between().is_none()
        {
            let (elevated, normal) = match family {
                Family::Ipv4 => ("IPv4ElevatedRoutePriority", "IPv4NormalRoutePriority"),
                Family::Ipv6 => ("IPv6ElevatedRoutePriority", "IPv6NormalRoutePriority"),
            };
            return Err(NoMetricBetween { elevated, normal, value: priorities.elevated });
        }
    }
    Ok(file)
}
