//! The agent's own fast path, started the way the agent starts it, without the rest of the agent.

use super::{Contender, Finish, PATIENCE};
use crate::lane::Lane;
use crate::site::{Site, Watcher};
use anyhow::{Context as _, Result, bail};
use cutover_agent::fast_path::{FastPath, Written};
use cutover_agent::netlink::RouteSocket;
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
    written: UnboundedReceiver<Written>,
    undo: RouteSocket,
    generation: u64,
    spin: Duration,
}

impl<'a> Cutover<'a> {
    /// `spin` is the setting `CutoverBusyPollMicros`.
    pub(crate) fn new(site: &'a Site, name: &'static str, lane: Lane, spin: Duration) -> Result<Self> {
        let mut watcher = Watcher::load(site, lane.interface())?;
        let (sender, facts) = unbounded_channel();
        let (written_in, written) = unbounded_channel();
        let fast_path = FastPath::start(watcher.take_ring()?, site.open_socket()?, spin, written_in, sender)?;
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
        self.fast_path.prepare(self.generation, self.lane.routes());
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
        while self.written.try_recv().is_ok() {}
        // It still spins for this long, which is no business of the next contender's.
        std::thread::sleep(self.spin);
        self.lane.clear(&mut self.undo)
    }
}
