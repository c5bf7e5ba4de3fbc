//! A second, naive statement of the rules, made from their description and not from the code, and random walks on
//! which the engine has to agree with it.
//!
//! It knows one endpoint (on host b), keeps everything in plain fields, decides by asking the same questions all
//! over again, and has no appliers, watches, restarts or conflicts.

use super::host::*;
use crate::fact::{Fact, Link};
use crate::machine::State;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const GRACE_MS: u64 = 2_000;
const CONVERGENCE_MS: u64 = 30_000;
const BOUND_MS: u64 = 5_000;
const SOURCELESS_MS: u64 = 250;
const CONTESTED_MS: u64 = 1_000;

#[derive(Clone, Debug)]
enum Event {
    /// Uid, source host, target host; named after the target.
    Begins(&'static str, &'static str, &'static str),
    Ends(&'static str),
    Written(&'static str),
    /// The one on host b is another one from now on.
    CreatedAnew,
    Removed(&'static str),
    TapUp(bool),
    TapRecreated,
    TapGone,
    Announced,
    Passes(u64),
}

#[derive(Default)]
struct Reference {
    now: u64,
    migrations: BTreeMap<&'static str, (&'static str, &'static str)>,
    present: BTreeSet<&'static str>,
    tap: bool,
    tap_up: bool,
    /// How many taps and endpoints there were on host b.
    taps: u32,
    endpoints: u32,

    /// Nothing else is remembered unless the endpoint exists or is held.
    exists: bool,
    held_since: Option<u64>,
    state: Option<State>,
    was_target: bool,
    was_source: bool,
    uid: &'static str,
    source: Option<&'static str>,
    announced: bool,
    not_here: bool,
    /// Endpoint and tap on which the machine is known to run.
    here: Option<(u32, u32)>,
    /// In Live without an announcement in this migration.
    kept: bool,
    leaving: bool,
    elevated_until: u64,
    source_never_seen: bool,
    source_gone_at: Option<u64>,
    gone_since: Option<u64>,
    written_since_gone: bool,
    source_absent_since: Option<u64>,
}

impl Reference {
    fn state(&self) -> State {
        self.state.unwrap_or(State::Base)
    }

    fn forget(&mut self) {
        *self = Self {
            now: self.now,
            migrations: core::mem::take(&mut self.migrations),
            present: core::mem::take(&mut self.present),
            tap: self.tap,
            tap_up: self.tap_up,
            taps: self.taps,
            endpoints: self.endpoints,
            ..Self::default()
        };
    }

    fn time_wait(&mut self) {
        self.state = Some(State::TimeWait);
        self.elevated_until = self.now + CONVERGENCE_MS;
        self.gone_since = None;
    }

    fn base(&mut self) {
        self.state = Some(State::Base);
        self.gone_since = None;
    }

    /// The part of the endpoint: target wins over source, the greatest uid over others, and a migration to where
    /// it comes from makes nobody a target.
    fn migration_to_here(&self) -> Option<(&'static str, &'static str)> {
        let to_here = self.migrations.get("b").filter(|(_, from)| *from != "b");
        to_here.copied()
    }

    fn is_source(&self) -> bool {
        self.migrations.values().any(|(_, from)| *from == "b")
    }

    fn source_is_there(&self) -> bool {
        self.source.is_some_and(|host| self.present.contains(host))
    }

    /// A machine that announced itself on this endpoint and this tap, or that the driver said to have arrived, has not gone
    /// anywhere else as far as anybody knows.
    fn knows_it_here(&self, uid: &str) -> bool {
        let by_place =
            self.here == Some((self.endpoints, self.taps)) && self.tap && self.held_since.is_none();
        let by_uid = self.announced && uid == self.uid;
        !self.not_here && matches!(self.state(), State::Base | State::TimeWait) && (by_place || by_uid)
    }

    fn is_about(&mut self, uid: &'static str, from: &'static str) {
        if self.source != Some(from) {
            (self.source_never_seen, self.source_gone_at) = (true, None);
        }
        (self.uid, self.source) = (uid, Some(from));
        self.look_for_source();
    }

    fn look_for_source(&mut self) {
        if self.source_is_there() {
            (self.source_never_seen, self.source_gone_at) = (false, None);
        }
    }

    /// No second host may be elevated when the machine announces itself there. Ours may be so for a second more if another
    /// host's route is as good as our normal one.
    fn leave(&mut self, contested: bool) {
        let first = !core::mem::replace(&mut self.leaving, true);
        match self.state() {
            State::Base => {}
            State::Target => self.base(),
            State::Live if contested => {
                self.time_wait();
                self.elevated_until = self.now + CONTESTED_MS;
            }
            State::TimeWait if contested => {
                if first {
                    self.elevated_until = self.elevated_until.min(self.now + CONTESTED_MS);
                }
            }
            State::Live | State::TimeWait => self.base(),
        }
    }

    fn look_at_roles(&mut self) {
        if !self.exists {
            return;
        }
        let target = self.migration_to_here();
        let source = target.is_none() && self.is_source();
        if let Some((uid, from)) = target {
            let knows = self.knows_it_here(uid);
            let goes_elsewhere = self.migrations.iter().any(|(to, (_, from))| *to != "b" && *from == "b");
            if goes_elsewhere && (knows || matches!(self.state(), State::Live | State::TimeWait)) {
                self.is_about(uid, from);
                self.leave(true);
            } else {
                self.leaving = false;
                let continues = self.was_target && matches!(self.state(), State::Target | State::Live);
                if knows {
                    self.is_about(uid, from);
                    (self.state, self.kept) = (Some(State::Live), true);
                } else if continues || (self.was_target && uid == self.uid) {
                    self.is_about(uid, from);
                } else {
                    self.source = None;
                    self.is_about(uid, from);
                    (self.announced, self.not_here, self.gone_since, self.here) = (false, false, None, None);
                    self.state = Some(State::Target);
                }
            }
        } else if source {
            let suppressed = self.source.is_some_and(|host| self.migrations.contains_key(host));
            self.leave(self.source_is_there() && !suppressed);
            (self.not_here, self.here) = (false, None);
        } else {
            self.leaving = false;
            if self.was_target && self.state() == State::Target {
                self.gone_since = Some(self.now);
                self.written_since_gone = false;
                let gone_at = self.source_gone_at.unwrap_or(self.now);
                self.source_absent_since = (!self.source_is_there()).then_some(gone_at);
            } else if self.was_target && self.state() == State::Live {
                self.time_wait();
            }
        }
        // The same migration in its old place goes on when it is told again.
        if self.gone_since.is_some() && target.is_some() {
            self.gone_since = None;
        }
        self.kept &= self.state() == State::Live;
        (self.was_target, self.was_source) = (target.is_some(), source);
    }

    fn written(&mut self, host: &'static str, anew: bool) {
        self.present.insert(host);
        if host == "b" {
            self.endpoints += u32::from(anew);
            if anew && let Some((endpoint, _)) = &mut self.here {
                if !self.was_target
                    && !self.was_source
                    && !self.source.is_some_and(|it| self.present.contains(it))
                {
                    *endpoint = self.endpoints;
                } else {
                    self.here = None;
                }
            }
            (self.exists, self.held_since, self.not_here) = (true, None, false);
            self.written_since_gone = true;
            if self.gone_since.is_some() && self.source_absent_since.is_some() {
                self.time_wait();
            }
            if self.kept && self.state() == State::Live && self.here.is_none() {
                // It was about another endpoint. The same migration starts over.
                let from = self.source.take();
                self.is_about(self.uid, from.unwrap_or_default());
                (self.announced, self.kept) = (false, false);
                self.state = Some(State::Target);
            }
            self.look_at_roles();
        } else if self.exists && self.source == Some(host) {
            self.look_for_source();
            if !self.was_target {
                self.here = None;
            }
            if self.gone_since.is_some() {
                self.base();
                self.not_here = true;
                if self.held_since.is_some() {
                    self.forget();
                }
            }
        }
    }

    fn removed(&mut self, host: &'static str) {
        if !self.present.remove(host) {
            return;
        }
        if host == "b" {
            if self.tap && !self.not_here { self.held_since = Some(self.now) } else { self.forget() }
        } else if self.source == Some(host) {
            if self.gone_since.is_some() {
                self.source_absent_since.get_or_insert(self.now);
            } else if self.state() == State::Target {
                self.source_gone_at.get_or_insert(self.now);
            } else if self.leaving && self.was_source {
                self.base();
            }
        }
    }

    /// When the next thing happens by itself.
    fn due(&self) -> Option<u64> {
        let away = self.held_since.map(|since| since + GRACE_MS);
        let over = (self.state() == State::TimeWait).then_some(self.elevated_until);
        // Without the source's endpoint being away, only evidence decides, and nothing while ours may be gone for good.
        let absent_since =
            self.gone_since.and(self.source_absent_since).filter(|_| self.held_since.is_none());
        let verdict = absent_since.map(|absent| {
            let bound = if self.source_never_seen { SOURCELESS_MS } else { BOUND_MS };
            let evidence = if self.written_since_gone { GRACE_MS } else { bound };
            (absent + evidence.min(bound)).max(self.gone_since.unwrap_or(0) + SOURCELESS_MS)
        });
        [away, over, verdict].into_iter().flatten().min()
    }

    fn pass(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while let Some(due) = self.due().filter(|due| *due <= end) {
            // What was decided by something older is decided as soon as anybody looks.
            self.now = self.now.max(due);
            if self.held_since.is_some_and(|since| since + GRACE_MS <= self.now) {
                self.forget();
            } else if self.gone_since.is_some() {
                self.time_wait();
            } else {
                self.base();
            }
        }
        self.now = end;
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Begins(uid, from, to) => {
                self.migrations.insert(to, (uid, from));
                self.look_at_roles();
            }
            Event::Ends(to) => {
                self.migrations.remove(to);
                self.look_at_roles();
            }
            Event::Written(host) => self.written(host, false),
            Event::CreatedAnew => self.written("b", true),
            Event::Removed(host) => self.removed(host),
            Event::TapUp(up) => (self.tap, self.tap_up) = (true, up),
            Event::TapGone | Event::TapRecreated => {
                if self.tap && self.held_since.is_some() {
                    self.forget();
                }
                self.taps += 1;
                (self.tap, self.tap_up) = (matches!(event, Event::TapRecreated), true);
            }
            Event::Announced => {
                if self.tap && self.state() == State::Target {
                    self.announced = true;
                    self.here = Some((self.endpoints, self.taps));
                    if self.was_target {
                        self.state = Some(State::Live)
                    } else {
                        self.time_wait()
                    }
                    self.look_at_roles();
                }
            }
            Event::Passes(milliseconds) => self.pass(milliseconds),
        }
        self.pass(0);
    }

    fn metric(&self) -> Option<u32> {
        if !self.exists || !self.tap || !self.tap_up || self.not_here {
            return None;
        }
        match self.state() {
            State::Base => Some(NORMAL),
            State::Target => None,
            State::Live | State::TimeWait => Some(ELEVATED),
        }
    }
}

/// The engine under the same events.
struct Real {
    host: Host,
    ifindex: u32,
    tap: bool,
    endpoints: u32,
}

impl Real {
    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Begins(uid, from, to) => _ = self.host.tell(migration_written(uid, from, to)),
            Event::Ends(to) => _ = self.host.tell(migration_removed(to)),
            Event::Written("b") => self.write_own(),
            Event::Written(host) => _ = self.host.tell(written(host)),
            Event::CreatedAnew => {
                self.endpoints += 1;
                self.write_own();
            }
            Event::Removed(host) => _ = self.host.tell(removed(host)),
            Event::TapUp(up) => self.see_tap(up),
            Event::TapGone => self.lose_tap(),
            Event::TapRecreated => {
                self.lose_tap();
                self.see_tap(true);
            }
            Event::Announced => _ = self.host.announce(),
            Event::Passes(milliseconds) => _ = self.host.pass(ms(milliseconds)),
        }
    }

    fn write_own(&mut self) {
        self.host.tell(recreated("b", &format!("e{}", self.endpoints)));
    }

    fn see_tap(&mut self, up: bool) {
        self.tap = true;
        self.host.tell(Fact::LinkSeen(Link { admin_up: up, ..link(self.ifindex, true) }));
    }

    fn lose_tap(&mut self) {
        if core::mem::take(&mut self.tap) {
            self.host.tell(Fact::LinkRemoved { ifindex: self.ifindex });
            self.ifindex += 1;
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let uid = prop::sample::select(vec!["u1", "u2", "u3"]);
    let other = prop::sample::select(vec!["a", "c"]);
    let any_host = prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        4 => (uid.clone(), any_host.clone()).prop_map(|(uid, from)| Event::Begins(uid, from, "b")),
        2 => (uid, other).prop_map(|(uid, to)| Event::Begins(uid, "b", to)),
        5 => any_host.clone().prop_map(Event::Ends),
        5 => any_host.clone().prop_map(Event::Written),
        2 => Just(Event::CreatedAnew),
        4 => any_host.prop_map(Event::Removed),
        1 => any::<bool>().prop_map(Event::TapUp),
        1 => Just(Event::TapUp(true)),
        1 => Just(Event::TapRecreated),
        1 => Just(Event::TapGone),
        3 => Just(Event::Announced),
        4 => (1..1_000u64).prop_map(Event::Passes),
        1 => prop::sample::select(vec![GRACE_MS, BOUND_MS, CONVERGENCE_MS, 60_000]).prop_map(Event::Passes),
    ]
}

proptest! {
    #[test]
    fn engine_and_reference_agree(events in prop::collection::vec(event(), 1..60)) {
        let mut reference = Reference { tap: true, tap_up: true, ..Reference::default() };
        let mut real = Real { host: Host::quiet("b"), ifindex: 5, tap: true, endpoints: 0 };
        for event in &events {
            reference.happens(event);
            real.happens(event);
            prop_assert_eq!(real.host.state(), reference.state(), "state after {:?}", event);
            prop_assert_eq!(real.host.metric(), reference.metric(), "metric after {:?}", event);
            let watched = reference.tap && reference.state() == State::Target;
            prop_assert_eq!(real.host.watch().is_some(), watched, "watch after {:?}", event);
            prop_assert_eq!(real.host.held(), reference.held_since.is_some(), "held after {:?}", event);
        }
    }
}
