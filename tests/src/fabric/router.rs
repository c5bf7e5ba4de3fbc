//! One router of a fabric as others see it: where its kernel sends, and what its table says. Changes nothing.

use super::Speaker;
use crate::host::Host;
use crate::route_history::{History, Route};
use crate::route_watch::RouteWatch;
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// A host with a daemon.
#[derive(Clone, Copy, Debug)]
pub struct Router<'fabric> {
    /// The host.
    pub host: &'fabric Host,
    /// Recording since before its daemon started.
    pub watch: &'fabric RouteWatch,
    /// Its daemon.
    pub speaker: &'fabric Speaker,
}

impl<'fabric> Router<'fabric> {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'fabric str {
        self.host.name()
    }

    /// Where its kernel sends what is for `to`.
    #[must_use]
    pub fn leads(self, to: IpNet) -> Leads {
        leads(&self.watch.routes_to(to))
    }
}

impl Router<'_> {
    /// How many of its sessions are established with a key for their packets (TCP MD5), as its kernel says.
    ///
    /// # Panics
    /// Without iproute2.
    #[must_use]
    pub fn signed_sessions(self) -> usize {
        let mut command = self.host.namespace().command("ss");
        command.args(["-tinH", "state", "established", "( sport = :179 or dport = :179 )"]);
        let output = command.output().expect("iproute2");
        String::from_utf8_lossy(&output.stdout).matches("md5keys:").count()
    }
}

/// Where a kernel sends what is for an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leads {
    /// To the VM.
    ToTap,
    /// To another host.
    Via(IpAddr),
    /// There is no route.
    Nowhere,
}

/// Where the routes of a moment lead.
#[must_use]
pub fn leads<'a>(routes: impl IntoIterator<Item = &'a Route>) -> Leads {
    let best = routes.into_iter().min_by_key(|route| route.metric);
    best.map_or(Leads::Nowhere, |route| route.gateway.map_or(Leads::ToTap, Leads::Via))
}

/// How long there was no route to `destination`, each time that there was none between two others.
#[must_use]
pub fn gaps(history: &History, destination: IpNet) -> Vec<Duration> {
    let moments = history.moments(destination);
    let gaps = moments.windows(2).filter(|pair| pair[0].routes.is_empty());
    gaps.filter_map(|pair| Some(pair[1].since?.since(pair[0].since?))).collect()
}
