//! A migration in a fabric whose agents talk to each other: whatever the daemons do, nothing is lost from the moment on in which the
//! source forwards.

use super::{Fabric, Place, Speaker, Who};
use crate::frames;
use crate::namespace::Namespace;
use crate::scene::{SOURCE, TARGET};
use crate::stream::{DatagramStream, PERIOD, wait_answered};
use crate::wait;
use cutover_daemon::clock;
use ipnet::IpNet;

/// So many answers show that a stream goes.
const SOME: usize = 100;

impl Fabric {
    /// The machine goes to the target while a client sends to it.
    ///
    /// # Panics
    /// When a datagram is lost that was sent after the source had begun to forward, or when a daemon learns what is forwarded.
    #[track_caller]
    pub fn go_there_without_loss(&mut self) {
        let _uid = self.scene.start_migration();
        self.wait_forward("is_ready");
        let addresses = self.port().routed().into_iter().map(|net: IpNet| net.addr());
        let start = |address| DatagramStream::start(self.client(), address, PERIOD);
        let streams: Vec<_> = addresses.map(start).collect();
        wait_answered(&streams, SOME);
        let mac = self.port().mac;
        self.scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
        self.wait_forward("is_active");
        let forwarded_at = clock::now();
        for who in [Who::Source, Who::Target] {
            let known = match self.router(who).speaker {
                Speaker::Bird(bird) => bird.ask(&["show", "route", "all"]),
                Speaker::Frr(frr) => {
                    ["show ip route", "show ipv6 route"].map(|it| frr.vtysh(&["-c", it])).concat()
                }
            };
            assert!(!known.contains("cutover0"), "{who:?} has learnt what is forwarded:\n{known}");
        }
        self.wait_at(Place::Target);
        wait_answered(&streams, SOME);
        self.scene.driver.succeed(SOURCE, TARGET);
        self.scene.source.unplug();
        wait_answered(&streams, SOME);
        for stream in streams {
            let record = stream.finish();
            assert_eq!(record.lost_since(forwarded_at), 0, "of {} datagrams", record.sent());
            let gaps = record.gaps();
            assert!(gaps.len() <= 1, "{gaps:?}");
        }
    }

    /// Where packets come from: who has nothing to do with the machine.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        match &self.behind {
            Some(behind) => behind.namespace(),
            None => self.router(Who::Third).host.namespace(),
        }
    }

    /// Waits until the source's agent says this of what it forwards.
    #[track_caller]
    fn wait_forward(&self, field: &str) {
        let agent = &self.scene.source.agent;
        let is_it = || {
            agent.status()["forwards"].as_array().is_some_and(|all| all.iter().any(|it| it[field] == true))
        };
        if !wait::holds_within(wait::SOON, is_it) {
            let status = agent.status();
            panic!("{field}: {:#} {:#}\n{}", status["forwards"], status["peers"], agent.log_text());
        }
    }
}
