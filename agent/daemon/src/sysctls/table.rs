//! Which network sysctls the agent wants, and why: those of the host as a whole, of each interface of a VM, and of the tunnel's device.
//!
//! The tables are the only place that names one. The applier writes them, the doctor compares with them, `cutover
//! cleanup` sets the host's back.

use cutover_engine::wanted::Ipv6;

/// What happens when a setting cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The interface is not ready.
    Required,
    /// The interface is ready without it, and `cutover status` says so.
    Wanted,
}

/// A sysctl of the host as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostSysctl {
    /// Below /proc/sys/net.
    pub path: &'static str,
    /// Needed by IPv6, else by IPv4.
    pub is_ipv6: bool,
}

impl HostSysctl {
    /// As sysctl(8) writes it.
    pub fn name(&self) -> String {
        format!("net.{}", self.path.replace('/', "."))
    }
}

/// What the host is set to where it was 0. Anything else is as good: for IPv6, 2 is forwarding with router solicitations.
pub const FORWARDING: &str = "1";

/// Written only when a VM here has an address of that family: with the second one, the host stops to learn its own default
/// route from router advertisements.
pub static HOST: [HostSysctl; 2] = [
    HostSysctl { path: "ipv4/ip_forward", is_ipv6: false },
    HostSysctl { path: "ipv6/conf/all/forwarding", is_ipv6: true },
];

/// A sysctl of the tunnel's device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelSysctl {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Below `conf/<device>`.
    pub name: &'static str,
    /// What it is set to.
    pub value: &'static str,
}

const fn tunnel(family: &'static str, name: &'static str, value: &'static str) -> TunnelSysctl {
    TunnelSysctl { family, name, value }
}

/// Written while the device is still down: it is nobody's but the agent's.
pub static TUNNEL: [TunnelSysctl; 7] = [
    tunnel("ipv4", "forwarding", "1"),
    // What comes out of the tunnel is answered on another way. KERNEL: the stricter value would be that of `all`, but the greater number
    // counts, and 2 is the loose check.
    tunnel("ipv4", "rp_filter", "2"),
    tunnel("ipv6", "disable_ipv6", "0"),
    tunnel("ipv6", "forwarding", "1"),
    tunnel("ipv6", "accept_ra", "0"),
    // No link-local address, and with it no solicitations: nobody is at the other end.
    tunnel("ipv6", "addr_gen_mode", "1"),
    tunnel("ipv6", "router_solicitations", "0"),
];

/// What a sysctl of an interface is set to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// This.
    Fixed(&'static str),
    /// What the operator has as the default of `rp_filter`.
    DefaultRpFilter,
}

/// When a sysctl of an interface matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Always,
    /// As soon as the interface has IPv6, whether or not the agent has anything to do with it.
    Ipv6Exists,
    /// IPv6 prefixes are routed to it.
    Ipv6Routed,
}

/// Who sets what the guest may do on its tap besides being routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Keeper {
    /// The agent.
    #[default]
    Agent,
    /// Felix, which has its chains to go with it: both would set these to and fro.
    Felix,
}

/// A sysctl of an interface of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TapSysctl {
    folder: &'static str,
    name: &'static str,
    value: Value,
    need: Need,
    when: When,
    /// Felix's, where it runs beside the agent.
    is_felixs: bool,
}

const fn row(
    folder: &'static str,
    name: &'static str,
    value: &'static str,
    need: Need,
    when: When,
) -> TapSysctl {
    TapSysctl { folder, name, value: Value::Fixed(value), need, when, is_felixs: false }
}

/// ORDER: they are written in this order: what the guest must not do before what it may.
static TAP: [TapSysctl; 10] = [
    // With 1 the guest reaches what listens on 127.0.0.1 of the host. Felix, which filters that, leaves 1 behind.
    TapSysctl { is_felixs: true, ..row("ipv4/conf", "route_localnet", "0", Need::Required, When::Always) },
    // KERNEL: proxy_arp answers whatever the host has a route to that leads elsewhere. For the guest's own address there is one
    // until the guest's route is here, and a gratuitous request for it would be answered like any other. With this (Linux
    // 4.6), `arp_process` ignores ARP whose two addresses are equal; programs on the tap see it before. Probes, whose sender is
    // 0.0.0.0, are never answered for others.
    row("ipv4/conf", "drop_gratuitous_arp", "1", Need::Required, When::Always),
    // Without it the kernel answers ARP for the gateway with up to 0.8 s delay.
    row("ipv4/neigh", "proxy_delay", "0", Need::Wanted, When::Always),
    row("ipv4/conf", "proxy_arp", "1", Need::Required, When::Always),
    row("ipv4/conf", "forwarding", "1", Need::Required, When::Always),
    TapSysctl {
        folder: "ipv4/conf",
        name: "rp_filter",
        value: Value::DefaultRpFilter,
        need: Need::Required,
        when: When::Always,
        is_felixs: true,
    },
    // The guest would become the default route of a host that does not forward IPv6.
    row("ipv6/conf", "accept_ra", "0", Need::Required, When::Ipv6Exists),
    // KERNEL: the tap's link-local address, the guest's gateway, is made when the hypervisor opens the tap, and would
    // be tested for duplicates for one to two seconds, in which it does not answer. A guest may arrive earlier.
    row("ipv6/conf", "accept_dad", "0", Need::Wanted, When::Ipv6Routed),
    // KERNEL: answers only for proxy neighbours, which the agent never makes: nothing answers for the guest's own address.
    row("ipv6/conf", "proxy_ndp", "1", Need::Required, When::Ipv6Routed),
    // KERNEL: the host loses default routes that it learnt from router advertisements, on whichever interface, when any
    // interface begins to forward (`rt6_purge_dflt_routers`), unless accept_ra is 2 there.
    row("ipv6/conf", "forwarding", "1", Need::Required, When::Ipv6Routed),
];

/// A setting of one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Below /proc/sys/net.
    pub path: String,
    /// What it is set to.
    pub value: Value,
    /// How much depends on it.
    pub need: Need,
}

/// What of IPv6 there is on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipv6Device {
    /// The kernel has no IPv6, or the interface has an MTU that is too small for it.
    Absent,
    /// It is switched off (`disable_ipv6`).
    Disabled,
    /// It is there.
    Enabled,
}

/// What an interface of a VM needs.
pub fn of_interface(interface: &str, wanted: Ipv6, device: Ipv6Device, keeper: Keeper) -> Vec<Setting> {
    let is_ours = |row: &&TapSysctl| keeper == Keeper::Agent || !row.is_felixs;
    let matters = |row: &&TapSysctl| match row.when {
        When::Always => true,
        When::Ipv6Exists => device != Ipv6Device::Absent,
        When::Ipv6Routed => wanted == Ipv6::Routed && device == Ipv6Device::Enabled,
    };
    let setting = |row: &TapSysctl| Setting {
        path: format!("{}/{interface}/{}", row.folder, row.name),
        value: row.value,
        need: row.need,
    };
    TAP.iter().filter(is_ours).filter(matters).map(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: Ipv6, device: Ipv6Device) -> Vec<String> {
        let settings = of_interface("tap1", wanted, device, Keeper::Agent).into_iter();
        settings.map(|setting| setting.path).collect()
    }

    #[test]
    fn what_the_guest_must_not_do_comes_before_what_it_may() {
        let paths = names(Ipv6::Routed, Ipv6Device::Enabled);
        let place = |name: &str| paths.iter().position(|path| path.ends_with(name)).expect(name);
        assert!(place("drop_gratuitous_arp") < place("proxy_arp"), "{paths:?}");
        assert!(place("route_localnet") < place("ipv4/conf/tap1/forwarding"), "{paths:?}");
        assert!(place("accept_ra") < place("ipv6/conf/tap1/forwarding"), "{paths:?}");
    }

    #[test]
    fn ipv6_is_touched_only_where_it_is_routed() {
        let of_ipv6 = |wanted, device| -> Vec<String> {
            let paths = names(wanted, device).into_iter();
            paths.filter_map(|path| Some(path.strip_prefix("ipv6/conf/tap1/")?.to_owned())).collect()
        };
        for wanted in [Ipv6::LeftAlone, Ipv6::Unused] {
            assert_eq!(of_ipv6(wanted, Ipv6Device::Enabled), ["accept_ra"], "{wanted:?}");
            assert!(of_ipv6(wanted, Ipv6Device::Absent).is_empty(), "{wanted:?}");
        }
        assert_eq!(
            of_ipv6(Ipv6::Routed, Ipv6Device::Enabled),
            ["accept_ra", "accept_dad", "proxy_ndp", "forwarding"]
        );
        assert_eq!(of_ipv6(Ipv6::Routed, Ipv6Device::Disabled), ["accept_ra"]);
        assert!(of_ipv6(Ipv6::Routed, Ipv6Device::Absent).is_empty());
    }

    #[test]
    fn felix_keeps_what_goes_with_its_chains() {
        let names = |keeper| -> Vec<String> {
            let settings = of_interface("tap1", Ipv6::Routed, Ipv6Device::Enabled, keeper).into_iter();
            settings.map(|setting| setting.path).collect()
        };
        let (all, beside) = (names(Keeper::Agent), names(Keeper::Felix));
        let left: Vec<_> = all.iter().filter(|path| !beside.contains(path)).collect();
        assert_eq!(left, ["ipv4/conf/tap1/route_localnet", "ipv4/conf/tap1/rp_filter"]);
    }
}
