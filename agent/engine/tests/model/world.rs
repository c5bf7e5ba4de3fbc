//! Hosts with their engines, a datastore, a driver, a virtual machine and the agents' channel: what can happen next, and what then is.

use crate::channel::{Channel, Word};
use crate::fingerprint::{START, fingerprint};
use crate::host::{Host, Moment, Scene, address};
use crate::script::{HostId, Move, NAMES, Script, Write, port};
use crate::search::Model;
use crate::seed::Seed;
use crate::step::{Fault, Heard, Step};
use core::fmt::Write as _;
use core::time::Duration;
use cutover_engine::{BootTime, Fact};
use std::sync::Arc;

/// LIMIT: a driver makes what belongs together within this time (recorded: 0.45 s), and a way that is not over by then is another one.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Where the virtual machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Runs(HostId),
    Stopped(HostId),
}

/// How much of what can happen is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How many faults there are at most.
    pub(crate) faults: usize,
    /// How many writes of the driver a host may be behind while the driver goes on.
    pub(crate) lag: usize,
    /// Agents are killed between any two things that they do, and not only between those that are one for their memory.
    pub(crate) is_fine: bool,
    /// How many situations there are at most.
    pub(crate) most: usize,
}

impl Bounds {
    const fn moments(&self) -> &'static [Moment] {
        if self.is_fine { &Moment::ALL } else { &[Moment::Saved] }
    }
}

/// What is explored: a script and what may go wrong.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) hosts: usize,
    pub(crate) script: Script,
    /// The agents hear from libvirt.
    pub(crate) hears_libvirt: bool,
    pub(crate) bounds: Bounds,
    /// So many writes are made, and what they need and cause happens, in one order only before the search begins.
    pub(crate) prelude: usize,
    pub(crate) seed: Option<Seed>,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) scenario: Arc<Scenario>,
    writes: Arc<[Write]>,
    pub(crate) now: BootTime,
    pub(crate) hosts: Vec<Arc<Host>>,
    pub(crate) written: usize,
    written_at: BootTime,
    pub(crate) moved: usize,
    pub(crate) place: Place,
    /// Where the virtual machine's routes have to be from now on, as long as it runs there.
    pub(crate) is_served: Vec<bool>,
    /// Where it has been since the last migration to there began.
    pub(crate) has_been: Vec<bool>,
    /// Where it has stopped since it came.
    pub(crate) has_stopped: Vec<bool>,
    channel: Channel,
    faults_left: usize,
}

impl World {
    /// The virtual machine has run on the first host for long.
    pub(crate) fn new(scenario: Scenario) -> Self {
        let count = scenario.hosts;
        let writes = core::iter::once(Write::Endpoint { host: 0, uid: "e0" })
            .chain(scenario.script.writes.iter().map(|write| write.what));
        let mut world = Self {
            writes: writes.collect(),
            now: START,
            hosts: (0..count).map(|id| Arc::new(Host::new(id, true))).collect(),
            written: 0,
            written_at: START,
            moved: 0,
            place: Place::Runs(0),
            is_served: (0..count).map(|id| id == 0).collect(),
            has_been: (0..count).map(|id| id == 0).collect(),
            has_stopped: vec![false; count],
            channel: Channel::between(count),
            faults_left: scenario.bounds.faults,
            scenario: Arc::new(scenario),
        };
        let scene = world.scene();
        for host in world.hosts.iter_mut().map(Arc::make_mut) {
            host.start(&scene);
            if host.id == 0 {
                host.carrier(&scene);
            }
            host.read(&scene);
            host.prepare(&scene);
        }
        while world.next_deadline().is_some() {
            world.wait();
        }
        world.now = world.now + Duration::from_secs(60);
        world.written_at = world.now;
        world.converse();
        world.look();
        while world.written < world.scenario.prelude || !world.prompt_steps().is_empty() {
            let next = world.steps()[0];
            world.take(next);
        }
        world
    }

    fn host(&mut self, id: HostId) -> &mut Host {
        Arc::make_mut(&mut self.hosts[id])
    }

    /// Makes the fingerprints of those hosts of which they are not known.
    fn look(&mut self) {
        let now = self.now;
        self.hosts.iter_mut().filter(|host| !host.is_seen()).for_each(|host| Arc::make_mut(host).look(now));
    }

    fn scene(&self) -> Scene {
        let (writes, made) = (Arc::clone(&self.writes), self.log_len());
        Scene { now: self.now, writes, made, seed: self.scenario.seed }
    }

    /// How many of the writes have been made, with the one from before.
    pub(crate) const fn log_len(&self) -> usize {
        self.written + 1
    }

    pub(crate) fn script(&self) -> &Script {
        &self.scenario.script
    }

    fn next_deadline(&self) -> Option<BootTime> {
        self.hosts.iter().filter_map(|host| host.agent.as_ref()?.engine.next_deadline()).min()
    }

    fn next_move(&self) -> Option<Move> {
        self.script().moves.get(self.moved).filter(|next| next.after <= self.written).map(|next| next.what)
    }

    fn next_write(&self) -> Option<Write> {
        let next = self.script().writes.get(self.written).filter(|next| next.after <= self.moved)?;
        let is_behind = |host: &Arc<Host>| {
            host.follows_datastore()
                && self.log_len() - host.heard.unwrap_or_default() >= self.scenario.bounds.lag
        };
        (!self.hosts.iter().any(is_behind)).then_some(next.what)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.written == self.script().writes.len()
    }

    /// Whether a host has heard everything that there is.
    pub(crate) fn has_heard_all(&self, host: &Host) -> bool {
        host.follows_datastore() && host.heard == Some(self.log_len())
    }

    /// Whether there is nothing that a host is about to hear of its own virtual machine.
    pub(crate) fn is_informed(&self, host: &Host) -> bool {
        let has_announced = host.agent.as_ref().is_some_and(|agent| agent.pending.is_empty());
        self.has_heard_all(host) && has_announced && host.hypervisor.is_empty()
    }

    /// Whether every agent has heard everything, from the others as well.
    pub(crate) fn is_everybody_informed(&self) -> bool {
        self.channel.is_quiet() && self.hosts.iter().all(|host| self.is_informed(host))
    }

    /// What comes before the next deadline of an engine.
    fn prompt_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for host in self.hosts.iter().filter(|host| host.agent.is_some()) {
            let id = host.id;
            if host.follows_datastore() && host.heard < Some(self.log_len()) {
                steps.push(Step::Hears(id, Heard::Write));
            }
            if host.agent.as_ref().is_some_and(|agent| !agent.pending.is_empty()) {
                steps.push(Step::Hears(id, Heard::Announcement));
            }
            if !host.hypervisor.is_empty() {
                steps.push(Step::HearsHypervisor(id));
            }
            if host.has_to_prepare() {
                steps.push(Step::Prepares(id));
            }
        }
        steps.extend(self.channel.listeners().map(|id| Step::Hears(id, Heard::Word)));
        steps
    }

    fn may_wait(&self) -> bool {
        let is_on_its_way =
            matches!(self.place, Place::Stopped(_)) || self.next_move() == Some(Move::Announces);
        let Some(deadline) = self.next_deadline().filter(|_| !is_on_its_way) else { return false };
        let last = self.written.checked_sub(1).map(|last| self.script().writes[last]);
        let is_in_a_gap = last.is_some_and(|last| last.is_followed_at_once);
        !is_in_a_gap || deadline.since(self.written_at) < AT_ONCE
    }

    fn faults(&self, prompt: &[Step]) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.faults_left == 0 {
            return faults;
        }
        for host in self.hosts.iter().filter(|host| host.agent.is_some()) {
            faults.push(Fault::Dies(host.id));
            if host.follows_datastore() {
                faults.push(Fault::LosesDatastore(host.id));
            }
        }
        for step in prompt {
            if let Step::Hears(id, heard) = *step {
                let moments = self.scenario.bounds.moments();
                faults.extend(moments.iter().map(|&moment| Fault::DiesOver(heard, id, moment)));
            }
        }
        if self.channel.is_used() {
            faults.push(Fault::ChannelBreaks);
            faults.extend(self.channel.heard().map(Fault::WordComesAgain));
        }
        faults
    }

    fn wait(&mut self) {
        let Some(deadline) = self.next_deadline() else { return };
        self.now = self.now.max(deadline);
        let scene = self.scene();
        for host in self.hosts.iter_mut().map(Arc::make_mut) {
            let due = host.agent.as_ref().and_then(|agent| agent.engine.next_deadline());
            host.look_again();
            if due.is_some_and(|due| due <= scene.now) {
                host.round(&scene, vec![Fact::TimePassed], None);
            }
        }
    }

    fn moves(&mut self, what: Move) {
        self.moved += 1;
        let scene = self.scene();
        match what {
            Move::Stops => {
                let Place::Runs(at) = self.place else { return };
                (self.place, self.has_stopped[at]) = (Place::Stopped(at), true);
                self.hypervisor_says(at, true);
            }
            Move::GoesOn(at) => {
                self.place = Place::Runs(at);
                self.is_served[at] = true;
                self.hypervisor_says(at, false);
            }
            Move::Arrives(at) => {
                self.is_served.fill(false);
                (self.place, self.has_been[at], self.has_stopped[at]) = (Place::Runs(at), true, false);
                self.host(at).carrier(&scene);
            }
            Move::Announces => {
                let Place::Runs(at) = self.place else { return };
                let is_installed = self.host(at).announce(scene.now);
                self.is_served[at] |= is_installed;
            }
            Move::TapGoes(at) => self.host(at).tap_goes(&scene),
            Move::TapComes(at) => self.host(at).tap_comes(&scene),
        }
    }

    fn hears(&mut self, id: HostId, heard: Heard, dies: Option<Moment>) {
        let scene = self.scene();
        let host = self.host(id);
        match heard {
            Heard::Write => host.hear(&scene, dies),
            Heard::Announcement => {
                host.round(&scene, Vec::new(), dies);
                // Whoever hears of it and lives has its routes.
                self.is_served[id] |= self.place == Place::Runs(id) && dies.is_none();
            }
            Heard::Word => {
                if let Some((from, word)) = self.channel.take(id) {
                    self.deliver(from, word, dies);
                }
            }
        }
    }

    /// Nobody hears it while the agent is dead: the next one is told how things stand.
    fn hypervisor_says(&mut self, id: HostId, is_stopped: bool) {
        if self.scenario.hears_libvirt && self.hosts[id].agent.is_some() {
            self.host(id).hypervisor_says(is_stopped);
        }
    }

    fn deliver(&mut self, from: HostId, word: Word, dies: Option<Moment>) {
        let scene = self.scene();
        let Word { to, uid, says } = word;
        let fact = Fact::PeerSaid { endpoint: port(to), uid, address: address(from), says };
        self.host(to).round(&scene, vec![fact], dies);
    }

    /// Whoever has something new to say to somebody who listens says it.
    fn converse(&mut self) {
        let conversations: Vec<_> = self.hosts.iter().map(|host| host.conversation()).collect();
        self.channel.carry(&conversations);
    }

    fn go_wrong(&mut self, fault: Fault) {
        self.faults_left -= 1;
        match fault {
            Fault::Dies(id) => self.host(id).die(),
            Fault::DiesOver(heard, id, moment) => self.hears(id, heard, Some(moment)),
            Fault::LosesDatastore(id) => self.host(id).is_cut = true,
            Fault::ChannelBreaks => self.channel.is_cut = true,
            Fault::WordComesAgain(from) => {
                if let Some(word) = self.channel.last(from) {
                    self.deliver(from, word, None);
                }
            }
        }
    }
}

impl Model for World {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        let mut steps = self.prompt_steps();
        let may_wait = steps.is_empty() && self.may_wait();
        let faults = self.faults(&steps);
        steps.extend(self.next_write().map(Step::Write));
        steps.extend(self.next_move().map(Step::Move));
        for host in &self.hosts {
            match (&host.agent, host.heard, host.is_cut) {
                (None, ..) => steps.push(Step::Starts(host.id)),
                (Some(_), None, _) => steps.push(Step::Reads(host.id)),
                (Some(_), Some(_), true) => steps.push(Step::FindsDatastore(host.id)),
                (Some(_), Some(_), false) => {}
            }
        }
        if self.channel.is_cut {
            steps.push(Step::Connects);
        }
        if may_wait {
            steps.push(Step::Waits);
        }
        steps.extend(faults.into_iter().map(Step::Fault));
        steps
    }

    fn take(&mut self, step: Step) {
        // Two things never happen at the same time.
        self.now = self.now + Duration::from_millis(1);
        let scene = self.scene();
        match step {
            Step::Write(write) => {
                self.written += 1;
                self.written_at = self.now;
                if let Write::Migration { to, .. } = write {
                    self.has_been[to] = self.place == Place::Runs(to);
                }
            }
            Step::Move(what) => self.moves(what),
            Step::Hears(id, heard) => self.hears(id, heard, None),
            Step::HearsHypervisor(id) => self.host(id).hear_hypervisor(&scene),
            Step::Prepares(id) => self.host(id).prepare(&scene),
            Step::Waits => self.wait(),
            Step::Fault(fault) => self.go_wrong(fault),
            Step::Starts(id) => {
                self.host(id).start(&scene);
                let is_stopped = match self.place {
                    Place::Runs(at) => (at == id).then_some(false),
                    Place::Stopped(at) => (at == id).then_some(true),
                };
                if let Some(is_stopped) = is_stopped {
                    self.hypervisor_says(id, is_stopped);
                }
            }
            Step::Reads(id) => self.host(id).read(&scene),
            Step::FindsDatastore(id) => self.host(id).read_again(&scene),
            Step::Connects => self.channel.is_cut = false,
        }
        self.converse();
        self.look();
    }

    fn wrong(&self) -> Option<String> {
        self.violation()
    }

    fn is_at_rest(&self) -> bool {
        let mut steps = self.steps();
        steps.retain(|step| !matches!(step, Step::Fault(_)));
        steps.is_empty()
    }

    fn fingerprint(&self) -> u128 {
        let hosts: Vec<_> = self.hosts.iter().map(|host| host.fingerprint()).collect();
        let machine = (self.place, &self.is_served, &self.has_been, &self.has_stopped);
        let driver = (self.written, self.written_at, self.moved);
        fingerprint(&(hosts, &self.channel, machine, driver, self.faults_left), self.now)
    }

    fn picture(&self) -> String {
        let mut picture = format!("{:>9.3} s {:?}", self.now.since(START).as_secs_f64(), self.place);
        for host in &self.hosts {
            let _ = write!(picture, "; {}", self.picture_of(host));
        }
        picture
    }
}

impl World {
    fn picture_of(&self, host: &Host) -> String {
        let name = NAMES[host.id];
        let life = match (&host.agent, host.heard, host.is_cut) {
            (None, ..) => "dead".to_owned(),
            (Some(_), None, _) => "started".to_owned(),
            (Some(_), Some(heard), true) => format!("cut at {heard}"),
            (Some(_), Some(heard), false) => format!("heard {heard}/{}", self.log_len()),
        };
        let states: Vec<_> = host.agent.iter().flat_map(|agent| agent.engine.view(self.now)).collect();
        let states: Vec<_> = states.iter().map(|view| format!("{:?}", view.state)).collect();
        let kernel = &host.kernel;
        let forward = kernel.forward.map(|tunnel| format!(" forward {}", tunnel.peer)).unwrap_or_default();
        let watch = if kernel.watches.is_empty() { "" } else { " watch" };
        format!("{name} {life} {states:?} routes {:?}{watch}{forward}", host.metrics())
    }
}
