//! What had to be the case at every moment, by what was recorded of every host's routes.

use crate::guest::{Arrival, Guest, Stay};
use crate::model::ELEVATED;
use crate::plan::{GuestNumber, HostNumber};
use crate::stage::{Node, host_name};
use cutover_engine::BootTime;
use cutover_tests::route_history::{Change, History};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::time::Duration;

/// LIMIT: how late an agent may hear of what others did, without what it waited for a processor.
const LATE: Duration = Duration::from_secs(8);

/// Somebody took routes of a virtual machine away in this time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuse {
    pub(crate) guest: GuestNumber,
    pub(crate) host: HostNumber,
    pub(crate) from: BootTime,
    pub(crate) to: BootTime,
}

/// What was wrong; `what` is the same for the same kind of fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) what: &'static str,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, text: text.into() }
    }
}

/// The routes of one virtual machine to one destination on every host.
struct Lives<'a> {
    guest: &'a Guest,
    excuses: &'a [Excuse],
    /// How late an agent may hear of what others did.
    late: Duration,
    /// By host: from when on which metrics.
    moments: Vec<Vec<(BootTime, Vec<u32>)>>,
    /// By host: when forwarding began.
    forwarded: Vec<Vec<BootTime>>,
}

/// Judges everything that was recorded.
pub(crate) fn judge(nodes: &[Node], guests: &[Guest], excuses: &[Excuse]) -> Result<(), Failure> {
    let histories: Vec<History> = nodes.iter().map(|node| node.watch.history()).collect();
    for (node, history) in nodes.iter().zip(&histories) {
        let is_own = |at: BootTime| node.outages.iter().any(|(from, to)| *from <= at && at <= *to);
        let mut written = history.writes_to(node.uplink);
        written.retain(|event| !is_own(event.at));
        if !written.is_empty() {
            let text = format!("{}: {written:#?}", node.host.name());
            return Err(Failure::new("what is somebody else's was written", text));
        }
    }
    let split: Vec<BTreeMap<IpNet, History>> = histories.iter().map(History::by_destination).collect();
    let late = LATE + nodes.iter().map(Node::starved_for).max().unwrap_or_default();
    let forwards: Vec<History> = nodes.iter().map(|node| node.forwards.history()).collect();
    for guest in guests {
        for to in guest.port.routed() {
            let moments =
                split.iter().zip(nodes).map(|(split, node)| moments(split.get(&to), to, node.uplink));
            let forwarded = forwards.iter().map(|history| additions(history, to));
            let (moments, forwarded) = (moments.collect(), forwarded.collect());
            let lives = Lives { guest, excuses, late, moments, forwarded };
            lives.judge().map_err(|failure| Failure { text: lives.story(to, nodes, &failure), ..failure })?;
        }
    }
    Ok(())
}

/// From when on there were which metrics of the agent's routes.
fn moments(history: Option<&History>, to: IpNet, uplink: u32) -> Vec<(BootTime, Vec<u32>)> {
    let Some(history) = history else { return vec![(BootTime(0), Vec::new())] };
    let mut moments: Vec<(BootTime, Vec<u32>)> = Vec::new();
    for moment in history.moments(to) {
        let own = moment.routes.iter().filter(|route| route.ifindex != uplink);
        let metrics: Vec<u32> = own.map(|route| route.metric).collect();
        if moments.last().is_none_or(|(_, last)| *last != metrics) {
            moments.push((moment.since.unwrap_or(BootTime(0)), metrics));
        }
    }
    moments
}

fn additions(history: &History, to: IpNet) -> Vec<BootTime> {
    let is_it = |change: &Change| matches!(change, Change::Added { route, .. } if route.destination == to);
    history.events.iter().filter(|event| is_it(&event.change)).map(|event| event.at).collect()
}

impl Lives<'_> {
    fn judge(&self) -> Result<(), Failure> {
        self.never_absent()?;
        self.elevated_only_where_it_arrived()?;
        self.nowhere_else()?;
        self.never_forwarded_from_where_it_is()
    }

    /// When a host first had a route from some moment on.
    fn routed_from(&self, host: HostNumber, from: BootTime) -> Option<BootTime> {
        let moments = &self.moments[host];
        let at_once = moments.iter().rev().find(|(since, _)| *since <= from);
        if at_once.is_some_and(|(_, metrics)| !metrics.is_empty()) {
            return Some(from);
        }
        moments.iter().find(|(since, metrics)| *since > from && !metrics.is_empty()).map(|(since, _)| *since)
    }

    /// From when on a host has routes because it lives there. An agent that could not hear of it knows by the driver, sooner or later, and
    /// elevates its routes then; what it has before is of facts that were over.
    fn served_from(&self, stay: &Stay) -> Option<BootTime> {
        match stay.how {
            Arrival::Home | Arrival::Returned => Some(stay.from),
            Arrival::Announced => self.routed_from(stay.host, stay.from),
            Arrival::Unheard | Arrival::Silent => {
                let moments = self.moments[stay.host].iter();
                let elevated = moments.filter(|(_, metrics)| metrics.contains(&ELEVATED));
                elevated.map(|(since, _)| *since).find(|since| *since > stay.from)
            }
        }
    }

    /// Where it lives there is a route at every moment: until another host has one or, if nobody there could hear of it, until the
    /// driver says that it lives there.
    fn never_absent(&self) -> Result<(), Failure> {
        const NEVER: BootTime = BootTime(u64::MAX);
        for (position, stay) in self.guest.stays.iter().enumerate() {
            let from = self.served_from(stay);
            let to = self.guest.stays.get(position + 1).map_or(NEVER, |next| {
                let served = self.served_from(next).unwrap_or(NEVER);
                served.min(next.ended_at.unwrap_or(NEVER))
            });
            let absent = self.moments[stay.host].iter().find(|(since, metrics)| {
                metrics.is_empty()
                    && from.is_some_and(|from| *since > from)
                    && *since < to
                    && !self.is_excused(stay.host, *since)
            });
            if let Some((since, _)) = absent {
                let text = format!("{} had none from {since:?} on", host_name(stay.host));
                return Err(Failure::new("a live virtual machine had no route", text));
            }
        }
        Ok(())
    }

    fn is_excused(&self, host: HostNumber, at: BootTime) -> bool {
        let number = self.guest.number;
        self.excuses.iter().any(|excuse| {
            (excuse.guest, excuse.host) == (number, host) && excuse.from <= at && at <= excuse.to
        })
    }

    /// No elevated route before its announcement or, without one, the end of the migration.
    fn elevated_only_where_it_arrived(&self) -> Result<(), Failure> {
        for (host, moments) in self.moments.iter().enumerate() {
            for (since, metrics) in moments.iter().filter(|(_, metrics)| metrics.contains(&ELEVATED)) {
                let allows =
                    |stay: &Stay| stay.host == host && stay.how != Arrival::Home && has_reason(stay, *since);
                if !self.guest.stays.iter().any(allows) {
                    let text = format!("{} had {metrics:?} at {since:?}", host_name(host));
                    return Err(Failure::new("a route was elevated without its virtual machine", text));
                }
            }
        }
        Ok(())
    }

    /// A route comes only where it lives, or has lived until a moment ago.
    fn nowhere_else(&self) -> Result<(), Failure> {
        for (host, moments) in self.moments.iter().enumerate() {
            let came = moments.windows(2).filter(|pair| pair[0].1.is_empty() && !pair[1].1.is_empty());
            for (since, metrics) in came.map(|pair| &pair[1]) {
                let allows = |(position, stay): (usize, &Stay)| {
                    let next = self.guest.stays.get(position + 1).and_then(|next| next.ended_at);
                    stay.host == host
                        && (stay.how == Arrival::Home || has_reason(stay, *since))
                        && next.is_none_or(|over| *since <= over + self.late)
                };
                if !self.guest.stays.iter().enumerate().any(allows) {
                    let text = format!("{} got {metrics:?} at {since:?}", host_name(host));
                    return Err(Failure::new("a route came where its virtual machine is not", text));
                }
            }
        }
        Ok(())
    }

    /// Forwarding never begins where it runs, but for a moment after its arrival. Where it came back to without a word, it may until the driver
    /// has been heard there; the model says when that must be over.
    fn never_forwarded_from_where_it_is(&self) -> Result<(), Failure> {
        for (host, began) in self.forwarded.iter().enumerate() {
            for at in began {
                let is_here = |stay: &Stay| {
                    let is_sure = match stay.how {
                        Arrival::Home => true,
                        Arrival::Returned => false,
                        _ => stay.from + self.late < *at,
                    };
                    stay.host == host && is_sure && stay.from <= *at && stay.to.is_none_or(|to| *at < to)
                };
                if self.guest.stays.iter().any(is_here) {
                    let text = format!("{} began at {at:?}", host_name(host));
                    return Err(Failure::new("it was forwarded although it runs there", text));
                }
            }
        }
        Ok(())
    }

    fn story(&self, to: IpNet, nodes: &[Node], failure: &Failure) -> String {
        let mut text = format!(
            "virtual machine {}, {to}: {}\n{:#?}\n",
            self.guest.number, failure.text, self.guest.stays
        );
        for (host, node) in nodes.iter().enumerate() {
            let name = host_name(host);
            text += &format!("{name} routes: {:?}\n", self.moments[host]);
            text += &format!("{name} forwarded: {:?}\n", self.forwarded[host]);
            let (endpoint, destination) = (&self.guest.port.endpoint, format!("destination={to}"));
            let is_about = |text: &str| text.contains(endpoint) || text.contains(&destination);
            for line in node.agent.log().lines().iter().filter(|line| is_about(&line.text)) {
                text += &format!("{name} {:?}: {}\n", line.at, line.text);
            }
        }
        let number = self.guest.number;
        let excuses: Vec<_> = self.excuses.iter().filter(|excuse| excuse.guest == number).collect();
        text + &format!("taken away by others: {excuses:?}\n")
    }
}

/// Something said that it is there.
fn has_reason(stay: &Stay, at: BootTime) -> bool {
    match stay.how {
        Arrival::Home | Arrival::Announced | Arrival::Unheard | Arrival::Returned => stay.from <= at,
        Arrival::Silent => stay.ended_at.is_some_and(|ended_at| ended_at <= at),
    }
}
