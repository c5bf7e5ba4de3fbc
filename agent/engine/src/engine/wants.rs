//! What one endpoint wants, before anybody asks whether somebody else comes first.

use super::Engine;
use super::locals::Local;
use super::placed::Placed;
use crate::fact::Link;
use crate::machine::{Arming, State};
use crate::model::{Endpoint, EndpointKey, Policy, Trigger};
use crate::wanted::{
    Ipv6, Question, Status, WantedCheck, WantedInterface, WantedRoute, WantedStatus, WantedWatch,
};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What one endpoint has in the wanted sets.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) placed: Placed,
    pub(super) routes: Vec<WantedRoute>,
    pub(super) interface: Option<WantedInterface>,
    pub(super) watch: Option<WantedWatch>,
    pub(super) status: WantedStatus,
    pub(super) check: Option<WantedCheck>,
}

impl Engine {
    /// What the ready command is asked about an endpoint; nothing without a command or without a tap.
    fn question(&self, local: &Local, link: Option<&Link>) -> Option<Question> {
        let (command, link) = (self.policy.ready_command.as_ref()?, link?);
        Some(Question {
            command: Arc::clone(command),
            interface: link.name.clone(),
            ifindex: link.ifindex,
            mac: local.endpoint.mac,
            prefixes: local.endpoint.prefixes.clone(),
        })
    }

    /// The question that has not been answered with yes.
    pub(super) fn open_question(&self, local: &Local, link: Option<&Link>) -> Option<Question> {
        self.question(local, link).filter(|question| local.ready.as_deref() != Some(question))
    }

    /// The question that is to be asked now: not before the interface is set up, and not about somebody who is not here.
    pub(super) fn check(&self, local: &Local, open: Option<Question>) -> Option<WantedCheck> {
        let question = open.filter(|question| {
            !local.machine.not_here && self.configured.get(&self.outlet_of(question.ifindex)) == Some(&true)
        })?;
        Some(WantedCheck {
            question: Arc::new(question),
            is_awaited: local.machine.state == State::Target,
            role: local.machine.role,
            migration_uid: local.machine.role_uid.clone(),
        })
    }

    pub(super) fn wanted_status(
        &self,
        key: &EndpointKey,
        local: &Local,
        link: Option<&Link>,
        is_ready: bool,
    ) -> WantedStatus {
        let status = match self.status(local, link) {
            Status::Up if !is_ready => Status::AsReported,
            status => status,
        };
        let due_since = local.machine.report_due_since.filter(|_| status == Status::Up);
        let migration = due_since.and_then(|_| self.migration_of(key, local)).map(Arc::from);
        WantedStatus { status, is_awaited: local.machine.state == State::Target, due_since, migration }
    }

    /// The uid of the migration that a report is about: the one that confers a role, or the last one.
    fn migration_of<'a>(&'a self, key: &EndpointKey, local: &'a Local) -> Option<&'a str> {
        let machine = &local.machine;
        let known = [Some(machine.role_uid.as_str()), self.last_migration(key), Some(machine.uid.as_str())];
        known.into_iter().flatten().find(|uid| !uid.is_empty())
    }

    /// The status to report.
    ///
    /// A virtual machine that is on its way needs no carrier to be welcome (W5). One that has arrived is up, unless its tap is not:
    /// libvirt makes a tap that it has deleted again, for a moment, without ever setting it up.
    /// Until the interface was looked at nothing is said: after a restart, `down` would take the ports of all
    /// running virtual machines down. Nor is it where a virtual machine leaves: its hypervisor lets go of the tap
    /// before the migration is over, and Neutron would take that for the port that is in use elsewhere by then.
    fn status(&self, local: &Local, link: Option<&Link>) -> Status {
        let link = link.filter(|link| !self.is_cut_off(link));
        let configured = link.and_then(|link| self.configured.get(&self.outlet(link).ifindex)).copied();
        match local.machine.state {
            State::Base if local.machine.not_here => Status::AsReported,
            _ if local.held_since.is_some() => Status::AsReported,
            State::Base if link.is_some_and(|link| link.running) => match configured {
                Some(true) => Status::Up,
                Some(false) => Status::Down,
                None => Status::AsReported,
            },
            State::Target
                if configured == Some(true)
                    && local.armed.is_some()
                    && link.is_some_and(|link| link.admin_up) =>
            {
                Status::Up
            }
            State::Target => Status::AsReported,
            State::Live | State::TimeWait if link.is_some_and(|link| link.admin_up) => Status::Up,
            State::Base | State::Live | State::TimeWait if local.machine.may_have_left() => {
                Status::AsReported
            }
            State::Base | State::Live | State::TimeWait => Status::Down,
        }
    }
}

/// What its watch looks for, and what it installs on `outlet`.
///
/// While it is open how the migration ended, whatever the virtual machine sends says that it runs here.
pub(super) fn watch(
    policy: &Policy,
    endpoint: &Endpoint,
    arming: Arming,
    outlet: u32,
    is_open: bool,
) -> WantedWatch {
    WantedWatch {
        interface: endpoint.interface.clone(),
        generation: arming.generation,
        mac: endpoint.mac,
        addresses: host_addresses(endpoint).collect(),
        trigger: if is_open { Trigger::FirstFrame } else { policy.trigger },
        validation: policy.validation,
        routes: routes(policy, endpoint, outlet, true).collect(),
        ends_forwarding: false,
    }
}

/// Routes to all of its prefixes.
pub(super) fn routes<'a>(
    policy: &'a Policy,
    endpoint: &'a Endpoint,
    ifindex: u32,
    elevated: bool,
) -> impl Iterator<Item = WantedRoute> + 'a {
    endpoint.prefixes.iter().filter(|prefix| policy.ipv6_support || prefix.addr().is_ipv4()).map(
        move |&destination| {
            let priorities = policy.priorities(destination.addr());
            WantedRoute {
                destination: destination.trunc(),
                ifindex,
                metric: if elevated { priorities.elevated } else { priorities.normal },
                protocol: policy.route_protocol,
                source: match destination {
                    IpNet::V4(_) => policy.ipv4_source.map(IpAddr::V4),
                    IpNet::V6(_) => policy.ipv6_source.map(IpAddr::V6),
                },
            }
        },
    )
}

/// The addresses among the prefixes.
fn host_addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + '_ {
    endpoint.prefixes.iter().filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len()).map(IpNet::addr)
}

/// How its interface is set up.
pub(super) fn interface(policy: &Policy, endpoint: &Endpoint, link: &Link) -> WantedInterface {
    let neighbours = endpoint.mac.map_or_else(BTreeMap::new, |mac| {
        host_addresses(endpoint)
            .filter(|address| policy.ipv6_support || address.is_ipv4())
            .map(|address| (address, mac))
            .collect()
    });
    let has_ipv6 = endpoint.prefixes.iter().any(|prefix| prefix.addr().is_ipv6());
    let ipv6 = match (policy.ipv6_support, has_ipv6) {
        (false, _) => Ipv6::LeftAlone,
        (true, false) => Ipv6::Unused,
        (true, true) => Ipv6::Routed,
    };
    WantedInterface { name: link.name.clone(), neighbours, ipv6, is_bridge: false }
}
