//! Many interfaces in a network namespace of their own that go all at once. For as long as that takes they have the kernel's lock of links
//! (RTNL), and whoever needs it waits, in every namespace: what happens on a host where somebody stops a hundred containers.

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::processors;
use crate::wait;
use cutover_daemon::netlink::{PreparedBatch, RouteChange, RouteSocket, route};
use cutover_engine::wanted::WantedRoute;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// LIMIT: half of them are peers of the others. They take the kernel some hundred milliseconds, and to make them takes a second or two.
const PAIRS: usize = 2000;

/// Group of the interfaces (linux/if_link.h: IFLA_GROUP), so that one request deletes all of them.
const GROUP: &str = "77";

/// A request that needs the lock takes some microseconds without anybody else.
const FOR_SURE: Duration = Duration::from_millis(5);

/// The interfaces.
#[derive(Debug)]
pub struct Crowd {
    namespace: Namespace,
}

impl Crowd {
    /// Makes them.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn gather(lab: &Lab) -> Self {
        let namespace = Namespace::create(&format!("{}crowd", lab.prefix()));
        let mut script = String::new();
        for number in 0..PAIRS {
            writeln!(script, "link add a{number} group {GROUP} type veth peer name b{number}")
                .expect("memory");
        }
        namespace.ip(&script);
        Self { namespace }
    }

    /// Makes all of them go, and does `work` as soon as that keeps others waiting. Returns when they are gone. Whoever makes them go
    /// is on the first processor ([`processors::first`]).
    ///
    /// # Panics
    /// When they do not go.
    #[track_caller]
    pub fn disperse_during(self, work: impl FnOnce()) {
        let mut socket = self.namespace.run(RouteSocket::open).expect("a socket");
        let (answers, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let question = question();
                while !is_over.load(Ordering::Relaxed) {
                    socket.send(&question).expect("an answer");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
            let leaving = scope.spawn(|| {
                let _over = OnDrop(&is_over);
                // The process has what the thread has that makes it.
                processors::stay_on(&processors::first());
                self.namespace.command("ip").args(["link", "delete", "group", GROUP]).status()
            });
            wait::until(wait::SOON, "somebody waits for the lock, or it is over", || {
                let before = answers.load(Ordering::Relaxed);
                thread::sleep(FOR_SURE);
                is_over.load(Ordering::Relaxed) || answers.load(Ordering::Relaxed) == before
            });
            work();
            let status = leaving.join().expect("no panic").expect("iproute2 is installed");
            assert!(status.success(), "they stay");
        });
    }
}

/// Says so also when its thread panics: a scope waits for the others.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Something that waits for the lock and does nothing then: there is no such route.
fn question() -> PreparedBatch {
    let destination = "198.51.100.1/32".parse().expect("a prefix");
    let route = WantedRoute { destination, ifindex: 1, metric: 1, protocol: 3, source: None };
    route::prepare([RouteChange::Remove(route)])
}
