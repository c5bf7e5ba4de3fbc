//! Which interfaces and addresses the daemon finds on the stage, and where its neighbours are: those of the host, and where the
//! configuration is not for them, invented ones.

use super::observed::Session;
use super::speaker::{Expected, Part};
use super::stage::Stage;
use super::text::Named;
use cutover_engine::InterfacePrefixes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// LIMIT: a host has a handful of links that are not VMs'; more of them are not needed to find a neighbour.
const LINKS_MAX: usize = 32;
/// LIMIT: IFNAMSIZ without the zero.
const NAME_MAX: usize = 15;
/// An interface when nothing has a name.
const UPLINK: &str = "uplink0";
/// LIMIT: linkwatch gives a new link its address within milliseconds.
const ADDRESS_WITHIN: Duration = Duration::from_secs(2);

/// The links of the stage.
pub(super) struct Scenery<'a> {
    stage: &'a Stage,
    named: &'a Named,
    links: Vec<Link>,
    /// Which one was invented.
    invented: Option<usize>,
    /// Who else has an address.
    neighbours: Vec<IpAddr>,
}

#[derive(Debug)]
struct Link {
    name: String,
    beyond: String,
    is_tap: bool,
    own: Vec<IpNet>,
    theirs: Vec<IpNet>,
}

impl<'a> Scenery<'a> {
    /// The host's links, and those that the configuration names.
    pub(super) fn build(
        stage: &'a Stage,
        host: &Value,
        named: &'a Named,
        workloads: &InterfacePrefixes,
    ) -> io::Result<Self> {
        let mut scenery = Self { stage, named, links: Vec::new(), invented: None, neighbours: Vec::new() };
        for link in host.as_array().into_iter().flatten() {
            let Some(name) = link["ifname"].as_str() else { continue };
            let addresses: Vec<IpNet> = addresses(link).collect();
            if name == "lo" {
                addresses
                    .iter()
                    .filter(|it| !it.addr().is_loopback())
                    .try_for_each(|it| scenery.on_loopback(it.addr()))?;
            } else if !workloads.cover(name) && !addresses.is_empty() && scenery.links.len() < LINKS_MAX {
                let place = scenery.link(name)?;
                addresses
                    .iter()
                    .filter(|it| !is_link_local(it.addr()))
                    .try_for_each(|it| scenery.give(place, *it))?;
            }
        }
        for (name, address) in &named.addresses {
            if name == "lo" {
                scenery.on_loopback(address.addr())?;
            } else if !workloads.cover(name) {
                let place = scenery.called(name)?;
                scenery.give(place, *address)?;
            }
        }
        for pattern in &named.interfaces {
            let is_there = scenery.links.iter().any(|link| fits(pattern, &link.name));
            if pattern != "lo" && pattern != "*" && !is_there && !workloads.cover(pattern) {
                let name = instance(pattern);
                if (1..=NAME_MAX).contains(&name.len()) && scenery.links.len() < LINKS_MAX {
                    let place = scenery.link(&name)?;
                    scenery.invented.get_or_insert(place);
                }
            }
        }
        Ok(scenery)
    }

    /// All neighbours, before the first one is placed.
    pub(super) fn expect(&mut self, sessions: &[Session]) {
        self.neighbours = sessions.iter().filter_map(|session| session.neighbour).collect();
    }

    /// Puts the neighbour of a session where the daemon looks for it.
    pub(super) fn place(
        &mut self,
        session: &Session,
        expected: Expected,
        number: usize,
    ) -> Result<Part, String> {
        let placed = match (session.neighbour, &session.interface) {
            (Some(neighbour), _) => self.placed(session, neighbour, expected, number),
            (None, Some(interface)) => self.unnumbered(session, interface, expected, number),
            (None, None) => return Err("nobody knows who it is with".to_owned()),
        };
        placed.map_err(|error| error.to_string())
    }

    /// Whoever is at the other end of an interface.
    fn unnumbered(
        &mut self,
        session: &Session,
        interface: &str,
        expected: Expected,
        number: usize,
    ) -> io::Result<Part> {
        let place = self.called(interface)?;
        let beyond = self.links[place].beyond.clone();
        let answer = || self.stage.ask_beyond(&["address", "show", "dev", &beyond]);
        let Some(neighbour) = link_local(answer)?.first().copied() else {
            return Err(io::Error::other("interfaces have no link-local address here"));
        };
        self.links[place].theirs.push(with_network(neighbour));
        let part = self.placed(session, neighbour, expected, number)?;
        Ok(Part { is_unnumbered: true, ..part })
    }

    fn placed(
        &mut self,
        session: &Session,
        neighbour: IpAddr,
        expected: Expected,
        number: usize,
    ) -> io::Result<Part> {
        let (place, daemon) = if is_link_local(neighbour) {
            self.beside(session, neighbour)?
        } else if let Some(place) = self.link_to(neighbour) {
            let own = self.links[place].own.iter().filter(|own| own.contains(&neighbour)).map(IpNet::addr);
            (place, own.collect())
        } else {
            self.invent(neighbour)?
        };
        let ipv6 = self.ipv6(place)?;
        let link = &self.links[place];
        let beyond = link.beyond.clone();
        let scope = self.stage.beyond(move || if_nametoindex(beyond.as_str()))?;
        let number = u32::try_from(number).unwrap_or_default();
        // 198.18.0.0/15 is for tests (RFC 2544).
        let router_id = u32::from(Ipv4Addr::new(198, 18, 77, 1)) + number;
        // Whoever has an address of its own for this uses it, wherever that is.
        let same = |address: &&IpAddr| address.is_ipv4() == neighbour.is_ipv4() && !is_link_local(**address);
        let locals = self.named.locals.iter().filter(same).copied();
        let daemon = daemon.into_iter().chain(locals).collect();
        let passwords = self.named.passwords.clone();
        Ok(Part { own: neighbour, daemon, scope, expected, router_id, ipv6, is_unnumbered: false, passwords })
    }

    /// The host's way out, as `ip` takes it: a gateway, if anybody has an address of the family.
    pub(super) fn way_out(&self, is_ipv6: bool) -> Option<String> {
        let is_right = |address: &IpAddr| address.is_ipv6() == is_ipv6 && !is_link_local(*address);
        let gateway = self.links.iter().find_map(|link| {
            let theirs = link.theirs.iter().map(IpNet::addr).find(is_right)?;
            Some(format!("via {theirs} dev {}", link.name))
        });
        gateway.or_else(|| Some(format!("dev {}", self.links.iter().find(|link| !link.is_tap)?.name)))
    }

    /// An interface of VMs.
    pub(super) fn tap(&mut self, prefix: &str) -> io::Result<String> {
        let name: String = format!("{prefix}0a1b2c3d").chars().take(NAME_MAX).collect();
        let place = self.link(&name)?;
        self.links[place].is_tap = true;
        Ok(name)
    }

    fn link(&mut self, name: &str) -> io::Result<usize> {
        let place = self.links.len();
        let beyond = format!("beyond{place}");
        self.stage.link(name, &beyond)?;
        let (own, theirs) = (Vec::new(), Vec::new());
        self.links.push(Link { name: name.to_owned(), beyond, is_tap: false, own, theirs });
        Ok(place)
    }

    /// The link of this name, made if it is not there.
    fn called(&mut self, name: &str) -> io::Result<usize> {
        let place = self.links.iter().position(|link| link.name == name);
        place.map_or_else(|| self.link(name), Ok)
    }

    fn give(&mut self, place: usize, address: IpNet) -> io::Result<()> {
        if self.links.iter().any(|link| link.own.contains(&address)) {
            return Ok(());
        }
        let link = &mut self.links[place];
        self.stage.ip(&[format!("address add {address} dev {}{}", link.name, nodad(address.addr()))])?;
        link.own.push(address);
        Ok(())
    }

    fn give_beyond(&mut self, place: usize, address: IpNet) -> io::Result<()> {
        let link = &mut self.links[place];
        if link.theirs.iter().any(|it| it.addr() == address.addr()) {
            return Ok(());
        }
        self.stage.beyond_ip(&[format!(
            "address add {address} dev {}{}",
            link.beyond,
            nodad(address.addr())
        )])?;
        link.theirs.push(address);
        Ok(())
    }

    fn on_loopback(&self, address: IpAddr) -> io::Result<()> {
        self.stage.ip(&[format!("address replace {} dev lo", IpNet::from(address))])
    }

    /// The link whose network the neighbour is in, with the neighbour at its other end.
    fn link_to(&mut self, neighbour: IpAddr) -> Option<usize> {
        let is_there = |own: &IpNet| own.contains(&neighbour) && own.addr() != neighbour;
        let place = self.links.iter().position(|link| link.own.iter().any(is_there))?;
        let bits = self.links[place].own.iter().find(|own| is_there(own))?.prefix_len();
        self.give_beyond(place, IpNet::new(neighbour, bits).ok()?).ok()?;
        Some(place)
    }

    /// A link-local neighbour.
    fn beside(&mut self, session: &Session, neighbour: IpAddr) -> io::Result<(usize, Vec<IpAddr>)> {
        let place = match &session.interface {
            Some(name) => self.called(name)?,
            None => self.uplink()?,
        };
        for local in self.named.locals.iter().filter(|local| is_link_local(**local)) {
            self.give(place, with_network(*local))?;
        }
        self.give_beyond(place, with_network(neighbour))?;
        let name = self.links[place].name.clone();
        let mut found = link_local(|| self.stage.ask(&["address", "show", "dev", &name]))?;
        // Those that the configuration names first.
        found.sort_by_key(|address| !self.named.locals.contains(address));
        Ok((place, found))
    }

    fn uplink(&mut self) -> io::Result<usize> {
        if let Some(place) = self.invented {
            return Ok(place);
        }
        let taken = |name: &str| self.links.iter().any(|link| link.name == name);
        let mut name = UPLINK.to_owned();
        for number in 1..LINKS_MAX {
            if !taken(&name) {
                break;
            }
            name = format!("uplink{number}");
        }
        let place = self.link(&name)?;
        self.invented = Some(place);
        Ok(place)
    }

    /// Addresses that would have to be on another host than this one.
    fn invent(&mut self, neighbour: IpAddr) -> io::Result<(usize, Vec<IpAddr>)> {
        let place = self.uplink()?;
        let network = with_network(neighbour);
        let is_own = |address: &IpAddr| network.contains(address) && *address != neighbour;
        let named = || self.named.locals.iter().chain(&self.named.router_id);
        let own = named().copied().find(|address| is_own(address));
        let elsewhere: Vec<IpAddr> = self
            .named
            .locals
            .iter()
            .filter(|local| local.is_ipv4() == neighbour.is_ipv4() && !is_link_local(**local))
            .copied()
            .collect();
        if let (None, Some(local)) = (own, elsewhere.first().copied()) {
            self.behind(place, local, neighbour)?;
            return Ok((place, elsewhere));
        }
        let own = own.unwrap_or_else(|| free(network, &self.neighbours));
        let own = IpNet::new(own, network.prefix_len()).map_err(io::Error::other)?;
        self.give(place, own)?;
        self.give_beyond(place, network)?;
        Ok((place, vec![own.addr()]))
    }

    /// Both on loopbacks, with a network of its own between them.
    fn behind(&mut self, place: usize, local: IpAddr, neighbour: IpAddr) -> io::Result<()> {
        let (own, theirs): (IpNet, IpNet) = if neighbour.is_ipv4() {
            (net([169, 254, 77, 1].into(), 30), net([169, 254, 77, 2].into(), 30))
        } else {
            (net(between(1), 64), net(between(2), 64))
        };
        self.give(place, own)?;
        self.give_beyond(place, theirs)?;
        self.on_loopback(local)?;
        let (host, back) = (IpNet::from(neighbour), IpNet::from(local));
        self.stage.beyond_ip(&[
            format!("address replace {host} dev lo"),
            format!("route replace {back} via {}", own.addr()),
        ])?;
        self.stage.ip(&[format!("route replace {host} via {}", theirs.addr())])
    }

    /// An address of IPv6 at the other end, for next hops.
    fn ipv6(&mut self, place: usize) -> io::Result<Option<IpAddr>> {
        let is_global = |net: &&IpNet| net.addr().is_ipv6() && !is_link_local(net.addr());
        if let Some(there) = self.links[place].theirs.iter().find(is_global) {
            return Ok(Some(there.addr()));
        }
        let own = match self.links[place].own.iter().find(is_global) {
            Some(own) => *own,
            None => {
                let own = net(between(1), 64);
                // A host without IPv6 has nothing to say of it.
                if self.give(place, own).is_err() {
                    return Ok(None);
                }
                own
            }
        };
        let IpNet::V6(own) = own else { return Ok(None) };
        let theirs = Ipv6Addr::from(u128::from(own.network()) + 0x7777);
        self.give_beyond(place, net(theirs.into(), own.prefix_len()))?;
        Ok(Some(theirs.into()))
    }
}

/// The link-local addresses of a link, which a new one gets in a moment.
fn link_local(answer: impl Fn() -> io::Result<Value>) -> io::Result<Vec<IpAddr>> {
    let deadline = Instant::now() + ADDRESS_WITHIN;
    loop {
        let answer = answer()?;
        let found: Vec<IpAddr> =
            addresses(&answer[0]).map(|net| net.addr()).filter(|address| is_link_local(*address)).collect();
        if !found.is_empty() || Instant::now() > deadline {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn net(address: IpAddr, bits: u8) -> IpNet {
    IpNet::new(address, bits).expect("not more bits than there are")
}

/// A network of nobody's.
fn between(host: u16) -> IpAddr {
    Ipv6Addr::new(0xfd77, 0x7777, 0, 0, 0, 0, 0, host).into()
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// What is usual where it is not known.
fn with_network(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, 24).into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, 64).into(),
    }
}

/// An address in the network that nobody has.
fn free(network: IpNet, taken: &[IpAddr]) -> IpAddr {
    let candidates = (1..250_u8).rev().map(|host| match network.network() {
        IpAddr::V4(base) => IpAddr::from(Ipv4Addr::from(u32::from(base) + u32::from(host))),
        IpAddr::V6(base) => IpAddr::from(Ipv6Addr::from(u128::from(base) + u128::from(host))),
    });
    let mut candidates = candidates.into_iter();
    candidates.find(|address| !taken.contains(address)).unwrap_or(network.addr())
}

fn addresses(link: &Value) -> impl Iterator<Item = IpNet> + '_ {
    link["addr_info"].as_array().into_iter().flatten().filter_map(address)
}

fn address(info: &Value) -> Option<IpNet> {
    let bits = u8::try_from(info["prefixlen"].as_u64()?).ok()?;
    IpNet::new(info["local"].as_str()?.parse().ok()?, bits).ok()
}

/// Whether a name fits a pattern with at most one star, which is what interfaces are named by.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((begin, end)) => {
            name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
        }
        None => {
            pattern.len() == name.len() && pattern.bytes().zip(name.bytes()).all(|(a, b)| a == b || a == b'?')
        }
    }
}

/// A name that fits.
fn instance(pattern: &str) -> String {
    pattern.replace(['*', '?'], "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_their_patterns() {
        for (pattern, name, is_so) in [
            ("uplink*", "uplink0", true),
            ("eth?", "eth1", true),
            ("eth?", "eth10", false),
            ("eth0", "eth0", true),
            ("*", "x", true),
            ("a*b", "ab", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), is_so, "{pattern} {name}");
            assert!(fits(pattern, &instance(pattern)));
        }
    }

    #[test]
    fn an_address_that_nobody_has_is_found() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let taken = ["192.0.2.249", "192.0.2.248"].map(address);
        assert_eq!(free(with_network(taken[0]), &taken), address("192.0.2.247"));
    }
}
