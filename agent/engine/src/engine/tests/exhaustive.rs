//! Every sequence of inputs up to a bound, from every situation of a migration.
//!
//! Two sequences that lead to the same situation have the same future, so each situation is visited once. What
//! makes situations equal is [`World::situation`]: everything that the engine decides by, with times as ages.

use super::host::*;
use crate::fact::{Fact, Link};
use crate::machine::{Machine, State};
use crate::time::BootTime;
use crate::wanted::{Wanted, WantedRoute};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Letter {
    Migration(&'static str),
    MigrationRemoved,
    Reverse,
    ReverseRemoved,
    OwnWritten,
    OwnRemoved,
    SourceWritten,
    SourceRemoved,
    LinkAppears,
    LinkVanishes,
    LinkRecreated,
    CarrierChanges,
    AdminStateChanges,
    Armed,
    ArmingFailed,
    Announced,
    AnnouncedOnOldWatch,
    AnnouncedWhileTapIsRecreated,
    Passed(u64),
    InSync,
    Restart,
    /// The same while the datastore is away: what happens there is known when it is in sync.
    RestartAway,
}

const ALPHABET: [Letter; 25] = [
    Letter::Migration("u1"),
    Letter::Migration("u2"),
    Letter::MigrationRemoved,
    Letter::Reverse,
    Letter::ReverseRemoved,
    Letter::OwnWritten,
    Letter::OwnRemoved,
    Letter::SourceWritten,
    Letter::SourceRemoved,
    Letter::LinkAppears,
    Letter::LinkVanishes,
    Letter::LinkRecreated,
    Letter::CarrierChanges,
    Letter::AdminStateChanges,
    Letter::Armed,
    Letter::ArmingFailed,
    Letter::Announced,
    Letter::AnnouncedOnOldWatch,
    Letter::AnnouncedWhileTapIsRecreated,
    Letter::Passed(300),
    Letter::Passed(2_000),
    Letter::Passed(5_000),
    Letter::Passed(30_000),
    Letter::InSync,
    Letter::Restart,
];

impl Letter {
    const fn is_of_the_datastore(self) -> bool {
        use Letter::{
            Migration, MigrationRemoved, OwnRemoved, OwnWritten, Reverse, ReverseRemoved, SourceRemoved,
            SourceWritten,
        };
        matches!(
            self,
            Migration(_)
                | MigrationRemoved
                | Reverse
                | ReverseRemoved
                | OwnWritten
                | OwnRemoved
                | SourceWritten
                | SourceRemoved
        )
    }
}

#[derive(Clone)]
struct World {
    host: Host,
    // What the datastore and the kernel hold, for restarts.
    migrations: BTreeMap<&'static str, &'static str>,
    own: bool,
    source: bool,
    link: Option<Link>,
    links_so_far: u32,
    /// Every generation that was ever wanted, and for which interface.
    generations: BTreeMap<u64, u32>,
    given_up: BTreeSet<u64>,
    /// The agent has been started while its datastore was away, which it is still.
    is_away: bool,
    history: Vec<Letter>,
}

impl World {
    fn cold() -> Self {
        let mut host = Host::starting("b");
        host.appliers = false;
        Self {
            host,
            migrations: BTreeMap::new(),
            own: false,
            source: false,
            link: None,
            links_so_far: 4,
            generations: BTreeMap::new(),
            given_up: BTreeSet::new(),
            is_away: false,
            history: Vec::new(),
        }
    }

    fn after(letters: &[Letter]) -> Self {
        let mut world = Self::cold();
        for &letter in letters {
            assert!(world.take(letter), "{letter:?} does not apply after {:?}", world.history);
        }
        world
    }

    fn machine(&self) -> Option<&Machine> {
        self.host.engine.locals.get(&port("b")).map(|local| &*local.machine)
    }

    /// Returns whether the letter makes sense here.
    fn take(&mut self, letter: Letter) -> bool {
        let before = Before::of(self, letter);
        let facts = match letter {
            Letter::Migration(uid) if self.migrations.insert("b", uid) != Some(uid) => {
                vec![migration_written(uid, "a", "b")]
            }
            Letter::MigrationRemoved if self.migrations.remove("b").is_some() => vec![migration_removed("b")],
            Letter::Reverse if self.migrations.insert("a", "r1").is_none() => {
                vec![migration_written("r1", "b", "a")]
            }
            Letter::ReverseRemoved if self.migrations.remove("a").is_some() => vec![migration_removed("a")],
            Letter::OwnWritten => {
                self.own = true;
                vec![written("b")]
            }
            Letter::OwnRemoved if core::mem::take(&mut self.own) => vec![removed("b")],
            Letter::SourceWritten => {
                self.source = true;
                vec![written("a")]
            }
            Letter::SourceRemoved if core::mem::take(&mut self.source) => vec![removed("a")],
            Letter::LinkAppears if self.link.is_none() => vec![self.new_link()],
            Letter::LinkVanishes if self.link.is_some() => vec![self.link_gone()],
            Letter::LinkRecreated if self.link.is_some() => vec![self.link_gone(), self.new_link()],
            Letter::CarrierChanges if self.link.is_some() => {
                vec![self.changed_link(|link| link.running = !link.running)]
            }
            Letter::AdminStateChanges if self.link.is_some() => {
                vec![self.changed_link(|link| link.admin_up = !link.admin_up)]
            }
            Letter::Armed | Letter::ArmingFailed | Letter::Announced => {
                let Some(generation) = self.host.watch().map(|watch| watch.generation) else { return false };
                vec![self.about_watch(letter, generation)]
            }
            Letter::AnnouncedOnOldWatch => {
                let Some(&generation) = self.given_up.last() else { return false };
                vec![announcement(generation, self.host.now)]
            }
            Letter::AnnouncedWhileTapIsRecreated if self.link.is_some() => {
                let Some(generation) = self.host.watch().map(|watch| watch.generation) else { return false };
                vec![self.link_gone(), self.new_link(), announcement(generation, self.host.now)]
            }
            Letter::Passed(milliseconds) => {
                self.host.now = self.host.now + ms(milliseconds);
                vec![Fact::TimePassed]
            }
            Letter::InSync if self.host.wanted_in_sync().is_none() => {
                let mut facts =
                    if core::mem::take(&mut self.is_away) { self.resources(true) } else { Vec::new() };
                facts.push(Fact::InSync { complete: true });
                facts
            }
            Letter::Restart => {
                // It takes some time, and the next generation is made from the time.
                self.host.now = self.host.now + ms(1);
                self.host = self.restarted(true);
                vec![]
            }
            Letter::RestartAway => {
                self.host.now = self.host.now + ms(1);
                self.is_away = true;
                self.host = self.restarted(true);
                vec![]
            }
            _ => return false,
        };
        self.history.push(letter);
        let is_untold = self.is_away && letter.is_of_the_datastore();
        for fact in facts.into_iter().filter(|_| !is_untold) {
            self.host.engine.handle(self.host.now, fact);
        }
        self.host.engine.settle(self.host.now);
        self.host.install();
        self.host.engine.take_notices();
        self.host.check();
        self.check(letter, &before);
        true
    }

    fn about_watch(&mut self, letter: Letter, generation: u64) -> Fact {
        let now = self.host.now;
        match letter {
            Letter::Armed => {
                self.host.armed = self.link.iter().map(|link| (link.ifindex, generation)).collect();
                Fact::WatchArmed { generation, at: now }
            }
            Letter::ArmingFailed => Fact::WatchFailed { generation },
            _ => announcement(generation, now),
        }
    }

    fn new_link(&mut self) -> Fact {
        self.links_so_far += 1;
        Fact::LinkSeen(self.link.insert(link(self.links_so_far, true)).clone())
    }

    fn link_gone(&mut self) -> Fact {
        let ifindex = self.link.take().map_or(0, |link| link.ifindex);
        self.host.armed.remove(&ifindex);
        Fact::LinkRemoved { ifindex }
    }

    fn changed_link(&mut self, change: impl FnOnce(&mut Link)) -> Fact {
        let link = self.link.as_mut().expect("asked before");
        change(link);
        Fact::LinkSeen(link.clone())
    }

    /// The agent dies and another one starts, up to the point at which the datastore is in sync.
    fn restarted(&self, own_first: bool) -> Host {
        let mut host = Host::restarted("b", self.host.now, self.host.memory(), self.host.found());
        host.appliers = false;
        let (engine, now) = (&mut host.engine, self.host.now);
        if let Some(link) = &self.link {
            engine.handle(now, Fact::LinkSeen(link.clone()));
        }
        if !self.is_away {
            for fact in self.resources(own_first) {
                engine.handle(now, fact);
            }
            if self.host.wanted_in_sync().is_some() {
                engine.handle(now, Fact::InSync { complete: true });
            }
        }
        host.engine.settle(now);
        // The appliers find what the old agent left and say so.
        host.armed.clone_from(&self.host.armed);
        host.kernel.clone_from(&self.host.kernel);
        let local = self.host.engine.locals.get(&port("b"));
        if let Some(generation) = local.and_then(|local| local.armed) {
            host.engine.handle(now, Fact::WatchArmed { generation, at: now });
        }
        for (&ifindex, &ready) in &self.host.engine.configured {
            host.engine.handle(now, Fact::InterfaceConfigured { ifindex, ready });
        }
        host.engine.settle(now);
        host
    }

    /// What the datastore has.
    fn resources(&self, own_first: bool) -> Vec<Fact> {
        let own = self.own.then(|| written("b"));
        let source = self.source.then(|| written("a"));
        let endpoints = if own_first { [own, source] } else { [source, own] };
        let migrations = self.migrations.iter().map(|(to, uid)| {
            let from = if *to == "b" { "a" } else { "b" };
            migration_written(uid, from, to)
        });
        endpoints.into_iter().flatten().chain(migrations).collect()
    }

    /// Without a datastore nothing is taken away, and what is announced has its routes at once.
    fn check_away(&self, letter: Letter, before: &Before) {
        let host = &self.host;
        let lost: Vec<_> = before.kernel.difference(&host.kernel).collect();
        let is_there = |ifindex| self.link.as_ref().is_some_and(|link| link.ifindex == ifindex);
        assert!(!lost.iter().any(|route| is_there(route.ifindex)), "{lost:?} after {:?}", self.history);
        if letter == Letter::Announced && self.link.as_ref().is_some_and(|link| link.admin_up) {
            assert_eq!(host.metric(), Some(ELEVATED), "after {:?}", self.history);
            assert!(host.engine.memory().endpoints.iter().any(|it| it.machine.elevated() == Some(true)));
        }
    }

    fn check(&mut self, letter: Letter, before: &Before) {
        if self.is_away {
            self.check_away(letter, before);
        }
        if let Some(everything) = &before.everything {
            let now = (self.machine().cloned(), self.host.engine.wanted().cloned());
            assert_eq!(&now, everything, "after {:?}", self.history);
        }
        if letter == Letter::AnnouncedWhileTapIsRecreated {
            let state = self.host.state();
            assert!(matches!(state, State::Base | State::Target), "{state} after {:?}", self.history);
        }
        self.check_generations(before.generation);
        self.check_pending();
    }

    fn check_generations(&mut self, before: Option<u64>) {
        let watch = self.host.watch().map(|watch| watch.generation);
        let ifindex = self.link.as_ref().map(|link| link.ifindex);
        if let (Some(generation), Some(ifindex)) = (watch, ifindex) {
            let first = *self.generations.entry(generation).or_insert(ifindex);
            assert_eq!(first, ifindex, "generation for two interfaces after {:?}", self.history);
            assert!(!self.given_up.contains(&generation), "generation used again after {:?}", self.history);
        }
        if watch != before {
            self.given_up.extend(before);
        }
    }

    fn check_pending(&self) {
        let engine = &self.host.engine;
        if self.host.wanted_in_sync().is_none() {
            assert_eq!(engine.next_deadline(), None, "a deadline before anything is known");
            return;
        }
        let pending = engine.locals.values().any(|local| {
            (local.held_since.is_some() && !local.is_suspect)
                || local.machine.state == State::TimeWait
                || local.machine.unresolved.is_some_and(|it| it.source_absent_since.is_some())
                || local.machine.undecided_since.is_some()
        });
        let due = engine.next_deadline();
        assert_eq!(
            due.is_some(),
            pending || !engine.losses.is_judged() || engine.hitless_deadline().is_some(),
            "deadline {due:?} after {:?}",
            self.history
        );
    }

    /// A restart changes nothing that is wanted, in whatever order the datastore is read again.
    ///
    /// Not said of an endpoint that is only held: its grace time starts again.
    fn check_restart(&self) {
        let Some(wanted) = self.host.wanted_in_sync().filter(|_| !self.host.held()) else { return };
        // A new life does not know which interfaces have been an endpoint's in the one before.
        let known = |wanted: &Wanted| wanted.interfaces.keys().copied().collect();
        let expected = Wanted {
            leftovers_may_go: false,
            unknown_statuses_may_go: false,
            known_interfaces: known(wanted),
            ..wanted.clone()
        };
        for own_first in [true, false] {
            let again = self.restarted(own_first);
            assert_eq!(
                again.wanted(),
                &expected,
                "restarted, own first: {own_first}, after {:?}",
                self.history
            );
            let due = |host: &Host| host.machine_deadline();
            assert_eq!(due(&again), due(&self.host), "deadline of the machine after {:?}", self.history);
        }
    }

    /// However it came to this: once every migration and the source's endpoint are gone and the endpoint and its
    /// tap are there, time alone brings the endpoint back to normal.
    fn check_end(&self) {
        let mut world = self.clone();
        let mut rest =
            vec![Letter::InSync, Letter::MigrationRemoved, Letter::ReverseRemoved, Letter::LinkAppears];
        if self.link.as_ref().is_some_and(|link| !link.admin_up) {
            rest.push(Letter::AdminStateChanges);
        }
        if !self.own {
            rest.push(Letter::OwnWritten);
        }
        // While the source's endpoint is there, an unresolved migration waits for evidence, not for time.
        rest.push(Letter::SourceRemoved);
        for letter in rest {
            world.take(letter);
        }
        for _ in 0..4 {
            let Some(due) = world.host.engine.next_deadline() else { break };
            world.host.now = due;
            world.host.engine.settle(due);
            world.host.check();
        }
        assert_eq!(world.host.engine.next_deadline(), None, "no rest after {:?}", self.history);
        assert_eq!(world.host.state(), State::Base, "after {:?}", self.history);
        let expected = if world.host.not_here() { None } else { Some(NORMAL) };
        assert_eq!(world.host.metric(), expected, "after {:?}", self.history);
    }

    /// Everything that decides what happens next.
    fn situation(&self) -> String {
        let (engine, now) = (&self.host.engine, self.host.now);
        let age = |time: BootTime| now.since(time).min(Duration::from_secs(30)).as_millis();
        let current = self.link.as_ref().map(|link| link.ifindex);
        let machine = |machine: &Machine| {
            let arming = machine.arming.map(|arming| Some(arming.ifindex) == current);
            let left = machine.elevated_until.map(|until| until.since(now).as_millis());
            let unresolved =
                machine.unresolved.map(|u| (age(u.since), u.rewritten, u.source_absent_since.map(age)));
            let known = (machine.not_here, machine.phases.announced_at.is_some(), &machine.source);
            let place = machine.here.as_ref().map(|here| Some(here.ifindex) == current);
            let source_gone = machine.source_gone_at.map(age);
            let known =
                (known, place, machine.is_kept, machine.is_leaving, machine.is_sourceless, source_gone);
            let undecided = machine.undecided_since.map(age);
            format!(
                "{:?}{:?}{}{arming:?}{left:?}{unresolved:?}{undecided:?}{known:?}",
                machine.state, machine.role, machine.uid
            )
        };
        let local = engine.locals.get(&port("b")).map(|local| {
            let armed = local.armed.map(|armed| local.machine.arming.is_some_and(|a| a.generation == armed));
            format!("{:?}{armed:?}{}", local.held_since.map(age), machine(&local.machine))
        });
        let remembered = engine.remembered.get(&port("b")).map(|entry| machine(&entry.machine));
        let found: Vec<_> = engine.found.watches.keys().map(|&ifindex| Some(ifindex) == current).collect();
        let armed: Vec<_> = self.host.armed.keys().map(|&ifindex| Some(ifindex) == current).collect();
        let in_sync = engine.in_sync_since.map(|since| age(since).min(2_000));
        let link = self.link.as_ref().map(|link| (link.admin_up, link.running));
        let elevated = engine.found.routes.iter().filter(|route| route.metric == ELEVATED);
        let elevated: BTreeSet<_> = elevated.map(|route| Some(route.ifindex) == current).collect();
        format!(
            "{local:?}{remembered:?}{found:?}{armed:?}{in_sync:?}{link:?}{elevated:?}{:?}{:?}{:?}{}{}",
            (&self.migrations, self.is_away),
            self.source,
            self.own,
            engine.early.len(),
            self.given_up.is_empty(),
        )
    }
}

/// What a letter is compared with.
struct Before {
    generation: Option<u64>,
    kernel: BTreeSet<WantedRoute>,
    /// For letters that must not change anything.
    everything: Option<(Option<Machine>, Option<Wanted>)>,
}

impl Before {
    fn of(world: &World, letter: Letter) -> Self {
        let generation = world.host.watch().map(|watch| watch.generation);
        let everything = || (world.machine().cloned(), world.host.engine.wanted().cloned());
        let kernel = world.host.kernel.clone();
        Self { generation, kernel, everything: (letter == Letter::AnnouncedOnOldWatch).then(everything) }
    }
}

impl Host {
    fn machine_deadline(&self) -> Option<BootTime> {
        self.engine.locals.get(&self.key())?.machine.deadline(self.engine.policy.grace)
    }
}

/// Visits everything that `most` inputs can reach from the roots; returns the number of situations.
fn explore(roots: Vec<World>, most: u32) -> usize {
    let mut known: HashSet<_> = roots.iter().map(World::situation).collect();
    let mut queue: VecDeque<_> = roots.into_iter().map(|root| (root, 0)).collect();
    while let Some((world, length)) = queue.pop_front() {
        world.check_restart();
        world.check_end();
        if length == most {
            continue;
        }
        for letter in ALPHABET.into_iter().chain([Letter::RestartAway].into_iter().filter(|_| world.is_away))
        {
            let mut next = world.clone();
            if next.take(letter) && known.insert(next.situation()) {
                queue.push_back((next, length + 1));
            }
        }
    }
    known.len()
}

const UP_TO_SYNC: [Letter; 5] =
    [Letter::LinkAppears, Letter::SourceWritten, Letter::OwnWritten, Letter::InSync, Letter::Passed(30_000)];
const UP_TO_TARGET: [Letter; 7] = [
    Letter::LinkAppears,
    Letter::SourceWritten,
    Letter::InSync,
    Letter::Passed(30_000),
    Letter::Migration("u1"),
    Letter::OwnWritten,
    Letter::Armed,
];

/// The virtual machine is announced, the migration ends, and the endpoint is away for a moment.
const UP_TO_GAP: [Letter; 4] =
    [Letter::Announced, Letter::MigrationRemoved, Letter::SourceRemoved, Letter::OwnRemoved];

/// LIMIT: one more takes six times as long.
const MOST: u32 = 5;

fn after_target(letters: &[Letter]) -> World {
    World::after(&[&UP_TO_TARGET, letters].concat())
}

#[test]
fn from_a_cold_start_and_at_rest() {
    let situations = explore(vec![World::cold(), World::after(&UP_TO_SYNC)], MOST);
    assert!(situations > 1_000, "only {situations} situations: the letters do not apply");
}

#[test]
fn from_every_stage_of_a_migration() {
    let mut roots: Vec<_> = (0..=UP_TO_GAP.len()).map(|length| after_target(&UP_TO_GAP[..length])).collect();
    roots.push(after_target(&[Letter::MigrationRemoved]));
    roots.push(after_target(&[Letter::MigrationRemoved, Letter::SourceRemoved]));
    roots.push(after_target(&[Letter::MigrationRemoved, Letter::SourceWritten]));
    let situations = explore(roots, MOST);
    assert!(situations > 10_000, "only {situations} situations: the letters do not apply");
}

/// LIMIT: these roots are many, and every input leads to others.
const MOST_AWAY: u32 = 3;

#[test]
fn from_a_restart_without_a_datastore_in_every_stage() {
    let stages = [&UP_TO_GAP[..0], &UP_TO_GAP[..1], &UP_TO_GAP[..2], &UP_TO_GAP[..3], &UP_TO_GAP[..4]];
    let unresolved = [Letter::MigrationRemoved];
    let roots = stages.into_iter().chain([&unresolved[..]]).map(|letters| {
        let mut world = after_target(letters);
        assert!(world.take(Letter::RestartAway));
        assert!(world.host.engine.recall_view().is_some(), "after {:?}", world.history);
        world
    });
    let situations = explore(roots.collect(), MOST_AWAY);
    assert!(situations > 1_000, "only {situations} situations: the letters do not apply");
}
