//! The loop in the middle of the daemon.
//!
//! Takes facts from the datastore, the kernel, the fast path and the appliers, hands them to the engine in
//! batches, and passes on what comes back: memory to the state file, notices to the log, wanted sets to the
//! appliers. It starts and stops everything in the right order and decides nothing.

mod beside;
mod hitless;
mod losses;
mod observed;
mod parts;
mod published;
mod recall;
mod reporting;
mod start;

pub use parts::PartEnded;
pub(crate) use start::interface_settings;
pub use start::{RunError, run};
pub use start::{attach, monitor_settings};

use crate::allocator;
use crate::applier::interfaces::Unprepared;
use crate::applier::routes::RouteReport;
use crate::applier::watches::Unarmed;
use crate::bpf::{Attachment, CounterReader};
use crate::clock;
use crate::control::{self, Departed, Departing, KernelRoute, Losses, Released, Status, Trouble};
use crate::datastore::{Datastore, Event, Quarantine, Standing};
use crate::libvirt;
use crate::logging::{self, one_line};
use crate::netlink::monitor::MonitorHandle;
use crate::observe::{self, Observers, Tally};
use crate::presence::Presence;
use crate::progress::Progress;
use crate::run_dir::RunDir;
use crate::settings::{self, FelixConfiguration, Loaded, Settings, Sources, Told};
use crate::state_file::StateFile;
use beside::Beside;
use cutover_engine::memory::Departure;
use cutover_engine::time::milliseconds;
use cutover_engine::wanted::WantedWatch;
use cutover_engine::{BootTime, EndpointKey, Engine, Fact, Notice, Wanted};
use hitless::Hitless;
use parts::Parts;
use published::Published;
use recall::Recall;
use reporting::Reporting;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// LIMIT: the runtime's timers stand still while the host sleeps, the boot clock does not; looking at the
/// clock this often bounds how late a deadline can be after a suspend.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// LIMIT: facts taken from a channel at once; the rest waits for the next round of the loop.
const FACTS_AT_ONCE: usize = 4096;

/// LIMIT: how often what comes later in a round may be passed over because there is always something new that comes first.
const PASSED_OVER_MAX: u32 = 64;

/// Everything that the loop listens to.
struct Inputs {
    parts: Parts,
    datastore: Datastore,
    /// From the fast path and the watch applier.
    facts: mpsc::UnboundedReceiver<Fact>,
    /// From libvirt. Nobody sends where it is not listened to.
    hypervisor: mpsc::UnboundedReceiver<libvirt::Event>,
    links: mpsc::Receiver<Fact>,
    interface_facts: mpsc::Receiver<Fact>,
    requests: mpsc::Receiver<control::Request>,
}

/// The daemon between start and stop.
struct Agent {
    engine: Engine,
    settings: Settings,
    sources: Sources,
    config_file: Option<PathBuf>,
    /// Of the last life until the datastore tells.
    configurations: Vec<FelixConfiguration>,
    configurations_told: bool,
    wanted: Published,
    recall: Recall,
    state_file: StateFile,
    run_dir: RunDir,
    presence: Option<Presence>,
    progress: Progress,
    attachment: Attachment,
    counters: CounterReader,
    unarmed: Unarmed,
    unprepared: Unprepared,
    monitor: MonitorHandle,
    route_report: RouteReport,
    reporting: Reporting,
    /// Where Felix runs beside the agent.
    felix: Option<Beside>,
    hitless: Hitless,
    observers: Observers,
    tally: Tally,
    /// Where to ask whether an endpoint is there.
    questions: Option<mpsc::UnboundedSender<EndpointKey>>,
    quarantine: Quarantine,
    standing: Standing,
    /// Whether the settings say by now which routes are ours.
    protocol_known: bool,
    in_sync: Option<bool>,
    /// What the datastore says about why something is lost.
    hint: losses::Hint,
    /// Values of settings that are not in force because they would take routes away.
    refused_settings: BTreeMap<String, String>,
    /// The state file holds the engine's memory.
    remembered: bool,
    /// When to write it again after it could not be written, if nothing new is to be remembered before.
    remember_again: Option<BootTime>,
}

/// LIMIT: a full disk is looked at this often, and said to be full once.
const REMEMBER_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// When what the start took is given back: what reading the datastore took, then what preparing a full host took.
const GIVE_BACK_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

async fn give_memory_back() {
    for pause in GIVE_BACK_AFTER {
        tokio::time::sleep(pause).await;
        // Nothing depends on it.
        let _: Result<(), _> = tokio::task::spawn_blocking(allocator::give_back).await;
    }
}

/// What is there already; not waited for.
async fn at_once<T>(something: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::ZERO, something).await.ok()
}

/// Goes on wanting the watches of before, without anything to install: removing a watch removes what it saw.
fn keep_evidence(before: &Wanted, wanted: &mut Wanted) {
    for (&ifindex, watch) in before.watches.iter() {
        if !wanted.watches.contains_key(&ifindex) {
            wanted.watches.insert(ifindex, WantedWatch { routes: BTreeSet::new(), ..watch.clone() });
        }
    }
}

impl Agent {
    /// Runs until the operator asks to stop or a part of the daemon is gone.
    async fn follow(&mut self, mut inputs: Inputs, mut signals: start::Signals) -> Result<(), PartEnded> {
        let mut facts = Vec::new();
        let (mut links, mut interfaces) = (Vec::new(), Vec::new());
        let mut passed_over = 0;
        loop {
            if passed_over >= PASSED_OVER_MAX {
                passed_over = 0;
                if self.take_passed_over(&mut inputs, &mut signals).await?.is_break() {
                    return Ok(());
                }
            }
            passed_over += 1;
            let pause = self.pause();
            tokio::select! {
                // ORDER: announcements and kernel facts before resources, so that evidence which is already
                // there is known when the datastore says that a migration is over.
                biased;
                ended = inputs.parts.ended() => return Err(ended),
                count = inputs.facts.recv_many(&mut facts, FACTS_AT_ONCE) => if count == 0 {
                    return Err(PartEnded::silent("the watch applier"));
                },
                Some(event) = inputs.hypervisor.recv() => facts.extend(self.heard(&event)),
                count = inputs.links.recv_many(&mut links, FACTS_AT_ONCE) => if count == 0 {
                    return Err(PartEnded::silent("the netlink monitor"));
                },
                count = inputs.interface_facts.recv_many(&mut interfaces, FACTS_AT_ONCE) => if count == 0 {
                    return Err(PartEnded::silent("the interface applier"));
                },
                event = inputs.datastore.next() => {
                    passed_over = 0;
                    facts = self.take_event(event)?;
                }
                Some(request) = inputs.requests.recv() => facts.extend(self.answer(request)),
                signal = signals.next() => {
                    if self.obey(signal, &mut facts).is_break() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(pause) => facts.push(Fact::TimePassed),
            }
            self.take(facts.drain(..).chain(links.drain(..)).chain(interfaces.drain(..)));
        }
    }

    /// What has waited behind a stream of news about links: the operator first.
    async fn take_passed_over(
        &mut self,
        inputs: &mut Inputs,
        signals: &mut start::Signals,
    ) -> Result<ControlFlow<()>, PartEnded> {
        let mut facts = Vec::new();
        if let Some(signal) = at_once(signals.next()).await
            && self.obey(signal, &mut facts).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        while let Ok(request) = inputs.requests.try_recv() {
            facts.extend(self.answer(request));
        }
        while let Ok(event) = inputs.hypervisor.try_recv() {
            facts.extend(self.heard(&event));
        }
        for kernel in [&mut inputs.links, &mut inputs.interface_facts] {
            facts.extend(std::iter::from_fn(|| kernel.try_recv().ok()).take(FACTS_AT_ONCE));
        }
        if let Some(event) = at_once(inputs.datastore.next()).await {
            // ORDER: announcements and kernel facts before resources, as in `follow`.
            while let Ok(fact) = inputs.facts.try_recv() {
                facts.push(fact);
            }
            facts.extend(self.take_event(event)?);
        }
        self.take(facts.into_iter());
        Ok(ControlFlow::Continue(()))
    }

    fn obey(&mut self, signal: start::Signal, facts: &mut Vec<Fact>) -> ControlFlow<()> {
        match signal {
            start::Signal::Stop => {
                observe::stopping();
                info!("Stopping; routes, neighbours and armed watches stay as they are");
                ControlFlow::Break(())
            }
            start::Signal::Reload => {
                facts.extend(self.reread());
                ControlFlow::Continue(())
            }
        }
    }

    /// Whoever asked may have gone away; that is his business.
    fn answer(&self, request: control::Request) -> Vec<Fact> {
        match request {
            control::Request::Status(reply) => {
                let _: Result<(), _> = reply.send(self.status());
                Vec::new()
            }
            control::Request::Observe(reply) => {
                let _: Result<(), _> = reply.send(Box::new(self.observed()));
                Vec::new()
            }
            control::Request::Stopped { which, is_stopped, reply } => {
                let (departed, facts) = self.stopped(&which, is_stopped);
                let _: Result<(), _> = reply.send(departed);
                facts
            }
            control::Request::Release { count, reply } => {
                let kept = self.engine.losses().count();
                // What came after the operator looked is not what was confirmed.
                let released = kept == count && kept > 0;
                let _: Result<(), _> = reply.send(Released { kept, released });
                if released {
                    info!(kept, "Confirmed by the operator: what the datastore does not show is gone");
                }
                Vec::from_iter(released.then_some(Fact::LossConfirmed))
            }
        }
    }

    /// What libvirt says, as facts. That a virtual machine is gone says nothing of where it is, nor does a process that may wait for it.
    fn heard(&self, event: &libvirt::Event) -> Vec<Fact> {
        let is_stopped = match event.what {
            libvirt::What::Stopped => true,
            libvirt::What::Running => false,
            libvirt::What::Present | libvirt::What::Gone => return Vec::new(),
        };
        self.stopped(&Departing::Workload(event.domain.clone()), is_stopped).1
    }

    /// A virtual machine that is leaving has stopped here, or goes on here: which that is, and the facts. What is over can be called
    /// off, and not be begun. Whoever heard of it has started what only waits for the stop.
    fn stopped(&self, which: &Departing, is_stopped: bool) -> (Vec<Departed>, Vec<Fact>) {
        let is_meant = |it: &&Departure| which.is(&it.endpoint) && (!is_stopped || it.ends_at.is_none());
        let one = |departure: &Departure| {
            let departed = Departed {
                endpoint: departure.endpoint.to_string(),
                migration_uid: departure.uid.clone(),
                to: departure.to.to_string(),
                is_ready: departure.is_ready,
            };
            (departed, Fact::MachineStopped { endpoint: departure.endpoint.clone(), is_stopped })
        };
        self.engine.departing().filter(is_meant).map(one).unzip()
    }

    /// What the datastore says, as facts.
    fn take_event(&mut self, event: Option<Event>) -> Result<Vec<Fact>, PartEnded> {
        match event {
            Some(Event::Facts(batch)) => Ok(batch),
            Some(Event::Configurations(configurations)) => {
                self.configurations = configurations;
                self.configurations_told = true;
                let changed = self.reload();
                if !std::mem::replace(&mut self.protocol_known, true) {
                    self.monitor.configure(monitor_settings(&self.settings));
                }
                Ok(changed.into_iter().collect())
            }
            Some(Event::MigrationsTold(revision)) => {
                // ORDER: the facts came before, in an event of their own, and what follows from them is published.
                self.reporting.migrations_told(revision);
                Ok(Vec::new())
            }
            None => Err(PartEnded::silent("the datastore reader")),
        }
    }

    /// How long nothing will happen by itself.
    fn pause(&self) -> Duration {
        let now = clock::now();
        let deadlines = [self.engine.next_deadline(), self.remember_again, self.recall.deadline()];
        deadlines
            .into_iter()
            .flatten()
            .map(|deadline| deadline.since(now))
            .min()
            .map_or(SLEEP_MAX, |pause| pause.min(SLEEP_MAX))
    }

    /// One round: facts in, everything else out.
    fn take(&mut self, facts: impl Iterator<Item = Fact>) {
        let now: BootTime = clock::now();
        for fact in facts {
            if let Fact::InSync { complete } = fact {
                self.note_in_sync(complete);
            }
            self.engine.handle(now, fact);
        }
        let changed = self.engine.settle(now);
        self.publish_notices(now);
        for endpoint in self.engine.take_questions() {
            // The reader is gone only while the agent stops.
            let _ = self.questions.as_ref().map(|questions| questions.send(endpoint));
        }
        // ORDER: memory before wanted sets, see `StateFile::save`.
        let remembered = self.remember(now);
        let was_remembered = std::mem::replace(&mut self.remembered, remembered);
        if changed || remembered != was_remembered || self.wanted.newest().is_none() {
            self.publish();
        }
        self.recall.say(now, self.engine.recall_view());
    }

    /// Whether the state file holds the engine's memory now.
    fn remember(&mut self, now: BootTime) -> bool {
        // What could not be written is tried again when that is due, and not before.
        let has_new_settings = self.state_file.settings_changed() && self.remember_again.is_none();
        let is_new = self.engine.take_memory_changed() || has_new_settings;
        let is_due = self.remember_again.is_some_and(|due| due <= now);
        if !is_new && !is_due {
            return self.remembered;
        }
        match self.state_file.save(self.engine.memory()) {
            Ok(()) => {
                if self.remember_again.take().is_some() {
                    info!("state.json is written again");
                }
                true
            }
            Err(error) => {
                if self.remember_again.is_none() {
                    error!(%error, "cannot write state.json; watches stay armed, because what they saw is all that a restart would know");
                }
                self.remember_again = Some(now + REMEMBER_AGAIN_AFTER);
                false
            }
        }
    }

    fn publish(&self) {
        let Some(mut wanted) = self.engine.wanted().cloned() else { return };
        if !self.remembered
            && let Some(before) = self.wanted.newest()
        {
            keep_evidence(&before, &mut wanted);
        }
        self.wanted.publish(wanted);
    }

    fn note_in_sync(&mut self, complete: bool) {
        if self.in_sync.is_none() {
            tokio::spawn(give_memory_back());
        }
        if self.in_sync != Some(complete) {
            info!(complete, "Datastore in sync");
            self.in_sync = Some(complete);
        }
    }

    fn publish_notices(&mut self, now: BootTime) {
        for notice in self.engine.take_notices() {
            logging::log_notice(&notice);
            self.tally.note(now, &notice);
            if matches!(notice, Notice::LossSuspected { .. }) {
                self.hint.look(&self.settings);
            }
            let (uid, recorded) = match &notice {
                Notice::Finished(record) => (&record.uid, self.run_dir.record(record)),
                Notice::Departed { record, tap } => {
                    (&record.uid, self.run_dir.record_departure(&self.hitless.with_last_frame(record, *tap)))
                }
                _ => continue,
            };
            if let Err(error) = recorded {
                warn!(%error, %uid, "cannot record the finished migration");
            }
        }
    }

    /// Reads file and environment again (SIGHUP).
    fn reread(&mut self) -> Option<Fact> {
        match Sources::read(self.config_file.as_deref()) {
            Ok(sources) => {
                self.sources = sources;
                self.reload()
            }
            Err(error) => {
                error!(error = %one_line(&error), "the settings before stay in force");
                None
            }
        }
    }

    /// Combines all sources again and takes over what changed.
    fn reload(&mut self) -> Option<Fact> {
        let Loaded { mut settings, problems, .. } = self.load()?;
        if self.configurations_told {
            self.state_file.set_settings(Told::new(&self.configurations, &settings.felix_hostname));
        }
        self.keep_interface_prefix(&mut settings);
        for problem in &problems {
            start::log_problem(problem);
        }
        if settings == self.settings {
            return None;
        }
        for name in self.settings.waiting_for_restart(&settings) {
            warn!(setting = name, "changed, but only read at start; restart the agent to use it");
        }
        info!("Settings changed");
        let before = self.settings.policy();
        let protocol_before = self.settings.device_route_protocol;
        self.settings = self.settings.reloaded(settings);
        if self.settings.device_route_protocol != protocol_before {
            self.presence = start::show(&self.settings);
        }
        if self.protocol_known {
            self.monitor.configure(monitor_settings(&self.settings));
        }
        self.reporting.configure(&self.settings);
        self.observers.configure(&self.settings);
        if let Some(felix) = &self.felix {
            felix.configure(&self.settings);
        }
        let policy = self.settings.policy();
        (policy != before).then(|| Fact::PolicyChanged(Box::new(policy)))
    }

    /// One word in a FelixConfiguration is one for every host of the cloud.
    fn keep_interface_prefix(&mut self, settings: &mut Settings) {
        if settings.interface_prefix == self.settings.interface_prefix {
            self.refused_settings.clear();
            return;
        }
        let Some(lost) = self.engine.would_lose(&settings.policy()) else {
            self.refused_settings.clear();
            return;
        };
        let wanted =
            std::mem::replace(&mut settings.interface_prefix, self.settings.interface_prefix.clone());
        let reason = format!(
            "{} would take the routes of {lost} endpoints away; {} stays in force until the agent is started anew",
            wanted, settings.interface_prefix
        );
        error!(setting = "InterfacePrefix", "refused: {reason}");
        self.refused_settings.insert("InterfacePrefix".to_owned(), reason);
    }

    fn load(&self) -> Option<Loaded> {
        let loaded = settings::load(&self.sources, &self.configurations);
        let mut fatal = loaded.fatal().peekable();
        if fatal.peek().is_none() {
            drop(fatal);
            return Some(loaded);
        }
        for problem in fatal {
            error!(problem = %problem, "refused; the settings before stay in force");
        }
        None
    }

    fn name_of(&self, ifindex: u32) -> Option<String> {
        let wanted = self.wanted.newest()?;
        wanted.interfaces.get(&ifindex).map(|interface| interface.name.to_string())
    }

    fn stuck(&self) -> BTreeMap<String, u64> {
        let stuck = self.progress.stuck(clock::now(), self.settings.dataplane_watchdog_timeout);
        stuck.into_iter().map(|it| (it.part.to_owned(), milliseconds(it.duration))).collect()
    }

    fn status(&self) -> Status {
        let announcements = match self.counters.read() {
            Ok(counters) => counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            Err(error) => {
                warn!(error = %one_line(&error), "cannot read the counters");
                Default::default()
            }
        };
        let datastore_trouble = self
            .standing
            .reason()
            .map(|(reason, duration)| Trouble { reason, for_ms: milliseconds(duration) });
        let now = clock::now();
        let shown = self.hitless.show(self.engine.forwards(now), self.engine.receptions(now));
        let unarmed = self.unarmed.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            losses: Losses {
                view: self.engine.losses(),
                hint: self.hint.text(),
                refused_settings: self.refused_settings.clone(),
            },
            stuck: self.stuck(),
            unarmed: unarmed.values().cloned().collect(),
            unprepared: self.unprepared.list(),
            refused_routes: self.route_report.refused(|ifindex| self.name_of(ifindex)),
            schema: control::SCHEMA,
            hostname: self.settings.felix_hostname.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            in_sync: self.in_sync.is_some() && datastore_trouble.is_none(),
            datastore_trouble,
            complete: self.in_sync == Some(true),
            quarantine: self.quarantine.list(),
            role: self.settings.cutover_role.word().to_owned(),
            felix: self.felix.as_ref().map(|felix| felix.observer.report()),
            attach: self.attachment.to_string(),
            from_memory: self.recall.show(clock::now(), self.engine.recall_view()),
            endpoints: self.engine.view(clock::now()),
            forwards: shown.forwards,
            receivers: shown.receivers,
            tunnel: shown.tunnel,
            handovers: shown.handovers,
            handover_error: shown.handover_error,
            peers: self.hitless.peers.status(),
            libvirt: self.hitless.libvirt.as_ref().map(libvirt::Listener::report),
            kernel_routes: self
                .route_report
                .routes()
                .into_iter()
                .map(|route| KernelRoute {
                    destination: route.destination.to_string(),
                    ifindex: route.ifindex,
                    metric: route.metric,
                })
                .collect(),
            announcements,
            route_writes: self.route_report.writes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::model::{Trigger, Validation};
    use cutover_engine::wanted::WantedRoute;

    fn watch(generation: u64) -> WantedWatch {
        let destination = "10.65.0.2/32".parse().expect("a prefix");
        let route = WantedRoute { destination, ifindex: 7, metric: 512, protocol: 3, source: None };
        WantedWatch {
            interface: "tap1".into(),
            generation,
            mac: None,
            addresses: BTreeSet::new(),
            trigger: Trigger::Announcement,
            validation: Validation::Strict,
            ends_forwarding: false,
            routes: BTreeSet::from([route]),
        }
    }

    #[test]
    fn evidence_that_the_state_file_does_not_hold_is_kept_in_the_kernel() {
        let before = Wanted { watches: [(7, watch(1)), (8, watch(2))].into(), ..Wanted::default() };
        let mut wanted = Wanted { watches: [(8, watch(3))].into(), ..Wanted::default() };
        keep_evidence(&before, &mut wanted);
        assert_eq!(wanted.watches[&7].generation, 1, "still armed");
        assert!(wanted.watches[&7].routes.is_empty(), "but it installs nothing, whatever it sees");
        assert_eq!(wanted.watches[&8], watch(3), "what is wanted by now comes first");
    }
}
