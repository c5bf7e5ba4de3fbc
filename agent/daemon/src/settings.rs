//! What the operator wants: every setting, from every source, checked before anything is opened.
//!
//! Owns the table of settings and the rules by which their sources are combined. Refuses to do anything with a
//! value. The agent loads once at start without resources and again whenever the FelixConfiguration resources change;
//! `cutover check-config` shows the result, and `docs/configuration.md` is generated from the table.

mod file;
mod go_number;
mod load;
pub mod reference;
mod resource;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod told;
mod value;

pub use file::SyntaxError;
#[cfg(test)]
pub(crate) use file::fuzz::file as fuzz_file;
pub use load::{Loaded, Problem, Severity, load};
pub use resource::FelixConfiguration;
pub(crate) use sources::in_file;
pub use sources::{DEFAULT_FILE, Origin, Sources, SourcesError};
pub use table::{
    Attach, ClientAuth, DatastoreType, Effect, LogFormat, LogSeverity, PageAccess, Peering, Reachability,
    Role, Rules, Setting, Settings, Spoofing, Switch, TABLE, Wish,
};
pub use told::Told;
pub use value::Secret;
pub(crate) use value::parse_bool;

use cutover_engine::model::{Handover, Policy, Priorities};

impl Settings {
    /// The part that decisions depend on.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            hostname: self.felix_hostname.clone(),
            interface_prefixes: self.interface_prefix.clone(),
            bridges: self.cutover_bridges.clone(),
            ipv4: Priorities {
                normal: self.ipv4_normal_route_priority,
                elevated: self.ipv4_elevated_route_priority,
            },
            ipv6: Priorities {
                normal: self.ipv6_normal_route_priority,
                elevated: self.ipv6_elevated_route_priority,
            },
            ipv6_support: self.ipv6_support,
            route_protocol: self.device_route_protocol,
            ipv4_source: self.device_route_source_address,
            ipv6_source: self.device_route_source_address_ipv6,
            convergence: self.live_migration_route_convergence_time,
            grace: self.cutover_endpoint_grace,
            trigger: self.cutover_trigger,
            validation: self.cutover_validation,
            ready_command: self.cutover_ready_command.as_deref().map(Into::into),
            awaits_chains: self.cutover_role == Role::Routes,
            forwards: self.forwards(),
            holds: self.forwards() && self.cutover_hold == Wish::Auto,
            handover: if self.forwards() { self.cutover_conntrack } else { Handover::Off },
        }
    }

    /// Whether what still comes for a virtual machine that has left is forwarded.
    fn forwards(&self) -> bool {
        self.has_peers() && self.cutover_forward == Wish::Auto
    }

    /// Whether the agent talks to those of other hosts.
    #[must_use]
    pub const fn has_peers(&self) -> bool {
        match self.cutover_peering {
            Peering::Auto => matches!(self.datastore_type, DatastoreType::Etcdv3),
            Peering::Files => true,
            Peering::Off => false,
        }
    }

    /// Whether endpoint statuses are written to etcd. Where Felix has been told to leave them to this agent, the setting is Felix's.
    #[must_use]
    pub fn reports_endpoints(&self) -> bool {
        self.cutover_role == Role::Routes || self.endpoint_reporting_enabled
    }

    /// Where metrics are served. Beside Felix the usual port is Felix's, which reads the same file and the same resources.
    #[must_use]
    pub const fn metrics_port(&self) -> u16 {
        match self.cutover_role {
            Role::Full => self.prometheus_metrics_port,
            Role::Routes => self.cutover_metrics_port,
        }
    }

    /// Where liveness and readiness are served; as for the metrics.
    #[must_use]
    pub const fn health_port(&self) -> u16 {
        match self.cutover_role {
            Role::Full => self.health_port,
            Role::Routes => self.cutover_health_port,
        }
    }

    /// Names of the settings that differ from `self` in `new` and are only read at start.
    #[must_use]
    pub fn waiting_for_restart(&self, new: &Self) -> Vec<&'static str> {
        let at_start = TABLE.iter().filter(|setting| setting.effect == Effect::AtStart);
        at_start
            .filter(|setting| (setting.show)(self) != (setting.show)(new))
            .map(|setting| setting.name)
            .chain(self.needs_own_protocol(new).then_some("DeviceRouteProtocol"))
            .collect()
    }

    /// `new` gives up the bridges, which stay until the next start, and with them a protocol that is nobody else's.
    fn needs_own_protocol(&self, new: &Self) -> bool {
        !self.cutover_bridges.is_empty() && load::is_common(new.device_route_protocol)
    }

    /// What is in force once `new` was read by a running agent. The engine's endpoints are this host's by its name:
    /// another one would make all of them another host's. The role decides what is started, and bridges whose routes are whose:
    /// with them stays a protocol of the agent's own.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> Self {
        let device_route_protocol = if self.needs_own_protocol(&new) {
            self.device_route_protocol
        } else {
            new.device_route_protocol
        };
        Self {
            device_route_protocol,
            felix_hostname: self.felix_hostname.clone(),
            cutover_role: self.cutover_role,
            cutover_bridges: self.cutover_bridges.clone(),
            ..new
        }
    }
}
