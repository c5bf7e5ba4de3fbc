//! The applier against taps that exist only here, in a time that passes at once: whatever fails in whichever order, it ends with what is
//! wanted, every announcement is told, and the batch is always there before the watch.

use super::*;
use crate::bpf::{ArmError, DisarmError, OpenError, ReadError};
use aya::maps::MapError;
use cutover_engine::shared::SharedMap;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::MutexGuard;
use tokio::sync::{mpsc, watch};

/// The kernel and what is prepared, as the test and the applier have them.
#[derive(Clone, Debug, Default)]
struct Host(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    armed: BTreeMap<u32, Watch>,
    evidence: HashMap<u64, Evidence>,
    prepared: BTreeMap<u64, BTreeSet<cutover_engine::wanted::WantedRoute>>,
    /// Attached, and not watched any more.
    idle: BTreeSet<u32>,
    /// Cannot be armed.
    refused: BTreeSet<u32>,
    /// Nothing can be read or disarmed.
    is_broken: bool,
    /// When something was detached.
    detached: Vec<BootTime>,
    /// When a tap was tried to be armed.
    tried: Vec<BootTime>,
}

impl Host {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken() -> MapError {
    MapError::KeyNotFound
}

impl Taps for Host {
    fn armed(&self) -> Result<Vec<(u32, Watch)>, ReadError> {
        let host = self.lock();
        if host.is_broken {
            return Err(broken().into());
        }
        Ok(host.armed.iter().map(|(ifindex, watch)| (*ifindex, *watch)).collect())
    }

    fn is_there(&self, _ifindex: u32, _interface: &str) -> bool {
        true
    }

    fn restore_pins(&mut self) -> Result<bool, OpenError> {
        Ok(false)
    }

    fn arm(&mut self, ifindex: u32, interface: &str, watch: &Watch) -> Result<(), ArmError> {
        let mut host = self.lock();
        host.tried.push(clock::now());
        if host.refused.contains(&ifindex) {
            return Err(ArmError::Watch { interface: interface.to_owned(), error: broken() });
        }
        let is_known = host.armed.get(&ifindex).is_some_and(|it| it.generation == watch.generation);
        let can_install = host.prepared.contains_key(&watch.generation);
        let was_told = host.evidence.contains_key(&watch.generation);
        assert!(is_known || can_install || was_told, "armed before anything is prepared");
        host.armed.insert(ifindex, *watch);
        host.idle.remove(&ifindex);
        Ok(())
    }

    fn disarm(&mut self, ifindex: u32, _interface: Option<&str>) -> Result<(), DisarmError> {
        let mut host = self.lock();
        if host.is_broken {
            return Err(DisarmError::Watch { ifindex, error: broken() });
        }
        if let Some(watch) = host.armed.remove(&ifindex) {
            assert!(!host.prepared.contains_key(&watch.generation), "disarmed while it could still install");
            host.evidence.remove(&watch.generation);
            host.idle.insert(ifindex);
        }
        Ok(())
    }

    fn is_awaiting(&self) -> Result<bool, ReadError> {
        let host = self.lock();
        Ok(host.armed.values().any(|watch| !host.evidence.contains_key(&watch.generation)))
    }

    fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    fn detach_idle(&mut self) -> Result<(), DisarmError> {
        let mut host = self.lock();
        host.detached.push(clock::now());
        host.idle.pop_first();
        Ok(())
    }

    fn evidence(&self, generation: u64) -> Result<Option<Evidence>, ReadError> {
        let host = self.lock();
        if host.is_broken { Err(broken().into()) } else { Ok(host.evidence.get(&generation).copied()) }
    }

    fn forget_stray_evidence(&mut self) -> Result<usize, ReadError> {
        let mut host = self.lock();
        let known: BTreeSet<u64> = host.armed.values().map(|watch| watch.generation).collect();
        let before = host.evidence.len();
        host.evidence.retain(|generation, _| known.contains(generation));
        Ok(before - host.evidence.len())
    }
}

impl Batches for Host {
    fn prepare(
        &self,
        generation: u64,
        routes: &BTreeSet<cutover_engine::wanted::WantedRoute>,
        _ends_forwarding: bool,
    ) {
        self.lock().prepared.insert(generation, routes.clone());
    }

    fn keep_only(&self, generations: &BTreeSet<u64>) {
        self.lock().prepared.retain(|generation, _| generations.contains(generation));
    }
}

struct Scene {
    host: Host,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    facts: mpsc::UnboundedReceiver<Fact>,
    unarmed: Unarmed,
}

impl Scene {
    fn begin() -> Self {
        clock::follow_tokio();
        let host = Host::default();
        let (wanted, receiver) = watch::channel(None);
        let (facts_in, facts) = mpsc::unbounded_channel();
        let applier = WatchApplier::new(host.clone(), host.clone(), facts_in);
        let unarmed = applier.unarmed();
        tokio::spawn(applier.run(receiver));
        Self { host, wanted, facts, unarmed }
    }

    fn want(&self, watches: &BTreeMap<u32, u64>) {
        let watches: SharedMap<u32, WantedWatch> = watches
            .iter()
            .map(|(ifindex, generation)| (*ifindex, wanted_watch(*ifindex, *generation)))
            .collect();
        self.wanted.send_replace(Some(Arc::new(Wanted { watches, ..Wanted::default() })));
    }

    /// Generations whose announcement was told, in the order in which that was.
    fn announced(&mut self) -> Vec<u64> {
        let mut announced = Vec::new();
        while let Ok(fact) = self.facts.try_recv() {
            if let Fact::AnnouncementSeen(seen) = fact {
                announced.push(seen.generation);
            }
        }
        announced
    }
}

fn wanted_watch(ifindex: u32, generation: u64) -> WantedWatch {
    WantedWatch {
        interface: format!("tap{ifindex}"),
        generation,
        mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        addresses: BTreeSet::new(),
        trigger: Trigger::Announcement,
        validation: Validation::Strict,
        ends_forwarding: false,
        routes: BTreeSet::new(),
    }
}

fn in_no_time<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(test)
}

#[derive(Clone, Debug)]
enum Step {
    /// A new arming of a tap.
    Await(u32),
    Release(u32),
    /// Its guest announces itself.
    Announce(u32),
    Refuse(u32),
    Accept(u32),
    Break,
    Mend,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let tap = 1..=3_u32;
    prop_oneof![
        4 => tap.clone().prop_map(Step::Await),
        3 => tap.clone().prop_map(Step::Release),
        3 => tap.clone().prop_map(Step::Announce),
        2 => tap.clone().prop_map(Step::Refuse),
        2 => tap.prop_map(Step::Accept),
        1 => Just(Step::Break),
        1 => Just(Step::Mend),
        4 => (0..4_000_u64).prop_map(Step::Pass),
    ]
}

async fn play(steps: &[Step]) {
    let mut scene = Scene::begin();
    let (mut wanted, mut next_generation) = (BTreeMap::new(), 0);
    // Those that announced themselves while they were watched, and are still wanted.
    let (mut latched, mut told) = (BTreeSet::new(), Vec::new());
    for step in steps {
        match step {
            Step::Await(tap) => {
                next_generation += 1;
                wanted.insert(*tap, next_generation);
                scene.want(&wanted);
            }
            Step::Release(tap) => {
                wanted.remove(tap);
                scene.want(&wanted);
            }
            Step::Announce(tap) => {
                let mut host = scene.host.lock();
                if let Some(watch) = host.armed.get(tap).copied() {
                    let at = clock::now().0;
                    host.evidence.entry(watch.generation).or_insert(Evidence {
                        seen_at_ns: at,
                        ifindex: *tap,
                        kind: AnnouncementKind::Rarp as u32,
                    });
                    latched.insert(watch.generation);
                }
            }
            Step::Refuse(tap) => {
                scene.host.lock().refused.insert(*tap);
            }
            Step::Accept(tap) => {
                scene.host.lock().refused.remove(tap);
            }
            Step::Break => scene.host.lock().is_broken = true,
            Step::Mend => scene.host.lock().is_broken = false,
            Step::Pass(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        told.extend(scene.announced());
    }
    {
        let mut host = scene.host.lock();
        (host.is_broken, host.refused) = (false, BTreeSet::new());
    }
    // The longest pause between two attempts.
    tokio::time::sleep(Duration::from_secs(11)).await;
    told.extend(scene.announced());
    {
        let host = scene.host.lock();
        let armed: BTreeMap<u32, u64> =
            host.armed.iter().map(|(ifindex, watch)| (*ifindex, watch.generation)).collect();
        assert_eq!(armed, wanted);
        let generations: BTreeSet<u64> = wanted.values().copied().collect();
        let kept: Vec<_> = latched.intersection(&generations).filter(|it| !told.contains(it)).collect();
        assert!(kept.is_empty(), "nobody was told of {kept:?}");
        assert!(scene.unarmed.lock().unwrap().is_empty());
    }
    let once: BTreeSet<u64> = told.iter().copied().collect();
    assert_eq!(once.len(), told.len(), "told twice: {told:?}");
    // Whoever is still awaited holds it up for a minute.
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(scene.host.lock().idle.len(), 0, "something stays attached");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn it_ends_with_what_is_wanted(steps in prop::collection::vec(step(), 1..40)) {
        in_no_time(play(&steps));
    }
}

#[test]
fn what_cannot_be_armed_is_named_and_tried_again_ever_later() {
    in_no_time(async {
        let scene = Scene::begin();
        scene.host.lock().refused.insert(1);
        scene.want(&BTreeMap::from([(1, 7)]));
        tokio::time::sleep(Duration::from_secs(20)).await;
        let tried = scene.host.lock().tried.clone();
        let after: Vec<u128> = tried.iter().map(|at| at.since(tried[0]).as_millis()).collect();
        let expected = [0, 100, 300, 700, 1_500, 3_100, 6_300, 12_700];
        let is_so = after.len() == expected.len()
            && after.iter().zip(expected).all(|(at, expected)| at.abs_diff(expected) <= 20);
        assert!(is_so, "{after:?}");
        assert_eq!(scene.unarmed.lock().unwrap().len(), 1);
        scene.host.lock().refused.clear();
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(scene.unarmed.lock().unwrap().is_empty() && scene.host.lock().armed.contains_key(&1));
    });
}
