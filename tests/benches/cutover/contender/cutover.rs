//! The agent's own fast path, started the way the agent starts it, without the rest of the agent.

use super::{Contender, Finish, PATIENCE};
use crate::lane::Lane;
use crate::site::{Site, Watcher};
use anyhow::{Context as _, Result, bail};
use cutover_daemon::fast_path::{FastPath, Listeners, Written};
use cutover_daemon::netlink::{ByFamily, RouteSocket};
use cutover_daemon::peers::Herald;
use cutover_daemon::progress::Progress;
use cutover_engine::Fact;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Fields go in this order: the thread, what it reads, the tap.
pub(crate) struct Cutover<'a> {
    name: &'static str,
    fast_path: FastPath,
    watcher: Watcher<'a>,
    lane: Lane,
    facts: UnboundedReceiver<Fact>,
    written: ByFamily<UnboundedReceiver<Written>>,
    undo: RouteSocket,
    generation: u64,
    spin: Duration,
}

impl<'a> Cutover<'a> {
    /// `spin` is the setting `CutoverBusyPollMicros`.
    pub(crate) fn new(site: &'a Site, name: &'static str, lane: Lane, spin: Duration) -> Result<Self> {
        let mut watcher = Watcher::load(site, lane.interface())?;
        let (facts_in, facts) = unbounded_channel();
        let [(ipv4_in, ipv4), (ipv6_in, ipv6)] = [(); 2].map(|()| unbounded_channel());
        let written = ByFamily { ipv4, ipv6 };
        let written_in = ByFamily { ipv4: ipv4_in, ipv6: ipv6_in };
        let listeners = Listeners { written: written_in, herald: Herald::default(), facts: facts_in };
        let sockets = site.host.namespace().run(FastPath::open_sockets)?;
        let fast_path =
            FastPath::start(watcher.take_ring()?, sockets, spin, &listeners, &Progress::default())?;
        let undo = site.open_socket()?;
        Ok(Self { name, fast_path, watcher, lane, facts, written, undo, generation: 0, spin })
    }
}

impl Contender for Cutover<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn lane(&self) -> &Lane {
        &self.lane
    }

    fn arm(&mut self) -> Result<()> {
        self.generation = self.watcher.next_generation();
        self.fast_path.prepare(self.generation, self.lane.routes(), false);
        self.watcher.arm(&self.lane).map(drop)
    }

    fn finished(&mut self) -> Result<Finish> {
        let deadline = Instant::now() + PATIENCE;
        // The fast path has taken its times when the fact is there, so looking now and then disturbs nothing.
        while Instant::now() < deadline {
            let Ok(fact) = self.facts.try_recv() else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let Fact::AnnouncementSeen(seen) = fact else { bail!("the fast path reported {fact:?}") };
            let routed_at = seen.routed_at.context("the fast path could not install the routes")?;
            return Ok(Finish { seen_at: Some(seen.seen_at), routed_at });
        }
        bail!("the announcement got lost")
    }

    fn clear(&mut self) -> Result<()> {
        self.fast_path.keep_only(&BTreeSet::new());
        while self.written.ipv4.try_recv().is_ok() || self.written.ipv6.try_recv().is_ok() {}
        // It still spins for this long, which is no business of the next contender's.
        std::thread::sleep(self.spin);
        self.lane.clear(&mut self.undo)
    }
}
