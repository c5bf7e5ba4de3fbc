//! The applier over a preparer that exists only here, in a time that passes at once: whatever fails, and however long, each interface ends
//! prepared and is reported, what a migration waits for comes first, and what failed is tried again ever later.

use super::*;
use crate::netlink::{Neighbour, NeighbourKey};
use crate::sysctls::SettingError;
use cutover_common::MacAddr;
use cutover_engine::model::{Trigger, Validation};
use cutover_engine::shared::SharedMap;
use cutover_engine::wanted::{WantedInterface, WantedWatch};
use proptest::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Debug, Default)]
struct Host(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    /// Cannot be prepared.
    refused: BTreeSet<u32>,
    /// Can be prepared but for something.
    lacking: BTreeSet<u32>,
    /// What each was prepared for last.
    prepared: BTreeMap<u32, WantedInterface>,
    /// Every attempt.
    tried: Vec<(BootTime, u32)>,
}

impl Host {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepares for Host {
    fn writes(&self) -> usize {
        0
    }

    fn is_loud(&self) -> bool {
        false
    }

    fn be_loud(&mut self, _is_loud: bool) {}

    fn seen(&mut self, _neighbour: Neighbour) -> bool {
        true
    }

    fn gone(&mut self, _key: &NeighbourKey) -> bool {
        true
    }

    fn recount(&mut self, _held: &BTreeMap<NeighbourKey, MacAddr>, _since: BootTime) -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn prepare_host(&self, _with_ipv6: bool) -> Result<(), SettingError> {
        Ok(())
    }

    fn prepare(&mut self, ifindex: u32, interface: &WantedInterface) -> Result<Option<String>, PrepareError> {
        let mut host = self.lock();
        host.tried.push((clock::now(), ifindex));
        if host.refused.contains(&ifindex) {
            return Err(PrepareError::Missing);
        }
        host.prepared.insert(ifindex, interface.clone());
        Ok(host.lacking.contains(&ifindex).then(|| "no IPv6".to_owned()))
    }
}

struct Scene {
    host: Host,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    events: mpsc::Sender<NeighbourEvent>,
    facts: mpsc::Receiver<Fact>,
    unprepared: Unprepared,
    mended: mpsc::UnboundedReceiver<u32>,
}

impl Scene {
    /// Needs a runtime around it.
    fn begin() -> Self {
        clock::follow_tokio();
        let (wanted, receiver) = watch::channel(None);
        let (events, events_out) = mpsc::channel(4096);
        let (facts_in, facts) = mpsc::channel(4096);
        let host = Host::default();
        let settings = InterfaceSettings { ip_forwarding: false, ..InterfaceSettings::default() };
        let mut applier = Applier::with(host.clone(), settings, receiver, events_out, facts_in);
        let (mended_in, mended) = mpsc::unbounded_channel();
        applier.mended = mended_in;
        let unprepared = applier.unprepared.clone();
        tokio::spawn(applier.run());
        events.try_send(NeighbourEvent::Synced).unwrap();
        Self { host, wanted, events, facts, unprepared, mended }
    }

    fn want(&self, interfaces: &BTreeMap<u32, u8>, watched: &[u32]) {
        let interface = |ifindex: u32, version: u8| WantedInterface {
            name: format!("tap{ifindex}"),
            neighbours: BTreeMap::from([([10, 65, 0, version].into(), MacAddr([2, 0, 0, 0, 0, 1]))]),
            ipv6: Ipv6::Unused,
            is_bridge: false,
        };
        let watch = |ifindex: u32| WantedWatch {
            interface: format!("tap{ifindex}"),
            generation: u64::from(ifindex),
            mac: None,
            addresses: BTreeSet::new(),
            trigger: Trigger::Announcement,
            validation: Validation::Strict,
            ends_forwarding: false,
            routes: BTreeSet::new(),
        };
        let all = interfaces.iter().map(|(ifindex, version)| (*ifindex, interface(*ifindex, *version)));
        let watches: SharedMap<u32, WantedWatch> =
            watched.iter().map(|ifindex| (*ifindex, watch(*ifindex))).collect();
        let wanted = Wanted { interfaces: all.collect(), watches, ..Wanted::default() };
        self.wanted.send_replace(Some(Arc::new(wanted)));
    }

    /// What was last said about each.
    fn reported(&mut self, into: &mut BTreeMap<u32, bool>) {
        while let Ok(Fact::InterfaceConfigured { ifindex, ready }) = self.facts.try_recv() {
            into.insert(ifindex, ready);
        }
    }

    /// When an interface was tried, in milliseconds after the first time.
    fn tried(&self, ifindex: u32) -> Vec<u128> {
        let host = self.host.lock();
        let times: Vec<BootTime> =
            host.tried.iter().filter(|(_, tried)| *tried == ifindex).map(|(at, _)| *at).collect();
        times.iter().map(|at| at.since(times[0]).as_millis()).collect()
    }
}

fn in_no_time<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(test)
}

#[derive(Clone, Debug)]
enum Step {
    /// An interface is wanted, or wanted otherwise.
    Want(u32, u8),
    Forget(u32),
    Refuse(u32),
    Accept(u32),
    Lack(u32),
    Mend(u32),
    /// Something about its link changes.
    Change(u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let tap = 1..=4_u32;
    prop_oneof![
        4 => (tap.clone(), 0..3_u8).prop_map(|(tap, version)| Step::Want(tap, version)),
        2 => tap.clone().prop_map(Step::Forget),
        2 => tap.clone().prop_map(Step::Refuse),
        2 => tap.clone().prop_map(Step::Accept),
        1 => tap.clone().prop_map(Step::Lack),
        1 => tap.clone().prop_map(Step::Mend),
        1 => tap.prop_map(Step::Change),
        4 => (0..4_000_u64).prop_map(Step::Pass),
    ]
}

async fn play(steps: &[Step]) {
    let mut scene = Scene::begin();
    let (mut wanted, mut reported) = (BTreeMap::new(), BTreeMap::new());
    for step in steps {
        match step {
            Step::Want(tap, version) => {
                wanted.insert(*tap, *version);
                scene.want(&wanted, &[]);
            }
            Step::Forget(tap) => {
                wanted.remove(tap);
                scene.want(&wanted, &[]);
                tokio::time::sleep(Duration::from_millis(1)).await;
                scene.reported(&mut reported);
                reported.remove(tap);
            }
            Step::Refuse(tap) => drop(scene.host.lock().refused.insert(*tap)),
            Step::Accept(tap) => drop(scene.host.lock().refused.remove(tap)),
            Step::Lack(tap) => drop(scene.host.lock().lacking.insert(*tap)),
            Step::Mend(tap) => drop(scene.host.lock().lacking.remove(tap)),
            Step::Change(tap) => {
                scene.events.try_send(NeighbourEvent::LinkChanged { ifindex: *tap }).unwrap();
            }
            Step::Pass(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        scene.reported(&mut reported);
    }
    {
        let mut host = scene.host.lock();
        (host.refused, host.lacking) = Default::default();
    }
    // The longest pause between two attempts.
    tokio::time::sleep(Duration::from_secs(11)).await;
    scene.reported(&mut reported);
    let newest = scene.wanted.borrow().clone().unwrap_or_default();
    let tried = {
        let host = scene.host.lock();
        for (ifindex, interface) in newest.interfaces.iter() {
            assert_eq!(host.prepared.get(ifindex), Some(interface));
            assert_eq!(reported.get(ifindex), Some(&true), "{ifindex}");
        }
        host.tried.len()
    };
    assert!(scene.unprepared.list().is_empty(), "{:?}", scene.unprepared.list());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.host.lock().tried.len(), tried, "everything is ready, and something is tried");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn each_ends_prepared_and_reported(steps in prop::collection::vec(step(), 1..40)) {
        in_no_time(play(&steps));
    }
}

#[test]
fn what_cannot_be_prepared_is_tried_again_ever_later_and_at_once_when_its_link_changes() {
    in_no_time(async {
        let scene = Scene::begin();
        scene.host.lock().refused.insert(1);
        scene.want(&BTreeMap::from([(1, 0)]), &[]);
        tokio::time::sleep(Duration::from_secs(8)).await;
        let tried = scene.tried(1);
        let expected = [0, 100, 300, 700, 1_500, 3_100, 6_300];
        let is_so = tried.len() == expected.len()
            && tried.iter().zip(expected).all(|(at, expected)| at.abs_diff(expected) <= 20);
        assert!(is_so, "{tried:?}");
        assert_eq!(scene.unprepared.list().len(), 1);
        scene.host.lock().refused.clear();
        scene.events.try_send(NeighbourEvent::LinkChanged { ifindex: 1 }).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(scene.host.lock().prepared.contains_key(&1) && scene.unprepared.list().is_empty());
    });
}

/// The kernel does not always say when it is there.
#[test]
fn what_lacks_something_is_looked_at_every_second_until_it_has_it() {
    in_no_time(async {
        let mut scene = Scene::begin();
        scene.host.lock().lacking.insert(1);
        scene.want(&BTreeMap::from([(1, 0)]), &[]);
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        assert_eq!(scene.tried(1).len(), 4, "{:?}", scene.tried(1));
        while scene.mended.try_recv().is_ok() {}
        scene.host.lock().lacking.clear();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.mended.try_recv(), Ok(1));
        let tried = scene.tried(1).len();
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(scene.tried(1).len(), tried, "it is complete");
    });
}

#[test]
fn what_a_migration_waits_for_comes_first() {
    in_no_time(async {
        let scene = Scene::begin();
        let many = (1..=50).map(|ifindex| (ifindex, 0)).collect();
        scene.want(&many, &[50, 20]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let order: Vec<u32> = scene.host.lock().tried.iter().map(|(_, ifindex)| *ifindex).collect();
        assert_eq!((&order[..3], order.len()), (&[20, 50, 1][..], 50));
    });
}
