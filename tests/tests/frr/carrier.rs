//! A machine's routes are announced while its tap has a carrier, however long they have been there: its hypervisor restarts, it is
//! started after its routes were written, or that happens while no agent runs. Releases differ in what they do without a carrier: 8.4
//! announces all the same, 10.3 does not, 10.7 forgets IPv4 routes for good, and both forget routes of either family on a tap that is
//! made while another one goes.

use crate::by_hand::{ELEVATED, NORMAL};
use cutover_tests::driver::Pace;
use cutover_tests::fabric::{CONVERGED, Fabric, Leads, Place, Shape, Who};
use cutover_tests::scene::SOURCE;
use cutover_tests::{Driver, OpenTap, Port, Release, wait};
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// One of about ten of them was not announced with 10.7, when the agent did not write its routes again.
const LATE_TAPS: usize = 5;
/// What happens to other interfaces: 10.7 forgets all IPv4 routes at each of them.
const OTHERS: [&str; 5] = [
    "tuntap add dev tapother mode tap\nlink set tapother up",
    "link del tapother",
    "link add other type veth peer name peer\nlink set peer up\nlink set other up\naddr add 192.0.2.1/32 dev other",
    "addr del 192.0.2.1/32 dev other",
    "link del other",
];
/// Long enough for daemons to take back what they have said, if they do.
const STAYS: Duration = Duration::from_secs(1);

#[test]
fn with_frr_8() {
    announced_whenever_there_is_a_carrier(Release::Frr8);
}

#[test]
fn with_frr_10_3() {
    announced_whenever_there_is_a_carrier(Release::Frr10);
}

#[test]
fn with_frr_10_7() {
    announced_whenever_there_is_a_carrier(Release::Frr107);
}

fn announced_whenever_there_is_a_carrier(release: Release) {
    if !release.is_there("carriers that come and go") {
        return;
    }
    let mut bed = Bed::new(release);
    let marks = bed.fabric.marks();
    for _ in 0..3 {
        bed.close();
        bed.wait_heard();
        bed.open();
        bed.assert_announced("the hypervisor has restarted");
    }
    // Its routes were there all the time; for others as well if the carrier does not matter to FRR.
    let others = (release == Release::Frr8).then_some((Who::Third, marks[2]));
    for (who, mark) in [(Who::Source, marks[0])].into_iter().chain(others) {
        let history = bed.fabric.router(who).watch.since(mark);
        bed.fabric.port().routed().into_iter().for_each(|to| history.assert_never_without(to));
    }

    bed.fabric.change_own_routes_in_place();

    bed.plug_anew();
    bed.open();
    bed.assert_announced("the machine was started after its routes were written");

    for _ in 0..LATE_TAPS {
        bed.plug_anew_while_zebra_is_late();
        bed.open();
        bed.assert_announced(
            "zebra read the routes and that their interface came, and another one went, all at once",
        );
    }

    for change in OTHERS {
        bed.fabric.router(Who::Source).host.namespace().ip(change);
        bed.wait_heard();
        bed.assert_announced(change);
    }

    bed.plug_anew();
    bed.fabric.scene.source.agent.kill();
    bed.open();
    bed.wait_heard();
    bed.fabric.scene.source.agent.spawn();
    bed.assert_announced("the machine was started while no agent ran");
}

/// An agent that starts writes the routes of all machines again, 16 of a family every 100 ms.
#[test]
fn nobody_notices_that_an_agent_restarts_beside_many_machines() {
    for release in Release::FRRS.into_iter().filter(|release| release.is_there("an agent that restarts")) {
        let mut bed = Bed::new(release);
        let ports: Vec<Port> = (2..=41).map(Port::new).collect();
        let scene = &bed.fabric.scene;
        let plugged = ports.iter().map(|port| scene.source.host.plug(&port.interface, port.tap_mac()).open());
        let _running: Vec<OpenTap> = plugged.collect();
        for port in &ports {
            Driver::new(&scene.directory, port).at_pace(Pace::IMMEDIATE).bind(SOURCE);
        }
        let routed: Vec<IpNet> = ports.iter().chain([bed.fabric.port()]).flat_map(Port::routed).collect();
        let unknown = |bed: &Bed| {
            let third = bed.fabric.router(Who::Third);
            let is_unknown = |to: &&IpNet| !matches!(third.leads(**to), Leads::Via(_));
            routed.iter().filter(is_unknown).copied().collect::<Vec<_>>()
        };
        let knows_all = wait::holds_within(CONVERGED, || unknown(&bed).is_empty());
        assert!(knows_all, "{release:?}: the third host does not know {:?}", unknown(&bed));
        // They are written again after their carriers came.
        bed.fabric.scene.source.watch.wait_quiet(CONVERGED, STAYS);

        let marks = bed.fabric.marks();
        bed.fabric.scene.source.agent.kill();
        bed.fabric.scene.source.agent.start_in_sync();
        wait::until(CONVERGED, "all are written again", || {
            let history = bed.fabric.scene.source.watch.since(marks[0]);
            routed.iter().all(|to| history.metrics(*to).len() == 5)
        });
        bed.wait_heard();
        wait::throughout(STAYS, "the third host knows all", || unknown(&bed).is_empty());
        for (who, mark) in [(Who::Source, marks[0]), (Who::Target, marks[1]), (Who::Third, marks[2])] {
            let history = bed.fabric.router(who).watch.since(mark);
            routed.iter().for_each(|to| history.assert_never_without(*to));
        }
    }
}

struct Bed {
    fabric: Fabric,
    witnesses: u8,
}

impl Bed {
    fn new(release: Release) -> Self {
        let fabric = Fabric::with(release, Shape::Mesh, |agent| {
            agent.set("CutoverFrrForgets", release == Release::Frr107);
        });
        Self { fabric, witnesses: 0 }
    }

    /// The hypervisor is gone.
    fn close(&mut self) {
        drop(self.fabric.scene.vm.pause());
        wait::until(wait::SOON, "no carrier", || !self.fabric.scene.source.tap().has_carrier());
    }

    fn open(&mut self) {
        let tap = self.fabric.scene.source.tap().open();
        self.fabric.scene.vm.resume(tap);
    }

    /// The tap is made anew, and has its routes and no carrier, as FRR knows.
    fn plug_anew(&mut self) {
        self.close();
        self.plug_again();
        self.wait_heard();
    }

    /// The same while zebra does not get a processor: two of its threads have something to read when it does.
    fn plug_anew_while_zebra_is_late(&mut self) {
        let zebra = self.fabric.router(Who::Source).speaker.frr().zebra_pid();
        let signal = |signal| kill(Pid::from_raw(zebra.cast_signed()), signal).expect("zebra is running");
        signal(Signal::SIGSTOP);
        self.close();
        self.plug_again();
        signal(Signal::SIGCONT);
        self.wait_heard();
    }

    fn plug_again(&mut self) {
        let port = self.fabric.port().clone();
        self.fabric.scene.source.unplug();
        self.fabric.scene.source.wait_metrics(&port, &[]);
        self.fabric.scene.source.plug(&port);
        self.fabric.scene.source.wait_metrics(&port, &[NORMAL]);
    }

    /// Waits until FRR of the source has taken in everything that the kernel has said so far: what comes after it has reached
    /// another host.
    fn wait_heard(&mut self) {
        self.witnesses += 1;
        let to: IpNet = format!("10.65.9.{}/32", self.witnesses).parse().expect("a prefix");
        let source = self.fabric.router(Who::Source).host.namespace();
        source.ip(&format!("route add {to} dev eth0 proto 4 scope link metric {ELEVATED}"));
        let third = self.fabric.router(Who::Third);
        wait::until(CONVERGED, "the witness arrives", || !third.watch.routes_to(to).is_empty());
    }

    #[track_caller]
    fn assert_announced(&self, when: &str) {
        let is_at_source = || self.fabric.is_at(Place::Source);
        let shown = || {
            let third = self.fabric.router(Who::Third).watch.routes();
            let log = self.fabric.scene.source.agent.log_text();
            format!("{when}: the third host has {third:#?}, the source's agent said\n{log}")
        };
        assert!(wait::holds_within(CONVERGED, is_at_source), "{}", shown());
        assert!(!wait::holds_within(STAYS, || !is_at_source()), "{}", shown());
        self.fabric.wait_tables(NORMAL);
        self.fabric.scene.source.wait_metrics(self.fabric.port(), &[NORMAL]);
    }
}
