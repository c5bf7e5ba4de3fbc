//! The publisher against a store that is slow, or out of order.

use super::*;
use cutover_engine::Wanted;
use cutover_engine::model::EndpointKey;
use cutover_engine::wanted::{Status, WantedStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

#[derive(Debug, thiserror::Error)]
#[error("out of order")]
struct OutOfOrder;

/// What a store went through.
#[derive(Default)]
struct Inside {
    values: Observed,
    log: Vec<String>,
    at_once: usize,
    most_at_once: usize,
    /// Requests about these names fail.
    broken: BTreeSet<String>,
    reads: usize,
    /// When a LiveMigration was written last.
    migration_at: i64,
    overtaken: usize,
}

#[derive(Clone)]
struct Fake {
    inside: Arc<Mutex<Inside>>,
    /// A write takes one of these.
    permits: Arc<Semaphore>,
    /// A read takes one of these.
    read_permits: Arc<Semaphore>,
}

impl Fake {
    fn with<const N: usize>(values: [(&str, &str); N]) -> Self {
        let values = values.map(|(name, status)| (name.to_owned(), Some(status.to_owned())));
        let inside = Inside { values: values.into(), ..Inside::default() };
        let many = || Arc::new(Semaphore::new(1_000_000));
        Self { inside: Arc::new(Mutex::new(inside)), permits: many(), read_permits: many() }
    }

    fn inside<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        look(&mut self.inside.lock().unwrap())
    }

    async fn request(
        &self,
        name: String,
        entry: String,
        seen: Option<i64>,
        change: impl FnOnce(&mut Observed),
    ) -> Result<Outcome, OutOfOrder> {
        let is_overtaken = self.inside(|inside| {
            let is_overtaken = seen.is_some_and(|seen| seen < inside.migration_at);
            inside.overtaken += usize::from(is_overtaken);
            is_overtaken
        });
        if is_overtaken {
            return Ok(Outcome::Overtaken);
        }
        self.inside(|inside| {
            inside.log.push(entry);
            inside.at_once += 1;
            inside.most_at_once = inside.most_at_once.max(inside.at_once);
        });
        self.permits.acquire().await.unwrap().forget();
        self.inside(|inside| {
            inside.at_once -= 1;
            if inside.broken.contains(&name) {
                return Err(OutOfOrder);
            }
            change(&mut inside.values);
            Ok(Outcome::Done)
        })
    }

    async fn wait(&self, what: &str, holds: impl Fn(&Inside) -> bool) {
        for _ in 0..5_000 {
            if self.inside(|inside| holds(inside)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("not so: {what}; {:?}", self.inside(|inside| inside.log.clone()));
    }
}

impl Store for Fake {
    type Error = OutOfOrder;

    /// One name a page, so that there are many.
    async fn page(&self, from: Option<String>) -> Result<Page, OutOfOrder> {
        let page = self.inside(|inside| {
            inside.reads += usize::from(from.is_none());
            if inside.broken.contains("read") {
                return Err(OutOfOrder);
            }
            let mut left = inside.values.range(from.unwrap_or_default()..);
            let statuses = left.next().map(|(name, status)| (name.clone(), status.clone()));
            let next = left.next().map(|(name, _)| name.clone());
            Ok(Page { statuses: statuses.into_iter().collect(), next })
        });
        self.read_permits.acquire().await.unwrap().forget();
        page
    }

    async fn write(&self, name: String, value: String, seen: Option<i64>) -> Result<Outcome, OutOfOrder> {
        let status = parse(value.as_bytes());
        let entry = format!("{name}={}", status.clone().unwrap());
        self.request(name.clone(), entry, seen, |values| drop(values.insert(name, status))).await
    }

    async fn remove(&self, name: String, seen: Option<i64>) -> Result<Outcome, OutOfOrder> {
        self.request(name.clone(), format!("-{name}"), seen, |values| drop(values.remove(&name))).await
    }
}

fn key(endpoint: &str) -> EndpointKey {
    EndpointKey {
        host: "host".into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm".into(),
        endpoint: endpoint.into(),
    }
}

const UP: WantedStatus = WantedStatus::of(Status::Up);

type Statuses = BTreeMap<EndpointKey, WantedStatus>;

struct Bench {
    store: Fake,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    enabled: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    delay: watch::Sender<Duration>,
    migrations_told: watch::Sender<i64>,
    own: mpsc::UnboundedSender<OwnStatus>,
    facts: mpsc::UnboundedReceiver<Fact>,
    task: JoinHandle<()>,
}

impl Bench {
    fn new(store: Fake) -> Self {
        Self::reading_every(READ_EVERY, store)
    }

    fn reading_every(read_every: Duration, store: Fake) -> Self {
        Self::with(store, |publisher| publisher.read_every = read_every)
    }

    fn with(store: Fake, configure: impl FnOnce(&mut Publisher<Fake>)) -> Self {
        let (wanted, receiver) = watch::channel(None);
        let (enabled, is_enabled) = watch::channel(true);
        let (ready, is_ready) = watch::channel(true);
        let (delay, is_delay) = watch::channel(Duration::ZERO);
        let (migrations_told, told) = watch::channel(0);
        let (own, seen) = mpsc::unbounded_channel();
        let (sender, facts) = mpsc::unbounded_channel();
        let planner = Planner::new(|endpoint| endpoint.endpoint.clone());
        let mut publisher = Publisher::new(store.clone(), planner, sender);
        configure(&mut publisher);
        let task = tokio::spawn(publisher.run(Inputs {
            wanted: receiver,
            enabled: is_enabled,
            delay: is_delay,
            ready: is_ready,
            migrations_told: told,
            own: seen,
            counts: StatusCounts::default(),
        }));
        Self { store, wanted, enabled, ready, delay, migrations_told, own, facts, task }
    }

    fn want(&self, statuses: Statuses) {
        let statuses = statuses.into_iter().map(|(key, status)| (Arc::new(key), status)).collect();
        let wanted = Wanted { statuses, unknown_statuses_may_go: true, ..Wanted::default() };
        self.wanted.send_replace(Some(Arc::new(wanted)));
    }

    async fn settled(&self) -> Vec<String> {
        let mut before = self.log();
        loop {
            tokio::time::sleep(Duration::from_millis(60)).await;
            let now = self.log();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    fn log(&self) -> Vec<String> {
        self.store.inside(|inside| inside.log.clone())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn differences_only_and_nothing_before_something_is_wanted() {
    let bench = Bench::new(Fake::with([("a", "up"), ("b", "down"), ("z", "up")]));
    assert!(bench.settled().await.is_empty());
    assert_eq!(bench.store.inside(|inside| inside.reads), 0);
    bench.want([(key("a"), UP), (key("b"), UP)].into());
    bench.store.wait("the last step", |inside| !inside.values.contains_key("z")).await;
    assert_eq!(bench.settled().await, ["b=up", "-z"]);
}

#[tokio::test]
async fn who_is_waited_for_does_not_stand_in_the_queue() {
    let bench = Bench::new(Fake::with([]));
    bench.store.permits.forget_permits(1_000_000);
    let mut statuses: Statuses = (0..200).map(|number| (key(&format!("p{number:03}")), UP)).collect();
    bench.want(statuses.clone());
    bench.store.wait("all places taken", |inside| inside.at_once == AT_ONCE).await;
    let awaited = WantedStatus { is_awaited: true, due_since: Some(BootTime(1)), ..UP };
    statuses.insert(key("target"), awaited);
    bench.want(statuses);
    // Let the publisher hear of it before anything ends.
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.store.permits.add_permits(1_000_000);
    bench.store.wait("everything is there", |inside| inside.values.len() == 201).await;
    let position = bench.log().iter().position(|entry| entry == "target=up").unwrap();
    assert_eq!(position, AT_ONCE, "the first one after those that were under way");
    assert_eq!(bench.store.inside(|inside| inside.most_at_once), AT_ONCE);
    assert_eq!(bench.settled().await.len(), 201, "each once");
}

/// What a read brings that began before a write is older than what is known, and is not believed.
#[tokio::test]
async fn who_is_waited_for_does_not_wait_for_a_read() {
    let bench = Bench::reading_every(Duration::from_millis(20), Fake::with([("a", "up")]));
    bench.want([(key("a"), UP)].into());
    bench.store.wait("it was read", |inside| inside.reads > 0).await;
    bench.store.read_permits.forget_permits(1_000_000);
    let reads = bench.store.inside(|inside| inside.reads);
    bench.store.wait("a read that is not answered", |inside| inside.reads > reads).await;
    let awaited = WantedStatus { is_awaited: true, due_since: Some(BootTime(1)), ..UP };
    bench.want([(key("a"), UP), (key("b"), UP), (key("target"), awaited)].into());
    bench.store.wait("the target", |inside| inside.values.contains_key("target")).await;
    assert_eq!(bench.log(), ["target=up"]);
    bench.store.read_permits.add_permits(1_000_000);
    bench.store.wait("the other one", |inside| inside.values.contains_key("b")).await;
    assert_eq!(bench.settled().await, ["target=up", "b=up"], "each once");
}

#[tokio::test]
async fn what_is_due_is_told_to_the_engine_once() {
    let mut bench = Bench::new(Fake::with([("a", "up")]));
    let due = WantedStatus { due_since: Some(BootTime(7)), ..UP };
    bench.want([(key("a"), due.clone())].into());
    let fact = bench.facts.recv().await.unwrap();
    let Fact::StatusWritten { endpoint, due_since, .. } = fact else { panic!("{fact:?}") };
    assert_eq!((endpoint, due_since), (key("a"), BootTime(7)));
    bench.want([(key("a"), due), (key("b"), UP)].into());
    assert_eq!(bench.settled().await, ["a=up", "b=up"]);
    assert!(bench.facts.try_recv().is_err());
}

#[tokio::test]
async fn one_broken_key_holds_nobody_up_and_is_tried_again() {
    let bench = Bench::new(Fake::with([]));
    bench.store.inside(|inside| inside.broken.insert("a".into()));
    bench.want([(key("a"), UP), (key("b"), UP)].into());
    bench.store.wait("the other one", |inside| inside.values.contains_key("b")).await;
    bench.store.inside(|inside| inside.broken.clear());
    bench.store.wait("the mended one", |inside| inside.values.contains_key("a")).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_not_written() {
    let bench = Bench::new(Fake::with([("a", "up")]));
    bench.store.inside(|inside| inside.broken.insert("read".into()));
    bench.want([(key("a"), UP), (key("b"), UP)].into());
    bench.store.wait("another attempt", |inside| inside.reads > 1).await;
    assert!(bench.log().is_empty());
    bench.store.inside(|inside| inside.broken.clear());
    bench.store.wait("the missing one", |inside| inside.values.contains_key("b")).await;
    assert_eq!(bench.log(), ["b=up"]);
}

#[tokio::test]
async fn what_somebody_else_removes_or_overwrites_is_restored() {
    let bench = Bench::reading_every(Duration::from_millis(20), Fake::with([]));
    bench.want([(key("a"), UP), (key("b"), UP)].into());
    bench.store.wait("both", |inside| inside.values.len() == 2).await;
    bench.store.inside(|inside| {
        inside.values.remove("a");
        inside.values.insert("b".into(), Some("error".into()));
        inside.log.clear();
    });
    bench.store.wait("both again", |inside| inside.log.len() == 2).await;
    assert_eq!(bench.settled().await, ["a=up", "b=up"]);
}

#[tokio::test]
async fn reporting_can_be_turned_off_and_on() {
    let bench = Bench::new(Fake::with([]));
    bench.enabled.send_replace(false);
    bench.want([(key("a"), UP)].into());
    assert!(bench.settled().await.is_empty());
    bench.enabled.send_replace(true);
    bench.store.wait("it is on", |inside| inside.values.contains_key("a")).await;
    bench.enabled.send_replace(false);
    bench.want(Statuses::new());
    assert_eq!(bench.settled().await, ["a=up"], "what was reported stays");
    // Somebody else writes meanwhile.
    bench.store.inside(|inside| inside.values.insert("a".into(), Some("down".into())));
    bench.want([(key("a"), UP)].into());
    bench.enabled.send_replace(true);
    bench.store.wait("it was read again", |inside| inside.values["a"].as_deref() == Some("up")).await;
}

#[tokio::test]
async fn nothing_is_written_while_the_datastore_is_not_ready() {
    let bench = Bench::new(Fake::with([]));
    bench.ready.send_replace(false);
    bench.want([(key("a"), UP)].into());
    assert!(bench.settled().await.is_empty());
    bench.ready.send_replace(true);
    bench.store.wait("it is ready", |inside| inside.values.contains_key("a")).await;
}

#[tokio::test]
async fn what_flaps_is_written_once_in_a_while_and_what_is_awaited_at_once() {
    const DOWN: WantedStatus = WantedStatus::of(Status::Down);
    let bench = Bench::new(Fake::with([("a", "down"), ("b", "up")]));
    bench.delay.send_replace(Duration::from_secs(2));
    bench.want([(key("a"), UP), (key("b"), DOWN)].into());
    bench.store.wait("the first ones at once", |inside| inside.log.len() == 2).await;
    bench.store.wait("both", |inside| inside.at_once == 0).await;
    let began_at = clock::now();
    for status in [DOWN, UP, DOWN, UP, DOWN] {
        bench.want([(key("a"), status), (key("b"), DOWN)].into());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let awaited = WantedStatus { is_awaited: true, ..UP };
    bench.want([(key("a"), DOWN), (key("b"), awaited.clone())].into());
    bench.store.wait("what is awaited", |inside| inside.values["b"].as_deref() == Some("up")).await;
    assert!(clock::now().since(began_at) < Duration::from_secs(2));
    assert_eq!(bench.store.inside(|inside| inside.values["a"].clone()).as_deref(), Some("up"));
    bench.store.wait("the last one", |inside| inside.values["a"].as_deref() == Some("down")).await;
    assert!(clock::now().since(began_at) >= Duration::from_millis(1_900));
    assert_eq!(bench.log().len(), 4, "{:?}", bench.log());

    // A shorter one takes effect at once.
    bench.want([(key("a"), UP), (key("b"), awaited)].into());
    bench.delay.send_replace(Duration::ZERO);
    bench.store.wait("no delay", |inside| inside.values["a"].as_deref() == Some("up")).await;
}

#[tokio::test]
async fn what_somebody_else_does_is_put_right_when_it_is_seen() {
    let bench = Bench::new(Fake::with([]));
    bench.want([(key("a"), UP)].into());
    bench.store.wait("written", |inside| inside.values.len() == 1).await;
    let seen = |value: Option<&str>| OwnStatus::Seen {
        key: "a".into(),
        value: value.map(|value| value.as_bytes().to_vec()),
    };
    // What it did itself.
    bench.own.send(seen(Some(r#"{"status":"up"}"#))).unwrap();
    let reads = bench.store.inside(|inside| inside.reads);
    bench.settled().await;
    assert_eq!(bench.store.inside(|inside| inside.reads), reads);
    bench.store.inside(|inside| inside.values.remove("a"));
    bench.own.send(seen(None)).unwrap();
    bench.store.wait("restored", |inside| inside.values.len() == 1).await;
    bench.store.inside(|inside| inside.values.insert("a".into(), Some("error".into())));
    bench.own.send(OwnStatus::Unknown).unwrap();
    bench.store.wait("restored", |inside| inside.values["a"].as_deref() == Some("up")).await;
}

/// A machine that boots: its endpoint comes before its tap, and Nova waits for `up`.
#[tokio::test]
async fn the_first_up_after_the_first_down_is_not_held_back() {
    const DOWN: WantedStatus = WantedStatus::of(Status::Down);
    let bench = Bench::new(Fake::with([("other", "up")]));
    bench.delay.send_replace(Duration::from_secs(60));
    bench.want([(key("a"), DOWN), (key("other"), UP)].into());
    bench.store.wait("down", |inside| inside.values.contains_key("a")).await;
    bench.want([(key("a"), UP), (key("other"), UP)].into());
    bench.store.wait("up", |inside| inside.values["a"].as_deref() == Some("up")).await;
    bench.want([(key("a"), DOWN), (key("other"), UP)].into());
    assert_eq!(bench.settled().await, ["a=down", "a=up"], "from now on it may be flapping");
}

/// Somebody else's change came to the store before the publisher's write, or after it. Only the end of the write says which.
#[tokio::test]
async fn what_is_seen_while_a_write_is_under_way_is_not_forgotten() {
    let bench = Bench::new(Fake::with([("a", "down")]));
    bench.store.permits.forget_permits(1_000_000);
    bench.want([(key("a"), UP)].into());
    bench.store.wait("a write under way", |inside| inside.at_once == 1).await;
    // The store takes the write, and then somebody removes what it wrote, before the answer comes.
    bench.own.send(OwnStatus::Seen { key: "a".into(), value: Some(br#"{"status":"up"}"#.to_vec()) }).unwrap();
    bench.own.send(OwnStatus::Seen { key: "a".into(), value: None }).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.store.permits.add_permits(1);
    bench.store.wait("the answer", |inside| inside.at_once == 0).await;
    bench.store.inside(|inside| inside.values.remove("a"));
    bench.store.permits.add_permits(1_000_000);
    bench.store.wait("it is back", |inside| inside.values.contains_key("a")).await;
}

#[tokio::test]
async fn what_is_seen_while_a_read_is_under_way_is_not_forgotten() {
    let bench = Bench::new(Fake::with([("a", "up")]));
    bench.store.read_permits.forget_permits(1_000_000);
    bench.want([(key("a"), UP)].into());
    bench.store.wait("a read under way", |inside| inside.reads == 1).await;
    // What the read brings is older.
    bench.store.inside(|inside| inside.values.remove("a"));
    bench.own.send(OwnStatus::Seen { key: "a".into(), value: None }).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.store.read_permits.add_permits(1_000_000);
    bench.store.wait("it is back", |inside| inside.values.contains_key("a")).await;
}

/// A retry that becomes due after the steps were chosen is waited for, however little later that is.
#[tokio::test]
async fn a_retry_that_becomes_due_between_step_and_pause_is_tried() {
    let store = Fake::with([]);
    let planner = Planner::new(|endpoint| endpoint.endpoint.clone());
    let mut publisher = Publisher::new(store, planner, mpsc::unbounded_channel().0);
    let step_at = clock::now();
    publisher.read_at = step_at + READ_EVERY;
    publisher.retries.failed("a".into(), step_at);
    let due_at = publisher.retries.next_after(step_at).unwrap();
    tokio::time::sleep(due_at.since(step_at)).await;
    assert!(clock::now() >= due_at, "it has become due");
    assert!(publisher.pause(true, step_at, Duration::ZERO) < READ_EVERY);
}

/// The host that a machine is about to leave again repeats its `up`, and a driver begins the next migration in that moment.
#[tokio::test]
async fn nothing_is_reported_to_a_migration_that_is_not_seen_yet() {
    let bench = Bench::new(Fake::with([("z", "up")]));
    bench.migrations_told.send_replace(7);
    bench.store.inside(|inside| inside.migration_at = 8);
    bench.want([(key("a"), UP), (key("b"), UP)].into());
    bench.store.wait("nothing is done", |inside| inside.overtaken == 3).await;
    // What is wanted once it is seen.
    bench.want([(key("b"), UP), (key("z"), UP)].into());
    bench.migrations_told.send_replace(8);
    bench.store.wait("the one that is wanted still", |inside| inside.values.contains_key("b")).await;
    assert_eq!(bench.settled().await, ["b=up"]);
}

#[tokio::test]
async fn who_does_not_get_to_see_a_migration_reports_in_the_end() {
    let store = Fake::with([]);
    store.inside(|inside| inside.migration_at = i64::MAX);
    let bench = Bench::with(store, |publisher| {
        publisher.overtaken = Overtaken::with_patience(Duration::from_millis(100));
    });
    bench.want([(key("a"), UP), (key("b"), UP)].into());
    bench.store.wait("overtaken", |inside| inside.overtaken > 0).await;
    bench.store.wait("reported", |inside| inside.values.len() == 2).await;
}

#[tokio::test]
async fn in_a_cloud_in_which_there_is_always_another_migration_statuses_are_reported() {
    let bench = Bench::new(Fake::with([]));
    bench.store.inside(|inside| inside.migration_at = i64::MAX);
    bench.want([(key("a"), UP)].into());
    let told = bench.migrations_told.clone();
    let telling = tokio::spawn(async move {
        loop {
            told.send_modify(|seen| *seen += 1);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    bench.store.wait("reported", |inside| inside.values.contains_key("a")).await;
    telling.abort();
}
