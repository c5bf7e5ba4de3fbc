//! A tap that one contender waits on, with the guest behind it played by the bench.

use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_daemon::netlink::{PreparedBatch, RouteChange, RouteSocket, route};
use cutover_engine::BootTime;
use cutover_engine::wanted::WantedRoute;
use cutover_tests::frames::{self, Frame};
use cutover_tests::{Host, OpenTap, Tap};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metric and protocol of the routes, as during a migration.
pub(crate) const METRIC: u32 = 512;
pub(crate) const PROTOCOL: u8 = 3;

/// The tap, its guest, and the addresses of the guest.
pub(crate) struct Lane {
    tap: Tap,
    guest: OpenTap,
    pub(crate) mac: MacAddr,
    pub(crate) addresses: Vec<IpAddr>,
    announcement: Frame,
}

impl Lane {
    /// A tap on `host` for a guest with this many addresses of each family, IPv4 first.
    pub(crate) fn new(host: &Host, number: u8, ipv4_count: u8, ipv6_count: u8) -> Self {
        let mac = MacAddr([0xfa, 0x16, 0x3e, 0, 0, number]);
        let tap = host.plug(&format!("tap{number}"), MacAddr([0xfe, 0x16, 0x3e, 0, 0, number]));
        let guest = tap.open();
        let first = Ipv4Addr::new(10, 65, number, 0);
        let ipv4 = (0..ipv4_count).map(|last| IpAddr::V4(Ipv4Addr::new(10, 65, number, last)));
        let ipv6 = (0..ipv6_count)
            .map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(number), 0, 0, 0, u16::from(last)))
            .map(IpAddr::V6);
        let addresses = ipv4.chain(ipv6).collect();
        Self { tap, guest, mac, addresses, announcement: frames::garp_request(mac, first) }
    }

    /// Name of the tap.
    pub(crate) fn interface(&self) -> &str {
        self.tap.name()
    }

    /// Number of the tap.
    pub(crate) fn ifindex(&self) -> u32 {
        self.tap.ifindex()
    }

    /// The guest announces itself. Returns the moment before it did.
    pub(crate) fn announce(&self) -> BootTime {
        let before = clock::now();
        self.guest.send(&self.announcement);
        before
    }

    /// What takes all routes of the guest away.
    fn removals(&self) -> PreparedBatch {
        let changes: Vec<_> = self.routes().map(RouteChange::Remove).collect();
        route::prepare(&changes)
    }

    /// Takes all routes of the guest away.
    pub(crate) fn clear(&self, socket: &mut RouteSocket) -> anyhow::Result<()> {
        let outcome = socket.send(&self.removals())?;
        anyhow::ensure!(outcome.is_success(), "routes of {} stay: {outcome:?}", self.interface());
        Ok(())
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = WantedRoute> {
        self.addresses.iter().map(|address| WantedRoute {
            destination: match *address {
                IpAddr::V4(address) => Ipv4Net::from(address).into(),
                IpAddr::V6(address) => Ipv6Net::from(address).into(),
            },
            ifindex: self.ifindex(),
            metric: METRIC,
            protocol: PROTOCOL,
            source: None,
        })
    }
}
