//! What the daemon hears of stops, returns and ends, how soon, and that whatever happens to a daemon or to the helper costs nothing
//! but time.

use cutover_daemon::clock;
use cutover_daemon::libvirt::{Event, Listener, Place, Report, Standing, What};
use cutover_engine::BootTime;
use cutover_tests::libvirt::{self, Libvirt};
use cutover_tests::{Lab, agent, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const NAME: &str = "instance-00000001";
const UUID: &str = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a01";

/// How often the guest is moved to see how soon a stop is heard of.
const MIGRATIONS: usize = 4;

/// LIMIT: a daemon that hangs is given up after 20 s, and asked again after 10 s at most.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// A listener, and everything that it has passed on.
struct Ears {
    listener: Listener,
    heard: Arc<Mutex<Vec<Event>>>,
    _runtime: Runtime,
}

impl Ears {
    fn of(libvirt: &Libvirt) -> Self {
        let place = Place {
            program: libvirt.cutover(),
            uri: "qemu:///system".to_owned(),
            sockets: Place::default().sockets.iter().map(|socket| libvirt.inside(inner(socket))).collect(),
        };
        let listener = Listener::new(place);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let runtime = Runtime::new().expect("threads");
        let (sender, mut events) = mpsc::unbounded_channel();
        runtime.spawn(listener.clone().run(sender));
        let record = Arc::clone(&heard);
        runtime.spawn(async move {
            while let Some(event) = events.recv().await {
                record.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        Self { listener, heard, _runtime: runtime }
    }

    fn since(&self, begin: BootTime) -> Vec<(What, BootTime)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(heard.iter().all(|event| event.domain == UUID), "{heard:?}");
        heard.iter().filter(|event| event.at >= begin).map(|event| (event.what, event.at)).collect()
    }

    #[track_caller]
    fn wait_for(&self, begin: BootTime, what: What) -> BootTime {
        let find = || self.since(begin).into_iter().find(|(heard, _)| *heard == what);
        let in_time = wait::holds_within(libvirt::BEGUN, || find().is_some());
        assert!(in_time, "no {what:?}: {:?}, {:?}", self.since(begin), self.listener.report());
        find().expect("it was there").1
    }

    #[track_caller]
    fn wait_standing(&self, standing: Standing) -> Report {
        let mut report = self.listener.report();
        let in_time = wait::holds_within(GIVEN_UP, || {
            report = self.listener.report();
            report.standing == standing
        });
        assert!(in_time, "not {standing:?}: {report:?}");
        report
    }
}

/// A path in another root.
fn inner(path: &Path) -> &str {
    path.to_str().and_then(|path| path.strip_prefix('/')).expect("a whole path of ours")
}

/// For whoever looks at the output of the test.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn a_migration_is_heard_and_nothing_else_is_taken_for_one() {
    if !libvirt::is_there("migrations of libvirt's") {
        return;
    }
    let lab = Lab::new();
    let (left, right) = (lab.host("left"), lab.host("right"));
    let [here, there] = [&left, &right].map(|host| Libvirt::start(&lab, host, &agent::binary()));
    there.pass_for_virtqemud();
    here.boot(NAME, UUID);
    let began_at = clock::now();
    let ears = [Ears::of(&here), Ears::of(&there)];
    for ears in &ears {
        ears.wait_standing(Standing::Connected);
    }
    ears[0].wait_for(began_at, What::Running);
    assert_eq!(ears[1].since(began_at), []);

    // An operator's suspend is no business of the network's.
    let began_at = clock::now();
    here.must(&["suspend", NAME]);
    here.must(&["resume", NAME]);
    ears[0].wait_for(began_at, What::Running);
    assert!(ears[0].since(began_at).iter().all(|(what, _)| *what == What::Running));

    // There and back.
    let hosts = [&here, &there];
    let mut delays = Vec::new();
    for round in 0..MIGRATIONS {
        let (from, to) = (round % 2, 1 - round % 2);
        let began_at = clock::now();
        let monitor = hosts[from].monitor();
        hosts[from].migrate(NAME, hosts[to]);
        let stopped_at = monitor.wait_event(wait::SOON, "STOP").at;
        let heard_at = ears[from].wait_for(began_at, What::Stopped);
        delays.push(heard_at.since(stopped_at));
        let gone_at = ears[from].wait_for(began_at, What::Gone);
        let running_at = ears[to].wait_for(began_at, What::Running);
        assert!(heard_at < running_at && running_at < gone_at, "stopped, running there, gone");
        let words: Vec<What> = ears[from].since(began_at).iter().map(|(what, _)| *what).collect();
        assert_eq!(words, [What::Stopped, What::Gone], "nothing else is told of the source");
    }
    delays.sort();
    tell(&format!("from QEMU's STOP to the event: {delays:?}"));
    assert!(delays[MIGRATIONS / 2] < wait::patient(Duration::from_millis(50)), "{delays:?}");
    assert_eq!(MIGRATIONS % 2, 0, "it is on the left again");

    // Cancelled while it is stopped: the guest goes on here. A listener that comes back meanwhile finds it stopped.
    left.slow_migrations_down();
    here.must(&["migrate-setmaxdowntime", NAME, "60000"]);
    let began_at = clock::now();
    let mut migration = here.begin_migration(NAME, &there, &[]);
    ears[0].wait_for(began_at, What::Stopped);
    let latecomer = Ears::of(&here);
    latecomer.wait_for(began_at, What::Stopped);
    drop(latecomer);
    let mut abort = here.cancel_migration(NAME);
    left.speed_migrations_up();
    let aborted = abort.wait().expect("a child");
    assert!(!migration.wait().expect("a child").success() && aborted.success(), "it is cancelled");
    ears[0].wait_for(began_at, What::Running);
    let words: Vec<What> = ears[0].since(began_at).iter().map(|(what, _)| *what).collect();
    assert_eq!(words, [What::Stopped, What::Running]);

    // Post-copy: the guest runs there long before it is gone here.
    here.must(&["migrate-setmaxdowntime", NAME, "300"]);
    left.slow_migrations_down();
    let began_at = clock::now();
    let monitor = here.monitor();
    let mut migration = here.begin_migration(NAME, &there, &["--postcopy"]);
    wait::until(libvirt::BEGUN, "post-copy begins", || {
        here.virsh(&["migrate-postcopy", NAME]).status.success()
    });
    let heard_at = ears[0].wait_for(began_at, What::Stopped);
    let stopped_at = monitor.wait_event(wait::SOON, "STOP").at;
    tell(&format!("from QEMU's STOP to the event, post-copy: {:?}", heard_at.since(stopped_at)));
    ears[1].wait_for(began_at, What::Running);
    assert!(ears[0].since(began_at).iter().all(|(what, _)| *what == What::Stopped), "it is not gone yet");
    left.speed_migrations_up();
    assert!(migration.wait().expect("a child").success(), "post-copy succeeds");
    ears[0].wait_for(began_at, What::Gone);
}

#[test]
fn whatever_becomes_of_the_daemon_it_is_heard_again() {
    if !libvirt::is_there("a daemon of libvirt's that ends or hangs") {
        return;
    }
    let lab = Lab::new();
    let host = lab.host("alone");
    let mut libvirt = Libvirt::start(&lab, &host, &agent::binary());
    libvirt.boot(NAME, UUID);
    let began_at = clock::now();
    let ears = Ears::of(&libvirt);
    let report = ears.wait_standing(Standing::Connected);
    assert_eq!((report.why, report.library), (None, report.daemon));
    ears.wait_for(began_at, What::Running);

    // It hangs, and is itself again.
    libvirt.signal_daemon("STOP");
    let report = ears.wait_standing(Standing::Unheard);
    assert!(report.why.is_some(), "{report:?}");
    let began_at = clock::now();
    libvirt.signal_daemon("CONT");
    ears.wait_standing(Standing::Connected);
    ears.wait_for(began_at, What::Running);

    // It ends, and so does the guest while nobody listens.
    libvirt.kill_daemon();
    ears.wait_standing(Standing::Unheard);
    libvirt.kill_guest(NAME);
    let began_at = clock::now();
    libvirt.start_daemon();
    ears.wait_standing(Standing::Connected);
    ears.wait_for(began_at, What::Gone);

    // The helper ends, as if it had crashed.
    let helper = libvirt.helpers();
    assert_eq!(helper.len(), 1, "one at a time: {helper:?}");
    kill(Pid::from_raw(helper[0]), Signal::SIGKILL).expect("it runs");
    wait::until(GIVEN_UP, "another one is started", || {
        let now = libvirt.helpers();
        now.len() == 1 && now != helper
    });
    ears.wait_standing(Standing::Connected);

    // Nothing of it stays.
    drop(ears);
    wait::until(wait::SOON, "the helper ends", || libvirt.helpers().is_empty());
}
