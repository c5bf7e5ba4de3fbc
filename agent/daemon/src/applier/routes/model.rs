//! The applier against a main table that exists only here, in a time that passes at once: whatever happens in whichever order, it ends with
//! what is wanted, and no destination is without a route on the way.

use super::*;
use crate::netlink::socket::Failure;
use cutover_engine::shared::SharedSet;
use proptest::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

const TAP: u32 = 7;
const METRICS: [u32; 2] = [512, 1024];

/// The table, as the test and the applier's [`MainTable`] have it.
#[derive(Clone, Debug)]
struct Table(Arc<Mutex<Contents>>);

#[derive(Debug)]
struct Contents {
    routes: BTreeSet<WantedRoute>,
    /// Changes of routes to these are refused.
    refused: BTreeSet<IpNet>,
    /// When something was asked about each, and whether it was refused.
    asked: Vec<(BootTime, RouteChange, bool)>,
    /// Notifications are lost.
    is_deaf: bool,
    /// Changes are made, and the answers are lost.
    is_mute: bool,
    events: mpsc::Sender<RouteEvent>,
    /// To these there have to be routes: they were wanted before the last change and after it.
    needed: BTreeSet<IpNet>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn tell(&self, event: RouteEvent) {
        if !self.is_deaf {
            self.events.try_send(event).expect("room for what a test does");
        }
    }

    fn insert(&mut self, route: WantedRoute) {
        if self.routes.insert(route) {
            self.tell(RouteEvent::Seen(route, Owner::Ours));
        }
    }

    fn remove(&mut self, route: WantedRoute) {
        if self.routes.remove(&route) {
            self.tell(RouteEvent::Gone(route));
        }
    }

    fn has_route_to(&self, destination: IpNet) -> bool {
        self.routes.iter().any(|route| route.destination == destination)
    }

    fn recount(&self) -> RouteEvent {
        let held = self.routes.iter().map(|route| (*route, Owner::Ours)).collect();
        RouteEvent::Recount { held: Arc::new(held), since: clock::now() }
    }
}

impl MainTable for Table {
    fn change(&mut self, changes: &[RouteChange]) -> Result<Outcome, SendError> {
        let mut table = self.lock();
        let mut failed = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            let route = *change.route();
            let is_refused = table.refused.contains(&route.destination);
            table.asked.push((clock::now(), *change, is_refused));
            if is_refused {
                failed.push(Failure { index, errno: libc::ENETDOWN });
                continue;
            }
            match change {
                RouteChange::Add(_) | RouteChange::Replace(_) => table.insert(route),
                RouteChange::Remove(_) => {
                    table.remove(route);
                    let is_needed = table.needed.contains(&route.destination);
                    assert!(
                        !is_needed || table.is_deaf || table.has_route_to(route.destination),
                        "broken before made: {route:?}"
                    );
                }
            }
        }
        if table.is_mute { Err(SendError::AnswersLost) } else { Ok(Outcome { failed }) }
    }
}

fn route(number: u8, metric: u32) -> WantedRoute {
    let destination = format!("10.65.0.{number}/32").parse().unwrap();
    WantedRoute { destination, ifindex: TAP, metric, protocol: 3, source: None }
}

/// A running applier with what it stands between.
struct Scene {
    table: Table,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
}

impl Scene {
    /// Needs a runtime around it.
    fn begin() -> Self {
        clock::follow_tokio();
        let (wanted, receiver) = watch::channel(None);
        let (events, events_out) = mpsc::channel(4096);
        let contents = Contents {
            routes: BTreeSet::new(),
            refused: BTreeSet::new(),
            asked: Vec::new(),
            is_deaf: false,
            is_mute: false,
            events: events.clone(),
            needed: BTreeSet::new(),
        };
        let table = Table(Arc::new(Mutex::new(contents)));
        let applier =
            RouteApplier::on(table.clone(), Family::Ipv4, receiver, events_out, RouteReport::default());
        tokio::spawn(applier.run());
        events.try_send(RouteEvent::Synced).unwrap();
        Self { table, wanted }
    }

    fn want(&self, routes: &BTreeSet<WantedRoute>) {
        let destinations = |routes: &BTreeSet<WantedRoute>| -> BTreeSet<IpNet> {
            routes.iter().map(|route| route.destination).collect()
        };
        let before = self.wanted.borrow().as_ref().map(|before| before.routes.iter().copied().collect());
        let before = destinations(&before.unwrap_or_default());
        self.table.lock().needed = destinations(routes).intersection(&before).copied().collect();
        let wanted = Wanted {
            routes: routes.iter().copied().collect(),
            known_interfaces: SharedSet::from_iter([TAP]),
            leftovers_may_go: true,
            ..Wanted::default()
        };
        self.wanted.send_replace(Some(Arc::new(wanted)));
    }
}

fn in_no_time<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(test)
}

#[derive(Clone, Debug)]
enum Step {
    /// One bit for each of three destinations and two metrics.
    Want(u8),
    /// Somebody deletes a route.
    Delete(u8, u32),
    /// Somebody else writes a route like ours.
    Write(u8, u32),
    Refuse(u8),
    Accept(u8),
    /// Notifications are lost from now on.
    Overrun,
    /// Everything is read again.
    Recount,
    /// Answers are lost, or not any more.
    Mute(bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (number, metric) = (1..=3_u8, prop::sample::select(METRICS.to_vec()));
    prop_oneof![
        4 => (0..64_u8).prop_map(Step::Want),
        2 => (number.clone(), metric.clone()).prop_map(|(number, metric)| Step::Delete(number, metric)),
        1 => (number.clone(), metric).prop_map(|(number, metric)| Step::Write(number, metric)),
        2 => number.clone().prop_map(Step::Refuse),
        2 => number.prop_map(Step::Accept),
        1 => Just(Step::Overrun),
        1 => Just(Step::Recount),
        1 => any::<bool>().prop_map(Step::Mute),
        4 => (0..5_000_u64).prop_map(Step::Pass),
    ]
}

fn wanted_of(bits: u8) -> BTreeSet<WantedRoute> {
    let places = (1..=3_u8).flat_map(|number| METRICS.map(|metric| (number, metric)));
    let chosen = places.enumerate().filter(|(place, _)| bits & (1 << place) != 0);
    chosen.map(|(_, (number, metric))| route(number, metric)).collect()
}

async fn play(steps: &[Step]) {
    let scene = Scene::begin();
    let mut wanted = BTreeSet::new();
    for step in steps {
        match step {
            Step::Want(bits) => {
                wanted = wanted_of(*bits);
                scene.want(&wanted);
            }
            Step::Delete(number, metric) => scene.table.lock().remove(route(*number, *metric)),
            Step::Write(number, metric) => scene.table.lock().insert(route(*number, *metric)),
            Step::Refuse(number) => {
                scene.table.lock().refused.insert(route(*number, 0).destination);
            }
            Step::Accept(number) => {
                scene.table.lock().refused.remove(&route(*number, 0).destination);
            }
            Step::Overrun => scene.table.lock().is_deaf = true,
            Step::Recount => recount(&scene.table),
            Step::Mute(is_mute) => scene.table.lock().is_mute = *is_mute,
            Step::Pass(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        }
        // What is to be broken is a matter between two settled states: the applier takes each set before the next one comes.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scene.table.lock().refused.clear();
    scene.table.lock().is_mute = false;
    recount(&scene.table);
    if scene.wanted.borrow().is_none() {
        scene.want(&wanted);
    }
    // The longest pause between two attempts.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let asked = {
        let table = scene.table.lock();
        assert_eq!(table.routes, wanted);
        table.asked.len()
    };
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.table.lock().asked.len(), asked, "nothing differs, and something is written");
}

fn recount(table: &Table) {
    let mut table = table.lock();
    table.is_deaf = false;
    let recount = table.recount();
    table.tell(recount);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn it_ends_with_what_is_wanted(steps in prop::collection::vec(step(), 1..40)) {
        in_no_time(play(&steps));
    }
}

/// When the route was asked for, in milliseconds after the first time.
fn attempts(table: &Table) -> Vec<u128> {
    let table = table.lock();
    let first = table.asked[0].0;
    table.asked.iter().map(|(at, ..)| at.since(first).as_millis()).collect()
}

#[test]
fn what_is_refused_is_tried_again_ever_later() {
    in_no_time(async {
        let scene = Scene::begin();
        scene.table.lock().refused.insert(route(1, 0).destination);
        scene.want(&BTreeSet::from([route(1, 512)]));
        tokio::time::sleep(Duration::from_secs(40)).await;
        let tried = attempts(&scene.table);
        let expected = [0, 100, 300, 700, 1_500, 3_100, 6_300, 12_700, 22_700, 32_700];
        // The clock of the runtime has steps of a millisecond.
        let is_so = tried.len() == expected.len()
            && tried.iter().zip(expected).all(|(at, expected)| at.abs_diff(expected) <= 20);
        assert!(is_so, "{tried:?}");
        assert!(scene.table.lock().routes.is_empty());
    });
}

#[test]
fn a_change_of_the_link_ends_the_waiting() {
    in_no_time(async {
        let scene = Scene::begin();
        scene.table.lock().refused.insert(route(1, 0).destination);
        scene.want(&BTreeSet::from([route(1, 512)]));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = attempts(&scene.table).len();
        scene.table.lock().refused.clear();
        scene.table.lock().tell(RouteEvent::LinkChanged { ifindex: TAP, running: true });
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(attempts(&scene.table).len(), before + 1);
        assert!(scene.table.lock().routes.contains(&route(1, 512)));
    });
}

/// A removal that cannot be made is no reason for more additions, and the other way round.
#[test]
fn the_old_one_stays_while_the_new_one_is_refused() {
    in_no_time(async {
        let scene = Scene::begin();
        scene.want(&BTreeSet::from([route(1, 1024)]));
        tokio::time::sleep(Duration::from_millis(10)).await;
        scene.table.lock().refused.insert(route(1, 0).destination);
        scene.want(&BTreeSet::from([route(1, 512)]));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(scene.table.lock().routes, BTreeSet::from([route(1, 1024)]));
        let removals = |table: &Contents| {
            table.asked.iter().filter(|(_, change, _)| matches!(change, RouteChange::Remove(_))).count()
        };
        assert_eq!(removals(&scene.table.lock()), 0);
        scene.table.lock().refused.clear();
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(scene.table.lock().routes, BTreeSet::from([route(1, 512)]));
        assert_eq!(removals(&scene.table.lock()), 1);
    });
}
