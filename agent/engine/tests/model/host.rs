//! One host: the real engine, and beside it what the agent and the kernel do with what it wants, no cleverer than they have to be.

use crate::datastore::{Subject, contents};
use crate::fingerprint::fingerprint;
use crate::kernel::Kernel;
use crate::script::{HostId, MAC, NAMES, TAP, Write, number, port, prefixes};
use crate::seed::Seed;
use core::net::{IpAddr, Ipv4Addr};
use cutover_common::AnnouncementKind;
use cutover_engine::conversation::{Says, WantedConversation};
use cutover_engine::fact::{AnnouncementSeen, Link};
use cutover_engine::memory::{LeftBehind, Memory};
use cutover_engine::model::Policy;
use cutover_engine::wanted::{Status, Tunnel, WantedWatch};
use cutover_engine::{BootTime, EndpointKey, Engine, Fact, Wanted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What is the same for all hosts.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) now: BootTime,
    pub(crate) writes: Arc<[Write]>,
    /// How many of them have been made.
    pub(crate) made: usize,
    pub(crate) seed: Option<Seed>,
}

impl Scene {
    /// What the datastore has seen.
    fn log(&self) -> &[Write] {
        &self.writes[..self.made]
    }
}

/// Between which of the things that it does one after the other an agent is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// The memory is saved, and nothing of it is done.
    Saved,
    /// Only the routes are written.
    Routed,
    /// Only the watches are as wanted.
    Watched,
    /// Only the tunnels are as wanted.
    Tunnelled,
}

impl Moment {
    pub(crate) const ALL: [Self; 4] = [Self::Saved, Self::Routed, Self::Watched, Self::Tunnelled];
}

/// What an engine knows from libvirt. That a virtual machine runs of which nothing else was heard says nothing: it may have been
/// here all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Nothing,
    Stopped,
    GoesOn,
}

/// The living agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) engine: Engine,
    /// What an announcement on an armed watch installs at once, by its generation.
    prepared: BTreeMap<u64, WantedWatch>,
    /// Generations whose watch was said to be armed.
    armed: BTreeSet<u64>,
    /// Interfaces that are said to be set up.
    configured: BTreeSet<u32>,
    /// Receptions and forwards that were said to be there.
    received: Option<Tunnel>,
    forwarded: Option<Tunnel>,
    /// Generations whose announcement is on the way to the engine, and those that have come.
    pub(crate) pending: BTreeSet<u64>,
    told: BTreeSet<u64>,
    /// The announcement of this generation is said to the peer before the engine has heard it.
    ahead: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) agent: Option<Agent>,
    pub(crate) kernel: Kernel,
    saved: Memory,
    lives: u64,
    /// How many writes of the datastore it has heard of; nothing before it has read it.
    pub(crate) heard: Option<usize>,
    /// Not connected to the datastore.
    pub(crate) is_cut: bool,
    /// The other hosts whose endpoint it follows.
    follows: BTreeSet<HostId>,
    /// What libvirt has said and nobody has heard: that the virtual machine has stopped here, or goes on here.
    pub(crate) hypervisor: VecDeque<bool>,
    /// What the engine has heard of that.
    told: Told,
    /// Since when the engine knows of a migration away from here.
    pub(crate) leaves_since: Option<BootTime>,
    links: u32,
    /// Says whether something has changed since it was made; nothing if so.
    print: Option<u128>,
}

pub(crate) fn address(host: HostId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, NAMES[host].as_bytes()[0]))
}

impl Host {
    pub(crate) fn new(id: HostId, has_tap: bool) -> Self {
        let mut host = Self {
            id,
            agent: None,
            kernel: Kernel::default(),
            saved: Memory::default(),
            lives: 0,
            heard: None,
            is_cut: false,
            follows: BTreeSet::new(),
            hypervisor: VecDeque::new(),
            told: Told::Nothing,
            leaves_since: None,
            links: 4,
            print: None,
        };
        if has_tap {
            host.new_link();
        }
        host
    }

    fn new_link(&mut self) -> Fact {
        self.links += 1;
        let link =
            Link { ifindex: self.links, name: TAP.into(), admin_up: true, running: false, master: None };
        Fact::LinkSeen(self.kernel.link.insert(link).clone())
    }

    pub(crate) fn ifindex(&self) -> Option<u32> {
        self.kernel.link.as_ref().map(|link| link.ifindex)
    }

    pub(crate) fn wanted(&self) -> Option<&Wanted> {
        self.agent.as_ref()?.engine.wanted()
    }

    /// The agent lives, and has read the datastore.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.agent.is_some() && self.heard.is_some()
    }

    /// The agent lives and follows the datastore.
    pub(crate) fn follows_datastore(&self) -> bool {
        self.is_in_sync() && !self.is_cut
    }

    // The agent's life.

    /// The agent is started. The datastore has not been read.
    pub(crate) fn start(&mut self, scene: &Scene) {
        self.lives += 1;
        let hostname = NAMES[self.id].into();
        let policy = Policy { hostname, forwards: true, holds: true, ..Policy::default() };
        let policy = scene.seed.map_or_else(|| policy.clone(), |seed| seed.of_policy(&policy));
        // Through the format of the file.
        let memory = serde_json::to_string(&self.saved).and_then(|text| serde_json::from_str(&text));
        let memory: Memory = memory.expect("the memory can be written and read");
        self.follows = memory.others().map(|other| number(&other.host)).collect();
        let watches = self.kernel.watches.iter().map(|(&ifindex, &generation)| (ifindex, (generation, MAC)));
        let found = LeftBehind { watches: watches.collect(), routes: self.kernel.routes.clone() };
        let lots = (self.lives << 8) + self.id as u64;
        let engine = Engine::new(policy, memory, found).drawing_lots(lots).recalling().asking();
        self.agent = Some(Agent {
            engine,
            prepared: BTreeMap::new(),
            armed: BTreeSet::new(),
            configured: BTreeSet::new(),
            received: None,
            forwarded: None,
            pending: BTreeSet::new(),
            told: BTreeSet::new(),
            ahead: None,
        });
        self.heard = None;
        let links = self.kernel.link.clone().map(Fact::LinkSeen);
        self.round(scene, links.into_iter().collect(), None);
    }

    pub(crate) fn die(&mut self) {
        self.print = None;
        (self.agent, self.heard, self.is_cut, self.leaves_since) = (None, None, false, None);
        self.hypervisor.clear();
    }

    /// The datastore is read for the first time in this life.
    pub(crate) fn read(&mut self, scene: &Scene) {
        self.heard = Some(scene.log().len());
        let contents = contents(scene.log());
        let (migrations, endpoints): (Vec<_>, Vec<_>) =
            contents.values().map(|(_, write)| *write).partition(|write| write.endpoint().is_none());
        for &migration in &migrations {
            self.note(scene.now, migration);
        }
        let endpoints = endpoints.into_iter().filter(|write| self.is_followed(*write));
        let mut facts: Vec<Fact> = migrations.iter().copied().chain(endpoints).map(Write::fact).collect();
        facts.push(Fact::InSync { complete: true });
        self.round(scene, facts, None);
    }

    /// The datastore is read again after an interruption: what differs is told in the order that claims the least.
    pub(crate) fn read_again(&mut self, scene: &Scene) {
        self.is_cut = false;
        let heard = self.heard.replace(scene.log().len()).unwrap_or_default();
        let (before, after) = (contents(&scene.log()[..heard]), contents(scene.log()));
        let gone = before.iter().filter(|(subject, _)| !after.contains_key(subject));
        let (endpoints_gone, migrations_gone): (Vec<_>, Vec<_>) =
            gone.map(|(subject, _)| *subject).partition(|it| matches!(it, Subject::EndpointOn(_)));
        let is_news = |(subject, found): &(&Subject, &(usize, Write))| before.get(subject) != Some(found);
        let news: Vec<Write> = after.iter().filter(is_news).map(|(_, (_, write))| *write).collect();
        let mut told: Vec<Write> = migrations_gone.into_iter().map(Subject::gone).collect();
        for write in news {
            self.note(scene.now, write);
            told.push(write);
        }
        told.extend(endpoints_gone.into_iter().map(Subject::gone));
        let told = told.into_iter().filter(|write| self.is_followed(*write));
        let mut facts: Vec<Fact> = told.map(Write::fact).collect();
        facts.push(Fact::DatastoreFollowed);
        self.round(scene, facts, None);
    }

    /// The next write is told.
    pub(crate) fn hear(&mut self, scene: &Scene, dies: Option<Moment>) {
        let heard = self.heard.unwrap_or_default();
        self.heard = Some(heard + 1);
        let write = scene.log()[heard];
        let mut facts = Vec::new();
        let newly = self.note(scene.now, write);
        if self.is_followed(write) {
            facts.push(write.fact());
        }
        // What is followed from now on is read as well.
        let contents = contents(&scene.log()[..heard]);
        let known = newly.into_iter().filter_map(|host| contents.get(&Subject::EndpointOn(host)));
        facts.extend(known.map(|(_, write)| write.fact()));
        if let (Some(Seed::EndIsSuccess), Write::MigrationGone { to }) = (scene.seed, write)
            && to == self.id
            && let Some(generation) = self.ifindex().and_then(|it| self.kernel.watches.get(&it).copied())
        {
            facts.push(announcement(generation, scene.now));
        }
        self.round(scene, facts, dies);
    }

    /// Takes note of what is about to be told. Returns the hosts whose endpoint is followed from now on.
    fn note(&mut self, now: BootTime, write: Write) -> Vec<HostId> {
        match write {
            Write::Migration { from, to, .. } => {
                self.leaves_since = (from == self.id).then_some(now);
                let matters = from == self.id || to == self.id || !self.follows.is_empty();
                let others = [from, to].into_iter().filter(|&host| matters && host != self.id);
                others.filter(|&host| self.follows.insert(host)).collect()
            }
            Write::MigrationGone { .. } => {
                self.leaves_since = None;
                Vec::new()
            }
            Write::Endpoint { .. } | Write::EndpointGone { .. } => Vec::new(),
        }
    }

    fn is_followed(&self, write: Write) -> bool {
        write.endpoint().is_none_or(|host| host == self.id || self.follows.contains(&host))
    }

    /// One or more rounds of the agent's loop: facts in, the memory saved, what is wanted done and reported.
    pub(crate) fn round(&mut self, scene: &Scene, facts: Vec<Fact>, dies: Option<Moment>) {
        self.print = None;
        let mut facts = facts;
        // ORDER: the agent takes announcements before everything else.
        if let Some(agent) = &mut self.agent {
            for generation in core::mem::take(&mut agent.pending) {
                agent.told.insert(generation);
                let at = self.kernel.evidence.get(&generation).copied().unwrap_or(scene.now);
                facts.insert(0, announcement(generation, at));
            }
        }
        loop {
            let Some(agent) = &mut self.agent else { return };
            for fact in facts.drain(..) {
                agent.engine.handle(scene.now, fact);
            }
            agent.engine.settle(scene.now);
            agent.engine.take_notices();
            let questions = agent.engine.take_questions();
            if agent.engine.take_memory_changed() {
                self.saved = agent.engine.memory();
            }
            if let Some(moment) = dies {
                self.apply(scene, Some(moment));
                return self.die();
            }
            facts = self.apply(scene, None);
            if !self.is_cut && self.heard.is_some() {
                let contents = contents(scene.log());
                let answer = |endpoint: EndpointKey| {
                    let subject = Subject::EndpointOn(number(&endpoint.host));
                    Fact::EndpointLookedUp {
                        endpoint,
                        at: scene.now,
                        exists: contents.contains_key(&subject),
                    }
                };
                facts.extend(questions.into_iter().map(answer));
            }
            facts.extend(self.tell_tunnels(scene.now));
            if facts.is_empty() {
                return;
            }
        }
    }

    /// The appliers do what they can do without waiting. Returns what they report.
    fn apply(&mut self, scene: &Scene, dies: Option<Moment>) -> Vec<Fact> {
        let Some(agent) = &mut self.agent else { return Vec::new() };
        let Some(wanted) = agent.engine.wanted().cloned() else { return Vec::new() };
        let wanted = scene.seed.map_or_else(|| wanted.clone(), |seed| seed.of_wanted(&wanted));
        let does = |moment: Moment| dies.is_none_or(|dies| dies == moment);
        if does(Moment::Routed) {
            self.kernel.route(&wanted);
        }
        let mut facts = Vec::new();
        if does(Moment::Watched) {
            self.kernel.unwatch(&wanted);
            for (ifindex, watch) in wanted.watches.iter() {
                let is_armed = self.kernel.watches.get(ifindex) == Some(&watch.generation);
                if !is_armed {
                    continue;
                }
                agent.prepared.insert(watch.generation, watch.clone());
                if agent.armed.insert(watch.generation) {
                    facts.push(armed(watch.generation, scene.now));
                }
                let has_evidence = self.kernel.evidence.contains_key(&watch.generation);
                if has_evidence && !agent.told.contains(&watch.generation) {
                    agent.pending.insert(watch.generation);
                }
            }
        }
        if does(Moment::Tunnelled) && wanted.is_recalled {
            if prefixes().iter().all(|prefix| wanted.forwards_over.contains(prefix)) {
                self.kernel.forward = None;
            }
        } else if does(Moment::Tunnelled) {
            let key = port(self.id);
            let forward = wanted.forwards.get(&key).filter(|forward| forward.is_active);
            self.kernel.forward = forward.filter(|it| it.prefixes == prefixes()).map(|it| it.tunnel);
            self.kernel.reception = wanted.receptions.get(&key).map(|reception| reception.tunnel);
        }
        facts
    }

    fn tell_tunnels(&mut self, now: BootTime) -> Vec<Fact> {
        let Some(agent) = &mut self.agent else { return Vec::new() };
        if agent.engine.wanted().is_none_or(|wanted| wanted.is_recalled) {
            return Vec::new();
        }
        let mut facts = Vec::new();
        if core::mem::replace(&mut agent.received, self.kernel.reception) != self.kernel.reception
            && let Some(tunnel) = self.kernel.reception
        {
            facts.push(Fact::ReceptionReady {
                endpoint: port(self.id),
                tunnel_id: tunnel.id,
                is_ready: true,
            });
        }
        if core::mem::replace(&mut agent.forwarded, self.kernel.forward) != self.kernel.forward
            && let Some(tunnel) = self.kernel.forward
        {
            facts.push(Fact::ForwardStarted { endpoint: port(self.id), tunnel_id: tunnel.id, at: now });
        }
        facts
    }

    // What takes time.

    /// Whether a tap is to be set up or listened to, and is not yet.
    pub(crate) fn has_to_prepare(&self) -> bool {
        let (Some(agent), Some(wanted)) = (&self.agent, self.wanted()) else { return false };
        let Some(ifindex) = self.ifindex() else { return false };
        let watch = wanted.watches.get(&ifindex);
        let is_unarmed = watch.is_some_and(|it| self.kernel.watches.get(&ifindex) != Some(&it.generation));
        let is_raw = wanted.interfaces.contains_key(&ifindex) && !agent.configured.contains(&ifindex);
        is_unarmed || is_raw
    }

    pub(crate) fn prepare(&mut self, scene: &Scene) {
        let Some(ifindex) = self.ifindex() else { return };
        let Some(wanted) = self.wanted().cloned() else { return };
        let Some(agent) = &mut self.agent else { return };
        let mut facts = Vec::new();
        if wanted.interfaces.contains_key(&ifindex) && agent.configured.insert(ifindex) {
            facts.push(Fact::InterfaceConfigured { ifindex, ready: true });
        }
        if let Some(watch) = wanted.watches.get(&ifindex) {
            self.kernel.watches.insert(ifindex, watch.generation);
        }
        self.round(scene, facts, None);
    }

    /// Whether what is necessary before a virtual machine can come is there.
    pub(crate) fn is_prepared(&self) -> bool {
        let Some(agent) = &self.agent else { return false };
        self.ifindex()
            .is_some_and(|it| self.kernel.watches.contains_key(&it) && agent.configured.contains(&it))
    }

    /// The virtual machine announces itself. Returns whether its routes are there at once.
    pub(crate) fn announce(&mut self, now: BootTime) -> bool {
        let Some(&generation) = self.ifindex().and_then(|ifindex| self.kernel.watches.get(&ifindex)) else {
            return false;
        };
        if self.kernel.evidence.contains_key(&generation) {
            return false;
        }
        self.print = None;
        self.kernel.evidence.insert(generation, now);
        let Some(agent) = &mut self.agent else { return false };
        agent.pending.insert(generation);
        let Some(watch) = agent.prepared.get(&generation) else { return false };
        self.kernel.routes.extend(watch.routes.iter());
        if watch.ends_forwarding {
            self.kernel.forward = None;
        }
        agent.ahead = Some(generation);
        !watch.routes.is_empty()
    }

    /// libvirt's word reaches the engine, if that is about to lose the virtual machine.
    pub(crate) fn hear_hypervisor(&mut self, scene: &Scene) {
        self.print = None;
        let Some(is_stopped) = self.hypervisor.pop_front() else { return };
        let Some(agent) = &self.agent else { return };
        let is_meant = agent.engine.departing().any(|it| !is_stopped || it.ends_at.is_none());
        self.told = match (is_stopped, self.told) {
            _ if !is_meant => self.told,
            (true, _) => Told::Stopped,
            (false, Told::Nothing) => Told::Nothing,
            (false, Told::Stopped | Told::GoesOn) => Told::GoesOn,
        };
        let endpoint = port(self.id);
        let fact = is_meant.then_some(Fact::MachineStopped { endpoint, is_stopped });
        self.round(scene, fact.into_iter().collect(), None);
    }

    pub(crate) fn tap_goes(&mut self, scene: &Scene) {
        let Some(link) = self.kernel.link.take() else { return };
        self.kernel.routes.retain(|route| route.ifindex != link.ifindex);
        self.kernel.watches.remove(&link.ifindex);
        self.round(scene, vec![Fact::LinkRemoved { ifindex: link.ifindex }], None);
    }

    pub(crate) fn tap_comes(&mut self, scene: &Scene) {
        if self.kernel.link.is_none() {
            let fact = self.new_link();
            self.round(scene, vec![fact], None);
        }
    }

    /// A hypervisor opens the tap.
    pub(crate) fn carrier(&mut self, scene: &Scene) {
        if let Some(link) = &mut self.kernel.link
            && !core::mem::replace(&mut link.running, true)
        {
            let fact = Fact::LinkSeen(link.clone());
            self.round(scene, vec![fact], None);
        }
    }

    /// Whether the engine has heard that the virtual machine had stopped and goes on here.
    pub(crate) fn knows_it_goes_on(&self) -> bool {
        self.told == Told::GoesOn
    }

    // What is said to peers.

    pub(crate) fn conversation(&self) -> Option<WantedConversation> {
        let mut conversation = self.wanted()?.conversations.get(&port(self.id))?.clone();
        let is_ahead = self.agent.as_ref().is_some_and(|agent| agent.ahead.is_some())
            && self.agent.as_ref().and_then(|agent| agent.ahead) == conversation.announced_by;
        if let Says::Target(says) = &mut conversation.says {
            says.is_announced |= is_ahead;
        }
        Some(conversation)
    }

    // What there is to see.

    /// Makes its fingerprint, if that is not known.
    pub(crate) fn look(&mut self, now: BootTime) {
        if self.print.is_none() {
            let Self { agent, kernel, saved, lives, follows, leaves_since, links, hypervisor, told, .. } =
                self;
            let everything = (agent, kernel, saved, lives, follows, leaves_since, links, hypervisor, told);
            self.print = Some(fingerprint(&everything, now));
        }
    }

    pub(crate) const fn is_seen(&self) -> bool {
        self.print.is_some()
    }

    /// Libvirt says something.
    pub(crate) fn hypervisor_says(&mut self, is_stopped: bool) {
        self.print = None;
        self.hypervisor.push_back(is_stopped);
    }

    /// Time has passed.
    pub(crate) const fn look_again(&mut self) {
        self.print = None;
    }

    pub(crate) const fn fingerprint(&self) -> (Option<u128>, Option<usize>, bool) {
        (self.print, self.heard, self.is_cut)
    }

    /// The metrics of the virtual machine's routes on the tap that is there, by destination: all that count.
    pub(crate) fn metrics(&self) -> BTreeSet<u32> {
        let on_tap = self.kernel.routes.iter().filter(|route| Some(route.ifindex) == self.ifindex());
        on_tap.map(|route| route.metric).collect()
    }

    /// Whether every address of the virtual machine is routed to its tap.
    pub(crate) fn is_routed(&self) -> bool {
        let on_tap = self.kernel.routes.iter().filter(|route| Some(route.ifindex) == self.ifindex());
        let routed: BTreeSet<_> = on_tap.map(|route| route.destination).collect();
        prefixes().is_subset(&routed)
    }

    pub(crate) fn is_up(&self) -> bool {
        let status = self.wanted().and_then(|wanted| wanted.statuses.get(&port(self.id)));
        status.is_some_and(|wanted| wanted.status == Status::Up)
    }

    pub(crate) fn saved(&self) -> &Memory {
        &self.saved
    }
}

const fn armed(generation: u64, at: BootTime) -> Fact {
    Fact::WatchArmed { generation, at }
}

fn announcement(generation: u64, at: BootTime) -> Fact {
    Fact::AnnouncementSeen(AnnouncementSeen {
        generation,
        kind: AnnouncementKind::Rarp,
        seen_at: at,
        taken_at: None,
        routed_at: None,
    })
}
