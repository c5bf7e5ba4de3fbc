//! FRR: zebra and bgpd, from 8.4 on. Owns the recipe and the text; refuses priorities that FRR cannot carry.
//!
//! There is one file for both families. What zebra makes of a kernel metric is in `recipe`; docs/bgp-frr.md says what
//! was tried and what does not work.

mod recipe;
mod render;
mod snippet;
#[cfg(test)]
mod tests;

pub use recipe::{Refusal, Shortcoming};

use super::{Family, Parameters};
use recipe::Recipe;
use render::{Exchange, File};
use snippet::Snippet;

/// A text for FRR, and what it cannot do with these priorities; the text says that, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// `/etc/frr/frr.conf`, or what is added to it.
    pub text: String,
    /// One at most for each family.
    pub shortcomings: Vec<Shortcoming>,
}

/// The configuration of a host.
///
/// # Errors
/// When FRR cannot carry these priorities; the error names the setting to change.
pub fn configuration(parameters: &Parameters) -> Result<Configuration, Refusal> {
    let (file, shortcomings) = file(parameters)?;
    Ok(Configuration { text: file.to_string(), shortcomings })
}

/// What a host that has a configuration adds to it.
///
/// # Errors
/// When FRR cannot carry these priorities; the error names the setting to change.
pub fn snippet(parameters: &Parameters) -> Result<Configuration, Refusal> {
    let (file, shortcomings) = file(parameters)?;
    Ok(Configuration { text: Snippet(file).to_string(), shortcomings })
}

fn file(parameters: &Parameters) -> Result<(File<'_>, Vec<Shortcoming>), Refusal> {
    if let value @ (11 | 42 | 186..=198) = parameters.route_protocol {
        return Err(Refusal::RouteProtocol { value });
    }
    let families = [Family::Ipv4, Family::Ipv6].into_iter().filter_map(|family| exchange(parameters, family));
    let families = families.collect::<Result<Vec<_>, _>>()?;
    let shortcomings = families.iter().filter_map(Exchange::shortcoming).collect();
    Ok((File { parameters, families }, shortcomings))
}

/// How a family is exchanged, if there is somebody to exchange it with or nobody was named at all.
fn exchange(parameters: &Parameters, family: Family) -> Option<Result<Exchange, Refusal>> {
    let priorities = parameters.priorities(family)?;
    if !parameters.peers.is_empty() {
        parameters.peers_of(family).next()?;
    }
    let elevated = match family {
        Family::Ipv4 => "IPv4ElevatedRoutePriority",
        Family::Ipv6 => "IPv6ElevatedRoutePriority",
    };
    let normal = normal_setting(family);
    let recipe = Recipe::new((normal, priorities.normal), (elevated, priorities.elevated));
    Some(recipe.map(|recipe| Exchange { family, recipe }))
}

impl Exchange {
    fn shortcoming(&self) -> Option<Shortcoming> {
        let setting = normal_setting(self.family);
        match self.recipe.remote_distance {
            Some(_) => None,
            None => Some(Shortcoming::KeepsOwnRoute { setting, value: self.recipe.normal }),
        }
    }
}

const fn normal_setting(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4NormalRoutePriority",
        Family::Ipv6 => "IPv6NormalRoutePriority",
    }
}
