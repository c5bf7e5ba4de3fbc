//! In place of BGP: copies the routes of the compute hosts to the client, with the hosts as next hops and with
//! their priority, which is what the daemons of a real fabric carry. Slow, because it calls `ip`.

use crate::PERIOD;
use cutover_tests::scene::Node;
use cutover_tests::{Host, RouteWatch};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// The stand-in, running.
pub(crate) struct Fabric {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// A compute host as the fabric sees it.
struct Speaker {
    watch: RouteWatch,
    ifindex: u32,
    next_hops: [IpAddr; 2],
}

impl Fabric {
    /// Follows the routes on the taps of `nodes` from now on.
    pub(crate) fn start(client: &Host, nodes: &[&Node]) -> Self {
        let speakers: Vec<Speaker> = nodes
            .iter()
            .map(|node| Speaker {
                watch: RouteWatch::start(node.host.namespace()),
                ifindex: node.tap().ifindex(),
                next_hops: [node.host.ipv4().into(), node.host.ipv6().into()],
            })
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let namespace = client.namespace_shared();
        let thread = thread::spawn(move || {
            let mut installed = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let wanted: BTreeSet<String> = speakers.iter().flat_map(Speaker::advertised).collect();
                let mut script = String::new();
                // New paths first, as a BGP daemon does it.
                wanted.difference(&installed).for_each(|route| script += &format!("route append {route}\n"));
                installed.difference(&wanted).for_each(|route| script += &format!("route del {route}\n"));
                if !script.is_empty() {
                    namespace.ip(&script);
                    installed = wanted;
                }
                thread::sleep(PERIOD);
            }
        });
        Self { stop, thread }
    }

    /// Stops; the client keeps its routes.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of the thread has been printed.
        let _ = self.thread.join();
    }
}

impl Speaker {
    fn advertised(&self) -> Vec<String> {
        let routes = self.watch.history().current();
        let ours = routes.iter().filter(|route| route.ifindex == self.ifindex && route.protocol == 3);
        ours.map(|route| {
            let via = self.next_hops[usize::from(route.destination.addr().is_ipv6())];
            format!("{} via {via} metric {}", route.destination, route.metric)
        })
        .collect()
    }
}
