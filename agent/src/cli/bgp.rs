//! `cutover bgp`: a configuration of the BGP daemon that carries route priority, from the agent's settings.

mod sessions;

use super::{ConfigFile, Failure, accept, check_config, print};
use clap::{Args, Subcommand};
use cutover_bgp::{
    Community, Family, KernelMetric, Parameters, Peer, Peering, Priorities, Sessions, bird, frr,
};
use cutover_daemon::settings::Settings;
use sessions::SessionArguments;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;

/// Arguments of `cutover bgp`.
#[derive(Debug, Args)]
pub struct BgpArguments {
    /// Which daemon.
    #[command(subcommand)]
    pub daemon: Daemon,
}

/// The daemons that there are configurations for.
#[derive(Debug, Subcommand)]
pub enum Daemon {
    /// Prints bird.conf for BIRD 2 or 3, both families in one file
    Bird {
        /// Which BIRD reads it; with iBGP they differ in what a peer is told
        #[arg(long, value_enum, value_name = "VERSION", default_value = "2")]
        bird_version: bird::Version,
        /// The host.
        #[command(flatten)]
        bird: BirdArguments,
    },
    /// Prints bird.conf or bird6.conf for BIRD 1.6
    Bird1 {
        /// What to print: bird.conf has IPv4, bird6.conf has IPv6
        #[arg(long, value_enum, default_value = "ipv4")]
        family: Family,
        /// The host.
        #[command(flatten)]
        bird: BirdArguments,
    },
    /// Prints frr.conf for FRR 8.4 and later, both families in one file
    Frr(HostArguments),
}

/// What the settings do not say, with BIRD.
#[derive(Debug, Args)]
pub struct BirdArguments {
    /// Metric of routes from BGP in the kernel
    #[arg(long, value_enum, default_value = "fixed")]
    pub kernel_metric: KernelMetric,
    /// The host.
    #[command(flatten)]
    pub host: HostArguments,
}

/// What the settings do not say.
#[derive(Debug, Args)]
pub struct HostArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// How the host is connected to its peers
    #[arg(long, value_enum, default_value = "ibgp")]
    pub peering: Peering,
    /// AS number of the host
    #[arg(long = "as", value_name = "NUMBER", default_value = "64512", value_parser = clap::value_parser!(u32).range(1..))]
    pub autonomous_system: u32,
    /// BGP identifier of the host, usually its IPv4 address [default: the daemon's choice]
    #[arg(long, value_name = "ADDRESS")]
    pub router_id: Option<Ipv4Addr>,
    /// A peer, such as another host, a route reflector or a top-of-rack router; may be given again and again
    #[arg(long = "peer", value_name = "ADDRESS[@AS]")]
    pub peers: Vec<Peer>,
    /// Mark of elevated routes, with eBGP
    #[arg(long, value_name = "HIGH:LOW", default_value = "65000:100")]
    pub community: Community,
    /// Print only what a host that has a configuration adds to it: filters, and in comments which lines go where
    #[arg(long, conflicts_with_all = ["password_file", "bfd", "multihop", "sources"])]
    pub snippet: bool,
    /// The sessions.
    #[command(flatten)]
    pub sessions: SessionArguments,
}

/// Prints the configuration.
///
/// # Errors
/// The settings cannot be used, or the arguments contradict each other.
pub fn run(arguments: &BgpArguments) -> Result<(), Failure> {
    match &arguments.daemon {
        Daemon::Bird { bird_version, bird: BirdArguments { kernel_metric, host } } => {
            let given = Given::by(host)?;
            let print = if host.snippet { bird::snippet } else { bird::configuration };
            given.print('#', &possible(print(&given.parameters, *kernel_metric, *bird_version))?)
        }
        Daemon::Bird1 { family, bird: BirdArguments { kernel_metric, host } } => {
            let given = Given::by(host)?;
            if given.parameters.priorities(*family).is_none() {
                return Err(Failure::usage(
                    "--family ipv6: Ipv6Support is false in the settings; set it to true first",
                ));
            }
            let print = if host.snippet { bird::snippet_1 } else { bird::configuration_1 };
            given.print('#', &possible(print(&given.parameters, *kernel_metric, *family))?)
        }
        Daemon::Frr(host) => {
            let given = Given::by(host)?;
            let print = if host.snippet { frr::snippet } else { frr::configuration };
            let frr::Configuration { text, shortcomings } = possible(print(&given.parameters))?;
            shortcomings.iter().for_each(|shortcoming| warn(shortcoming));
            given.print('!', &text)
        }
    }
}

/// A text, unless the daemon cannot carry the priorities.
fn possible<T, E: std::error::Error>(configuration: Result<T, E>) -> Result<T, Failure> {
    configuration.map_err(|refusal| Failure::configuration(refusal.to_string()))
}

fn warn(problem: &dyn Display) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "cutover: warning: {problem}");
}

/// What the configuration is made of.
struct Given {
    parameters: Parameters,
    /// What could not be read, and might have said something else.
    unread: Vec<String>,
}

impl Given {
    fn by(arguments: &HostArguments) -> Result<Self, Failure> {
        let (loaded, unread) = check_config::with_resources(&arguments.file.sources()?);
        unread.iter().for_each(|problem| warn(problem));
        let settings = accept(loaded)?.settings;
        for peer in &arguments.peers {
            check(arguments.peering, arguments.autonomous_system, peer)?;
            if peer.address.is_ipv6() && !settings.ipv6_support {
                return Err(Failure::usage(format!(
                    "--peer {}: Ipv6Support is false in the settings, so no IPv6 routes are exchanged; leave the peer out or set it to true",
                    peer.address
                )));
            }
        }
        let sessions = arguments.sessions.read(arguments.peering, &settings)?;
        Ok(Self { parameters: from_settings(arguments, sessions, &settings), unread })
    }

    /// What was not read is in the file, too: whoever installs it may never see what this command said.
    fn print(&self, comment: char, text: &str) -> Result<(), Failure> {
        let mut whole = String::new();
        for problem in &self.unread {
            let problem = problem.replace(char::is_control, " ");
            whole.push_str(&format!(
                "{comment} WARNING: the settings may not be all that there are: {problem}\n"
            ));
        }
        whole.push_str(text);
        print(&whole)
    }
}

fn from_settings(arguments: &HostArguments, sessions: Sessions, settings: &Settings) -> Parameters {
    let ipv6 = Priorities {
        normal: settings.ipv6_normal_route_priority,
        elevated: settings.ipv6_elevated_route_priority,
    };
    Parameters {
        peering: arguments.peering,
        autonomous_system: arguments.autonomous_system,
        router_id: arguments.router_id,
        peers: arguments.peers.clone(),
        sessions,
        community: arguments.community,
        ipv4: Priorities {
            normal: settings.ipv4_normal_route_priority,
            elevated: settings.ipv4_elevated_route_priority,
        },
        ipv6: settings.ipv6_support.then_some(ipv6),
        route_protocol: settings.device_route_protocol,
        interface_prefixes: settings.interface_prefix.iter().map(str::to_owned).collect(),
        bridges: settings.cutover_bridges.iter().cloned().collect(),
    }
}

/// That the AS of a peer fits the peering.
fn check(peering: Peering, own: u32, peer: &Peer) -> Result<(), Failure> {
    let address = peer.address;
    match (peering, peer.autonomous_system) {
        (Peering::Ibgp, Some(other)) if other != own => Err(Failure::usage(format!(
            "--peer {address}@{other}: an iBGP peer has the host's own AS, {own}; leave @{other} out or use --peering ebgp"
        ))),
        (Peering::Ebgp, None) => Err(Failure::usage(format!(
            "--peer {address}: an eBGP peer has an AS of its own; write --peer {address}@NUMBER"
        ))),
        (Peering::Ebgp, Some(other)) if other == own => Err(Failure::usage(format!(
            "--peer {address}@{other}: that is the host's own AS; use another one or --peering ibgp"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_fit_the_peering() {
        let peer = |text: &str| text.parse::<Peer>().unwrap();
        for (peering, text, right) in [
            (Peering::Ibgp, "192.0.2.1", true),
            (Peering::Ibgp, "192.0.2.1@64512", true),
            (Peering::Ibgp, "192.0.2.1@64513", false),
            (Peering::Ebgp, "192.0.2.1@64513", true),
            (Peering::Ebgp, "192.0.2.1@64512", false),
            (Peering::Ebgp, "192.0.2.1", false),
        ] {
            assert_eq!(check(peering, 64512, &peer(text)).is_ok(), right, "{peering:?} {text}");
        }
    }
}
