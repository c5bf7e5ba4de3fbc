//! A fabric with FRR in which the test plays the agents' part, in their order, so that each step can be looked at by
//! itself and others than an agent's can be taken. Taps are the test's, too: packets that arrive are counted here.

use cutover_tests::fabric::{CONVERGED, Daemon, FRR_PRIORITIES, Fabric, Place, Router, Shape, Who};
use cutover_tests::namespace::Namespace;
use cutover_tests::route_watch::Mark;
use cutover_tests::{Frr, OpenTap, wait};
use ipnet::IpNet;
use std::net::{IpAddr, UdpSocket};

/// The priorities that `cutover bgp frr` asks for.
pub(crate) const NORMAL: u32 = FRR_PRIORITIES.normal;
pub(crate) const ELEVATED: u32 = FRR_PRIORITIES.elevated;
/// LOCAL_PREF of both.
pub(crate) const NORMAL_PREFERENCE: u32 = 2_046_818_303;
pub(crate) const ELEVATED_PREFERENCE: u32 = 2_147_483_637;

/// The three hosts that know the machine's routes.
pub(crate) const HOSTS: [Who; 3] = [Who::Source, Who::Target, Who::Third];

/// A fabric without agents; the machine's routes are on the source.
pub(crate) struct ByHand {
    pub at_source: OpenTap,
    pub at_target: OpenTap,
    pub fabric: Fabric,
}

impl ByHand {
    #[track_caller]
    pub(crate) fn new(shape: Shape) -> Self {
        let mut fabric = Fabric::new(Daemon::Frr, shape);
        // Killed, they leave everything where it is.
        fabric.scene.source.agent.kill();
        fabric.scene.target.agent.kill();
        let at_source = fabric.scene.vm.pause().expect("it runs on the source");
        let at_target = fabric.scene.target.tap().open();
        let port = fabric.port();
        let neighbours = port.routed().into_iter().map(|to| {
            let (address, mac, tap) = (to.addr(), port.mac, &port.interface);
            format!("neigh replace {address} lladdr {mac} nud permanent dev {tap}\n")
        });
        fabric.router(Who::Target).host.namespace().ip(&neighbours.collect::<String>());
        Self { at_source, at_target, fabric }
    }

    /// The addresses of the machine.
    pub(crate) fn machine(&self) -> Vec<IpNet> {
        self.fabric.port().routed()
    }

    pub(crate) fn router(&self, who: Who) -> Router<'_> {
        self.fabric.router(who)
    }

    pub(crate) fn frr(&self, who: Who) -> &Frr {
        self.router(who).speaker.frr()
    }

    /// Adds routes to these addresses, as the agent does.
    pub(crate) fn install_all(&self, at: Place, addresses: impl IntoIterator<Item = IpNet>, metric: u32) {
        self.change(at, "add", addresses, metric);
    }

    /// Removes them.
    pub(crate) fn remove_all(&self, at: Place, addresses: impl IntoIterator<Item = IpNet>, metric: u32) {
        self.change(at, "del", addresses, metric);
    }

    /// Adds the routes of the machine.
    pub(crate) fn install(&self, at: Place, metric: u32) {
        self.install_all(at, self.machine(), metric);
    }

    /// Removes the routes of the machine.
    pub(crate) fn remove(&self, at: Place, metric: u32) {
        self.remove_all(at, self.machine(), metric);
    }

    fn change(&self, at: Place, verb: &str, addresses: impl IntoIterator<Item = IpNet>, metric: u32) {
        let tap = &self.fabric.port().interface;
        let lines = addresses
            .into_iter()
            .map(|to| format!("route {verb} {to} dev {tap} proto 3 scope link metric {metric}\n"));
        self.router(at.into()).host.namespace().ip(&lines.collect::<String>());
    }

    /// Whether the host delivers to its own tap.
    pub(crate) fn delivers(&self, place: Place) -> bool {
        self.fabric.sends(place.into(), place)
    }

    /// Whether the host sends to the other one.
    pub(crate) fn sends(&self, who: Who, place: Place) -> bool {
        self.fabric.sends(who, place)
    }

    /// Waits until LOCAL_PREF of the path in use is this one in both families on every host.
    #[track_caller]
    pub(crate) fn wait_preference(&self, preference: u32) {
        for who in HOSTS {
            wait::until(CONVERGED, format_args!("{who:?} uses LOCAL_PREF {preference}"), || {
                self.machine().iter().all(|&to| {
                    let best = self.router(who).speaker.path(to);
                    best.and_then(|best| best.preference) == Some(preference)
                })
            });
        }
    }

    /// Checks that since `mark` this router had a route to the machine all the time.
    #[track_caller]
    pub(crate) fn assert_never_without(&self, who: Who, mark: Mark) {
        for to in self.machine() {
            self.router(who).watch.since(mark).assert_never_without(to);
        }
    }

    /// The same of all routers, from marks of [`Fabric::marks`].
    #[track_caller]
    pub(crate) fn assert_nobody_was_without(&self, marks: &[Mark]) {
        for (router, mark) in self.fabric.routers().into_iter().zip(marks) {
            for to in self.machine() {
                router.watch.since(*mark).assert_never_without(to);
            }
        }
    }

    /// Sends a packet for each address of the machine from a host, until this place has both. The other may get none.
    #[track_caller]
    pub(crate) fn assert_arrives(&self, from: Who, place: Place) {
        let (here, not_here) = match place {
            Place::Source => (&self.at_source, &self.at_target),
            Place::Target => (&self.at_target, &self.at_source),
        };
        let from: &Namespace = self.router(from).host.namespace();
        while not_here.receive().is_some() {}
        for to in self.machine() {
            let seen = || {
                from.run(|| send(to.addr()));
                std::iter::from_fn(|| here.receive()).any(|frame| is_for(&frame, to.addr()))
            };
            wait::until(wait::SOON, format_args!("a packet for {to}"), seen);
        }
        let astray = std::iter::from_fn(|| not_here.receive())
            .any(|frame| self.machine().iter().any(|to| is_for(&frame, to.addr())));
        assert!(!astray, "a packet went where the machine is not");
    }
}

fn send(to: IpAddr) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Without a route there is an error, which is the packet that does not arrive.
    let _ = UdpSocket::bind(any).and_then(|socket| socket.send_to(b"cutover", (to, 9)));
}

/// Whether a frame carries a UDP packet for `to`.
fn is_for(frame: &[u8], to: IpAddr) -> bool {
    let at = |offset: usize, bytes: &[u8]| frame.get(offset..offset + bytes.len()) == Some(bytes);
    match to {
        IpAddr::V4(to) => at(12, &[8, 0]) && at(23, &[17]) && at(30, &to.octets()),
        IpAddr::V6(to) => at(12, &[0x86, 0xdd]) && at(20, &[17]) && at(38, &to.octets()),
    }
}
