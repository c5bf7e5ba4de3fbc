//! The kernel behind the tunnel applier: device, programs, tables and rules of the network namespace of the calling thread.
//!
//! Owns how each step is done. Which steps there are, and when, is decided in [`super`].

use super::plan::{Numbers, Policy};
use super::{Settings, TunnelError, describe};
use crate::bpf::{TunnelCounts, TunnelEntries, TunnelPrograms};
use crate::netlink::policy::{self, PolicyChange, SideRoute, Way};
use crate::netlink::socket::{Outcome, SendError};
use crate::netlink::{RouteSocket, notrack, underlay, vxlan};
use crate::sysctls::{self, Sysctls, table};
use cutover_common::names::DEVICE_TUNNEL;
use cutover_engine::shared::SharedSet;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Of the device. LIMIT: any of 127.0.0.0/8 that nobody else has.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 71, 79);

/// The device as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    /// Its number, if it is of our kind.
    pub(super) ifindex: Option<u32>,
    /// It is up, and runs the programs of this life.
    pub(super) is_ready: bool,
}

#[derive(Debug)]
pub(super) struct Plane {
    settings: Settings,
    socket: RouteSocket,
    /// Loaded when they are needed for the first time.
    programs: Option<TunnelPrograms>,
}

impl Plane {
    pub(super) fn new(settings: Settings, socket: RouteSocket) -> Self {
        Self { settings, socket, programs: None }
    }

    pub(super) const fn numbers(&self) -> Numbers {
        Numbers { table: self.settings.table, protocol: self.settings.protocol }
    }

    pub(super) fn device(&mut self) -> Result<Found, TunnelError> {
        let Some(device) = find()?.filter(|device| device.port.is_some()) else {
            return Ok(Found::default());
        };
        let ifindex = device.ifindex;
        let is_attached = match &mut self.programs {
            Some(programs) => programs.is_attached(ifindex)?,
            None => false,
        };
        let is_ready = device.is_up && device.port == Some(self.settings.port) && is_attached;
        Ok(Found { ifindex: Some(ifindex), is_ready })
    }

    /// Whether connection tracking is kept away from what is forwarded. A kernel that has no nf_tables does not.
    pub(super) fn is_untracked(&self) -> Result<bool, TunnelError> {
        notrack::is_there().map_err(failed_with("look for the table of nf_tables"))
    }

    /// Keeps connection tracking away from what is forwarded; whether the kernel can.
    pub(super) fn untrack(&self) -> Result<bool, TunnelError> {
        match notrack::install(self.settings.interface_prefixes.iter(), DEVICE_TUNNEL) {
            Ok(()) => Ok(true),
            Err(error) if notrack::is_absent(&error) => Ok(false),
            Err(error) => Err(failed_with("keep connection tracking away from what is forwarded")(error)),
        }
    }

    /// The opposite; whether it was so.
    pub(super) fn track_again(&self) -> Result<bool, TunnelError> {
        notrack::remove().map_err(failed_with("remove the table of nf_tables"))
    }

    /// Our routes and rules, also in the tables of a life that had other ones: its rules say which those were.
    pub(super) fn policy(&self) -> Result<Policy, TunnelError> {
        let numbers = self.numbers();
        let rules = policy::rules(numbers.protocol, DEVICE_TUNNEL);
        let rules = rules.map_err(failed_with("read the rules"))?;
        let tables = rules.iter().map(|rule| rule.table).chain(numbers.tables());
        let mut routes = BTreeSet::new();
        for table in tables.collect::<BTreeSet<_>>() {
            let found = policy::routes(table, numbers.protocol);
            routes.extend(found.map_err(failed_with("read the routes"))?);
        }
        Ok(Policy { routes, rules })
    }

    /// Takes away our routes to these into the tunnel, of whichever life. Returns how many there were.
    pub(super) fn end_forwards(&mut self, over: &SharedSet<IpNet>) -> Result<usize, TunnelError> {
        let Some(ifindex) = find()?.map(|device| device.ifindex) else { return Ok(0) };
        let routes = self.policy()?.routes;
        let into_tunnel = Way::Interface(ifindex);
        let is_over = |route: &SideRoute| route.way == into_tunnel && over.contains(&route.destination);
        let changes: Vec<_> = routes.into_iter().filter(is_over).map(PolicyChange::RemoveRoute).collect();
        let outcome = self.change(&changes)?;
        outcome.failed.first().map_or(Ok(changes.len()), |failure| {
            let what = describe(&changes[failure.index]);
            Err(TunnelError::Refused { what, error: io::Error::from_raw_os_error(failure.errno) })
        })
    }

    pub(super) fn change(&mut self, changes: &[PolicyChange]) -> Result<Outcome, SendError> {
        self.socket.send(&policy::prepare(changes))
    }

    /// Fills the maps, with the programs if they are not loaded yet.
    pub(super) fn write(&mut self, entries: &TunnelEntries) -> Result<(), TunnelError> {
        if self.programs.is_none() {
            self.programs = Some(TunnelPrograms::load().map_err(Box::new)?);
        }
        match &mut self.programs {
            Some(programs) => Ok(programs.write(entries)?),
            None => Ok(()),
        }
    }

    pub(super) fn counts(&self) -> Option<TunnelCounts> {
        self.programs.as_ref().map(TunnelPrograms::counts)
    }

    /// Makes the device, or takes over that of the last life. The maps are filled, and the routes for what comes out of it are there.
    ///
    /// ORDER: nothing passes it before the programs judge. It is down until then; one that was up goes on under those of the last life.
    pub(super) fn build(&mut self) -> Result<u32, TunnelError> {
        let port = self.settings.port;
        let device = match find()? {
            Some(device) if device.port == Some(port) => device,
            Some(vxlan::Device { port: None, .. }) => return Err(TunnelError::Foreign),
            other => {
                if let Some(device) = other {
                    self.remove(device.ifindex)?;
                }
                vxlan::create(DEVICE_TUNNEL, port).map_err(|error| TunnelError::Create { port, error })?;
                find()?.ok_or(TunnelError::Vanished)?
            }
        };
        self.settle(device.ifindex)?;
        let programs = self.programs.as_mut().ok_or(TunnelError::Vanished)?;
        programs.attach(device.ifindex)?;
        if !device.is_up {
            vxlan::set_up(device.ifindex).map_err(|error| TunnelError::Up { port, error })?;
        }
        Ok(device.ifindex)
    }

    /// Gives the device its address and its settings.
    pub(super) fn settle(&self, ifindex: u32) -> Result<(), TunnelError> {
        vxlan::add_address(ifindex, ADDRESS).map_err(failed_with("give the device an address"))?;
        let sysctls = Sysctls::new(Path::new(sysctls::ROOT));
        for row in &table::TUNNEL {
            let path = format!("{}/conf/{DEVICE_TUNNEL}/{}", row.family, row.name);
            match sysctls.read(&path) {
                Ok(value) if value == row.value => {}
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound && row.family == "ipv6" => {}
                _ => sysctls.write(&path, row.value)?,
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, ifindex: u32) -> Result<(), TunnelError> {
        vxlan::remove(ifindex).map_err(failed_with("remove the device"))
    }

    pub(super) fn mtu_towards(&self, peer: IpAddr) -> Result<Option<u32>, TunnelError> {
        underlay::mtu_towards(peer).map_err(failed_with("ask for the way to the peer"))
    }
}

fn find() -> Result<Option<vxlan::Device>, TunnelError> {
    vxlan::find(DEVICE_TUNNEL).map_err(failed_with("look for the device"))
}

fn failed_with(step: &'static str) -> impl FnOnce(io::Error) -> TunnelError {
    move |error| TunnelError::Netlink { step, error }
}
