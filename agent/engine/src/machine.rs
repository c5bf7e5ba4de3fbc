//! The migration machine: the only thing in Cutover that remembers.
//!
//! [`next`] is the transition table, nothing more. [`Machine`] adds what the table needs to know about one
//! endpoint: when states were entered, when they end, and the evidence that was gathered since the role went
//! away. The engine turns facts into calls and logs the transitions that come back.

mod outcome;

pub use outcome::{SOURCELESS_BOUND, UNRESOLVED_BOUND, Unresolved};

use crate::fact::AnnouncementSeen;
use crate::model::EndpointKey;
use crate::roles::{Assignment, Role};
use crate::time::BootTime;
use core::fmt;
use core::time::Duration;
use cutover_common::AnnouncementKind;
use serde::{Deserialize, Serialize};

mod repeats;

pub use repeats::Repeats;

/// State of the machine. The names are those of Felix and of its documentation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum State {
    /// Nobody migrates: normal priority.
    #[default]
    Base,
    /// A virtual machine is expected: no route, and a watch for its announcement.
    Target,
    /// The virtual machine runs here and the migration is not over: elevated priority.
    Live,
    /// The migration is over and the network may still be converging: elevated priority.
    TimeWait,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How a migration ended, as far as can be told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// The virtual machine runs here.
    Success,
    /// It stayed where it was.
    Failure,
    /// Nobody can tell yet.
    Unresolved,
}

/// What happens to a machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Input {
    /// The endpoint became the target of a migration, or of another one.
    Target {
        /// Its virtual machine is known to run here already.
        is_here: bool,
    },
    /// The virtual machine announced itself here.
    Announcement {
        /// The migration is over already.
        role_gone: bool,
    },
    /// The role went away, or it became known how the migration ended.
    RoleGone(Outcome),
    /// The convergence time is over.
    Timer,
    /// The endpoint became the source of a migration.
    Source {
        /// The host that the virtual machine came from may still have a route.
        is_contested: bool,
    },
    /// The endpoint is gone for good.
    Deleted,
    /// Its routes were found at elevated priority, and nobody remembers why.
    FoundElevated,
}

impl Input {
    /// The name under which the log shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Target { .. } => "Target",
            Self::Announcement { .. } => "GARPDetected",
            Self::RoleGone(_) => "NoRole",
            Self::Timer => "TimerPop",
            Self::Source { .. } => "Source",
            Self::Deleted => "Deleted",
            Self::FoundElevated => "FoundElevated",
        }
    }
}

/// The transition table.
#[must_use]
pub const fn next(state: State, input: Input) -> State {
    use Input::{Announcement, Deleted, FoundElevated, RoleGone, Source, Target, Timer};
    match (state, input) {
        (_, Target { is_here: false }) => State::Target,
        (State::Base | State::TimeWait, Target { is_here: true }) => State::Live,

        (State::Target, Announcement { role_gone: false }) => State::Live,
        (State::Target, Announcement { role_gone: true } | RoleGone(Outcome::Success)) => State::TimeWait,
        (State::Target, RoleGone(Outcome::Failure) | Source { .. } | Deleted) => State::Base,

        (State::Live, RoleGone(_) | Source { is_contested: true }) => State::TimeWait,
        (State::Live | State::TimeWait, Source { is_contested: false }) => State::Base,

        (State::Base, FoundElevated) => State::TimeWait,

        (State::TimeWait, Timer) | (State::Live | State::TimeWait, Deleted) => State::Base,

        (unchanged, _) => unchanged,
    }
}

/// A transition that took place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    /// State before.
    pub from: State,
    /// Why.
    pub input: Input,
    /// State after.
    pub to: State,
    /// The migration that it belongs to.
    pub uid: String,
}

/// How long a source that has just arrived itself keeps its elevated priority against the host before.
///
/// LIMIT: that host's route goes with its endpoint, which a driver removes within 0.07 s (recorded). Longer, and the
/// virtual machine may announce itself where it goes next while this host is still elevated.
pub const CONTESTED_BOUND: Duration = Duration::from_secs(1);

/// Where a virtual machine is known to run: an endpoint, as it was created, and its tap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Uid of the endpoint, empty if it has none.
    pub endpoint_uid: Box<str>,
    /// Number of its tap.
    pub ifindex: u32,
}

/// What is around a machine when something is said to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sight {
    /// The time.
    pub now: BootTime,
    /// How long routes stay elevated.
    pub convergence: Duration,
    /// Whether the endpoint that the migration to here comes from is in the datastore.
    pub source_present: bool,
    /// Whether a migration is heading there, so that there is no route.
    pub source_suppressed: bool,
    /// Uid of this endpoint, as it is now.
    pub endpoint_uid: Box<str>,
    /// Number of its tap, if it exists.
    pub ifindex: Option<u32>,
}

impl Sight {
    fn place(&self) -> Option<Place> {
        Some(Place { endpoint_uid: self.endpoint_uid.clone(), ifindex: self.ifindex? })
    }
}

/// The armed watch of an endpoint in [`State::Target`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Arming {
    /// Interface that it is meant for; another interface needs another generation.
    pub ifindex: u32,
    /// Its generation.
    pub generation: u64,
}

/// When each phase of the migration that is under way began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Phases {
    /// The endpoint became the target.
    pub targeted_at: Option<BootTime>,
    /// The watch was armed in the kernel.
    pub armed_at: Option<BootTime>,
    /// The orchestrator was told that everything is ready here.
    pub reported_at: Option<BootTime>,
    /// The tracked connections that the source knows were made here for the first time.
    #[serde(default)]
    pub handed_over_at: Option<BootTime>,
    /// How many of them there were when that was done last.
    #[serde(default)]
    pub connections: Option<u32>,
    /// The last frame of the virtual machine came from the tap that it has left: as that host's agent said, on the clock of this one.
    #[serde(default)]
    pub last_frame_at: Option<BootTime>,
    /// By how many nanoseconds that may be wrong.
    #[serde(default)]
    pub last_frame_error_ns: Option<u64>,
    /// This host heard that the virtual machine has stopped where it comes from.
    #[serde(default)]
    pub stopped_at: Option<BootTime>,
    /// The kernel program saw the announcement.
    pub announced_at: Option<BootTime>,
    /// The fast path took the record.
    pub taken_at: Option<BootTime>,
    /// The kernel had acknowledged the elevated routes of the fast path.
    pub routed_at: Option<BootTime>,
    /// This host heard that the source forwards what still comes there.
    #[serde(default)]
    pub forwarded_at: Option<BootTime>,
    /// The orchestrator ended the migration.
    pub role_gone_at: Option<BootTime>,
    /// Elevated priority ended.
    pub ended_at: Option<BootTime>,
    /// What kind of frame announced it, by its number in the map.
    pub kind: Option<u32>,
}

impl Phases {
    /// When the last one began that has.
    pub(crate) fn latest(&self) -> Option<BootTime> {
        let Self {
            targeted_at,
            armed_at,
            reported_at,
            handed_over_at,
            connections: _,
            last_frame_at,
            last_frame_error_ns: _,
            stopped_at,
            announced_at,
            taken_at,
            routed_at,
            forwarded_at,
            role_gone_at,
            ended_at,
            kind: _,
        } = *self;
        let before =
            [targeted_at, armed_at, reported_at, handed_over_at, last_frame_at, stopped_at, announced_at];
        let after = [taken_at, routed_at, forwarded_at, role_gone_at, ended_at];
        before.into_iter().chain(after).flatten().max()
    }
}

/// The memory about one endpoint of this host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Where it stands.
    pub state: State,
    /// Role that it was last told.
    pub role: Role,
    /// Migration that confers the role, empty without one.
    pub role_uid: String,
    /// Migration to here that the state is, or was last, about.
    pub uid: String,
    /// Where that migration came from.
    pub source: Option<EndpointKey>,
    /// In Target: the watch.
    pub arming: Option<Arming>,
    /// In TimeWait: when it ends.
    pub elevated_until: Option<BootTime>,
    /// In Target, with the role gone.
    pub unresolved: Option<Unresolved>,
    /// Where the virtual machine is known to run since its last migration to here.
    #[serde(default)]
    pub here: Option<Place>,
    /// In Live without an announcement in this migration: it was known to run here already.
    #[serde(default)]
    pub is_kept: bool,
    /// The endpoint is the source of a migration, whatever its role is: the virtual machine is about to leave.
    #[serde(default)]
    pub is_leaving: bool,
    /// The source's endpoint has not been in the datastore since this migration began.
    #[serde(default)]
    pub is_sourceless: bool,
    /// When the source's endpoint went away, if it did while the migration was under way.
    #[serde(default)]
    pub source_gone_at: Option<BootTime>,
    /// In Base, after a failed migration to here: the endpoint stays without a route until it is written again
    /// or deleted, because the virtual machine runs elsewhere.
    pub not_here: bool,
    /// Since when `up` has to be written even if that is what was reported last.
    #[serde(default)]
    pub report_due_since: Option<BootTime>,
    /// Another host's status of the port was removed, and it is not yet known whether the virtual machine stays or comes.
    #[serde(default)]
    pub disturbed: bool,
    /// When `up` is written once more because another host's status of the port was removed.
    #[serde(default)]
    pub repeats: Option<Repeats>,
    /// Since when a migration away from here is over without a word about whether the virtual machine stays.
    #[serde(default)]
    pub undecided_since: Option<BootTime>,
    /// Times of the phases.
    pub phases: Phases,
}

impl Machine {
    /// Whether nothing goes on, so that there is no time to wait for. A target in Base is one whose migration is known to be over.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let has_news =
            self.not_here || self.disturbed || self.undecided_since.is_some() || self.repeats.is_some();
        self.state == State::Base && self.role != Role::Target && !has_news
    }

    /// Whether the virtual machine may have left, or may be about to: then a tap that nothing holds open says nothing.
    #[must_use]
    pub fn may_have_left(&self) -> bool {
        self.role == Role::Source || self.undecided_since.is_some()
    }

    /// Whether routes have elevated priority; `None` if there are to be no routes.
    #[must_use]
    pub const fn elevated(&self) -> Option<bool> {
        match self.state {
            State::Base if self.not_here => None,
            State::Base => Some(false),
            State::Target => None,
            State::Live | State::TimeWait => Some(true),
        }
    }

    /// The earliest time at which something happens by itself.
    #[must_use]
    pub fn deadline(&self, grace: Duration) -> Option<BootTime> {
        let of_state = match self.state {
            State::TimeWait => self.elevation_ends(),
            State::Target => {
                self.unresolved.and_then(|unresolved| unresolved.success_at(self.is_sourceless, grace))
            }
            State::Base | State::Live => None,
        };
        let repeat = self.repeats.map(Repeats::next_at);
        of_state.into_iter().chain(self.decided_at(grace)).chain(repeat).min()
    }

    /// When the elevated priority ends, whatever becomes of the endpoint: another host may be waiting for that.
    #[must_use]
    pub fn elevation_ends(&self) -> Option<BootTime> {
        self.elevated_until.filter(|_| self.state == State::TimeWait)
    }

    /// The elevated priority ends if that is due, and nothing is said about how a migration has ended.
    pub fn end_elevation(&mut self, now: BootTime) -> Option<Transition> {
        self.elevation_ends().filter(|until| *until <= now)?;
        self.step(Input::Timer, now, Duration::ZERO)
    }

    /// When the end of a migration away from here counts as one after which the virtual machine has stayed.
    ///
    /// A driver removes or rewrites the endpoint within half a second (recorded).
    fn decided_at(&self, grace: Duration) -> Option<BootTime> {
        self.undecided_since.map(|since| since + grace)
    }

    /// The role is, from now on, this one.
    pub fn assign(&mut self, assignment: &Assignment, sight: &Sight) -> Option<Transition> {
        let role_before = core::mem::replace(&mut self.role, assignment.role);
        self.role_uid.clone_from(&assignment.uid);
        match assignment.role {
            Role::Target => self.assign_target(role_before, assignment, sight),
            Role::Source => {
                let transition = self.leave(false, sight);
                self.here = None;
                self.not_here = false;
                self.undecided_since = None;
                // Nova waits for the next target; a write from here would end its wait.
                self.report_due_since = None;
                self.repeats = None;
                transition
            }
            Role::None => self.role_gone(role_before, sight),
        }
    }

    fn assign_target(
        &mut self,
        role_before: Role,
        assignment: &Assignment,
        sight: &Sight,
    ) -> Option<Transition> {
        let is_here = self.is_known_to_run_here(assignment, sight);
        let is_arrived = is_here || matches!(self.state, State::Live | State::TimeWait);
        if assignment.leaves && is_arrived {
            self.follow(assignment, sight);
            return self.leave(true, sight);
        }
        self.is_leaving = false;
        let same_migration = assignment.uid == self.uid;
        let goes_on = role_before == Role::Target
            && (same_migration || matches!(self.state, State::Target | State::Live));
        if !goes_on && !is_here {
            self.begin(assignment.uid.clone(), assignment.source.as_ref(), sight);
            return self.step(Input::Target { is_here: false }, sight.now, sight.convergence);
        }
        if !same_migration {
            self.report_due_since = Some(sight.now);
        }
        self.follow(assignment, sight);
        if !is_here {
            return None;
        }
        (self.phases.role_gone_at, self.phases.ended_at) = (None, None);
        let transition = self.step(Input::Target { is_here }, sight.now, sight.convergence);
        self.is_kept = true;
        transition
    }

    /// What there is to know about the migration, which is the same attempt or one that goes on in its place.
    fn follow(&mut self, assignment: &Assignment, sight: &Sight) {
        self.uid.clone_from(&assignment.uid);
        if self.source != assignment.source {
            self.comes_from(assignment.source.as_ref());
        }
        self.look_for_source(sight.source_present);
    }

    /// Whether a virtual machine that is expected here is known to run here already: a driver that puts its datastore in
    /// order deletes a migration and creates it again, perhaps after the virtual machine has arrived. Taking the route away
    /// would be wrong.
    fn is_known_to_run_here(&self, assignment: &Assignment, sight: &Sight) -> bool {
        if self.not_here || !matches!(self.state, State::Base | State::TimeWait) {
            return false;
        }
        let is_the_same_place = self.here.is_some() && self.here == sight.place();
        // A datastore that was set back shows a migration again whose end we have seen.
        let has_arrived_in_it = assignment.uid == self.uid && self.phases.announced_at.is_some();
        is_the_same_place || (has_arrived_in_it && !self.uid.is_empty())
    }

    /// The virtual machine is about to leave: normal priority before it can announce itself where it goes, because that
    /// host's priority will be elevated.
    ///
    /// The host that it came from may still have a route of normal priority, which would then be as good as ours. So
    /// that one is waited for, but not for long.
    fn leave(&mut self, is_target_still: bool, sight: &Sight) -> Option<Transition> {
        let was_leaving = core::mem::replace(&mut self.is_leaving, true);
        let is_contested = is_target_still || (sight.source_present && !sight.source_suppressed);
        let latest = sight.now + CONTESTED_BOUND;
        if is_contested && !was_leaving {
            self.elevated_until = self.elevated_until.map(|until| until.min(latest));
        }
        self.step(Input::Source { is_contested }, sight.now, sight.convergence.min(CONTESTED_BOUND))
    }

    fn role_gone(&mut self, role_before: Role, sight: &Sight) -> Option<Transition> {
        self.is_leaving = false;
        let now = sight.now;
        match role_before {
            Role::None => None,
            Role::Source => {
                self.undecided_since = Some(now);
                // What a target that has failed did to the port while it was one.
                if core::mem::take(&mut self.disturbed) {
                    self.status_removed_elsewhere(now);
                }
                None
            }
            Role::Target => {
                self.phases.role_gone_at.get_or_insert(now);
                if self.state == State::Target {
                    let absent_since = self.source_gone_at.unwrap_or(now);
                    self.unresolved = Some(Unresolved {
                        since: now,
                        rewritten: false,
                        source_absent_since: (!sight.source_present).then_some(absent_since),
                    });
                }
                self.step(Input::RoleGone(Outcome::Unresolved), now, sight.convergence)
            }
        }
    }

    /// A new attempt starts: what was known of the one before is over.
    fn begin(&mut self, uid: String, source: Option<&EndpointKey>, sight: &Sight) {
        let now = sight.now;
        if self.state == State::Target && uid == self.uid {
            self.phases.role_gone_at = None;
        } else {
            // The watch of an attempt that was never resolved goes on for the next one.
            let armed_at = self.phases.armed_at.filter(|_| self.state == State::Target);
            self.phases = Phases { targeted_at: Some(now), armed_at, ..Phases::default() };
            self.report_due_since = Some(now);
        }
        self.uid = uid;
        self.comes_from(source);
        self.look_for_source(sight.source_present);
        self.here = None;
        self.unresolved = None;
        self.not_here = false;
        self.disturbed = false;
        self.repeats = None;
        self.undecided_since = None;
    }

    /// Nothing has been seen yet of where the migration comes from.
    fn comes_from(&mut self, source: Option<&EndpointKey>) {
        self.source = source.cloned();
        self.is_sourceless = true;
        self.source_gone_at = None;
    }

    fn look_for_source(&mut self, is_there: bool) {
        if is_there {
            self.is_sourceless = false;
            self.source_gone_at = None;
        }
    }

    /// An announcement was accepted on the tap.
    pub fn announced(&mut self, seen: &AnnouncementSeen, sight: &Sight) -> Option<Transition> {
        if self.state != State::Target {
            return None;
        }
        self.here = sight.place();
        self.phases.announced_at = Some(seen.seen_at);
        self.phases.taken_at = seen.taken_at;
        self.phases.routed_at = seen.routed_at;
        self.phases.kind = Some(seen.kind as u32);
        let role_gone = self.role != Role::Target;
        self.step(Input::Announcement { role_gone }, sight.now, sight.convergence)
    }

    /// Whether only the latched evidence has told of an announcement at this moment.
    pub(crate) fn is_known_by_evidence(&self, announced_at: BootTime) -> bool {
        self.phases.announced_at == Some(announced_at) && self.phases.taken_at.is_none()
    }

    /// What was done about the announcement, told after the announcement itself.
    pub fn acted_on(&mut self, seen: &AnnouncementSeen) {
        self.phases.taken_at = seen.taken_at;
        self.phases.routed_at = seen.routed_at;
    }

    /// Our own endpoint was written again; it may have been away for a moment.
    pub fn endpoint_written(&mut self, was_away: bool, sight: &Sight) -> Option<Transition> {
        self.not_here = false;
        self.undecided_since = None;
        self.look_at_place(was_away, sight);
        if self.is_kept && self.here.is_none() {
            // The migration was told before its endpoint, and what was known is about the one before.
            let (uid, source) = (self.uid.clone(), self.source.take());
            self.begin(uid, source.as_ref(), sight);
            return self.step(Input::Target { is_here: false }, sight.now, sight.convergence);
        }
        if !self.unresolved.as_mut()?.written_again() {
            return None;
        }
        self.step(Input::RoleGone(Outcome::Success), sight.now, sight.convergence)
    }

    /// An endpoint that was created anew is another place, of which nothing is known, unless that is how a driver ends a
    /// migration that succeeded (W33).
    fn look_at_place(&mut self, was_away: bool, sight: &Sight) {
        let Some(here) = &mut self.here else { return };
        let has_uid = !sight.endpoint_uid.is_empty();
        if here.endpoint_uid == sight.endpoint_uid && (has_uid || !was_away) {
            return;
        }
        if self.role == Role::None && !sight.source_present {
            here.endpoint_uid.clone_from(&sight.endpoint_uid);
        } else {
            self.here = None;
        }
    }

    /// The endpoint that the migration came from was written: after the end of the migration this means that
    /// the virtual machine stayed there.
    pub fn source_written(&mut self, now: BootTime, convergence: Duration) -> Option<Transition> {
        self.look_for_source(true);
        if self.role != Role::Target {
            self.here = None;
        }
        self.unresolved?;
        self.step(Input::RoleGone(Outcome::Failure), now, convergence)
    }

    /// The endpoint that the migration came from is gone.
    pub fn source_removed(&mut self, now: BootTime) -> Option<Transition> {
        if let Some(unresolved) = &mut self.unresolved {
            unresolved.source_absent_since.get_or_insert(now);
        } else if self.state == State::Target {
            self.source_gone_at.get_or_insert(now);
        }
        if !self.is_leaving || self.role != Role::Source {
            return None;
        }
        self.step(Input::Source { is_contested: false }, now, Duration::ZERO)
    }

    /// The datastore has an endpoint where the migration came from, although nobody could read it.
    pub fn source_found(&mut self, now: BootTime) {
        self.is_sourceless = false;
        self.source_looked_for_anew(now);
    }

    /// Nobody could look for the endpoint that the migration came from until now.
    pub fn source_looked_for_anew(&mut self, now: BootTime) {
        self.source_gone_at = self.source_gone_at.map(|_| now);
        if let Some(unresolved) = &mut self.unresolved {
            unresolved.source_absent_since = unresolved.source_absent_since.map(|_| now);
        }
    }

    /// Something took the port out of service that this endpoint serves, unless it is one that waits for its virtual
    /// machine. Where one may be leaving, it counts from when the migration is over.
    pub fn port_disturbed(&mut self, now: BootTime) {
        if self.is_here() {
            self.report_due_since = Some(now);
        }
        self.disturbed |= self.role == Role::Source;
    }

    /// The status that another host had reported of the port was removed, which takes the port out of service, sooner or
    /// later. Where a virtual machine is expected, it counts from when that has come.
    pub fn status_removed_elsewhere(&mut self, now: BootTime) {
        self.port_disturbed(now);
        if self.is_here() {
            self.repeats = Some(Repeats::after(now));
        }
        self.disturbed |= self.state == State::Target;
    }

    /// Whether the virtual machine runs here as far as anybody knows, and nobody waits for it elsewhere.
    fn is_here(&self) -> bool {
        match self.state {
            State::Base => self.role == Role::None && !self.not_here,
            State::Target => false,
            State::Live | State::TimeWait => self.role != Role::Source,
        }
    }

    /// What was due since `due_since` has been written.
    pub fn reported(&mut self, due_since: BootTime, at: BootTime) {
        if self.report_due_since != Some(due_since) {
            return;
        }
        self.report_due_since = None;
        if matches!(self.state, State::Target | State::Live) {
            self.phases.reported_at.get_or_insert(at);
        }
    }

    /// Its routes have elevated priority, and nothing is remembered: somebody else was in charge when it arrived, or the memory is
    /// lost. The network may still be converging.
    pub fn found_elevated(&mut self, now: BootTime, convergence: Duration) -> Option<Transition> {
        let is_remembered = !self.uid.is_empty() || self.here.is_some() || self.not_here;
        if self.role != Role::None || is_remembered || self.may_have_left() {
            return None;
        }
        self.step(Input::FoundElevated, now, convergence)
    }

    /// The endpoint is gone for good.
    pub fn deleted(&mut self, now: BootTime) -> Option<Transition> {
        self.step(Input::Deleted, now, Duration::ZERO)
    }

    /// Whether something happens by itself now.
    #[must_use]
    pub fn is_due(&self, now: BootTime, grace: Duration) -> bool {
        self.deadline(grace).is_some_and(|deadline| deadline <= now)
    }

    /// Does what is due.
    pub fn time_passed(
        &mut self,
        now: BootTime,
        grace: Duration,
        convergence: Duration,
    ) -> Option<Transition> {
        if !self.is_due(now, grace) {
            return None;
        }
        if let Some(repeats) = self.repeats.filter(|repeats| repeats.next_at() <= now) {
            self.port_disturbed(now);
            self.repeats = repeats.later_than(now);
            return None;
        }
        if self.decided_at(grace).is_some_and(|at| at <= now) {
            self.undecided_since = None;
            // The end of the migration has taken the port down, and nobody else puts it back.
            self.port_disturbed(now);
            return None;
        }
        let input = match self.unresolved {
            Some(_) => Input::RoleGone(Outcome::Success),
            None => Input::Timer,
        };
        self.step(input, now, convergence)
    }

    fn step(&mut self, input: Input, now: BootTime, convergence: Duration) -> Option<Transition> {
        let from = self.state;
        let to = next(from, input);
        if to == from {
            return None;
        }
        self.state = to;
        self.is_kept = false;
        if to != State::Target {
            self.arming = None;
            self.unresolved = None;
        }
        self.elevated_until = (to == State::TimeWait).then(|| now + convergence);
        self.not_here = to == State::Base && input == Input::RoleGone(Outcome::Failure);
        if to == State::TimeWait && !matches!(input, Input::Source { .. } | Input::FoundElevated) {
            self.report_due_since = Some(now);
        }
        if from == State::Target && core::mem::take(&mut self.disturbed) {
            self.status_removed_elsewhere(now);
        }
        if to == State::Base {
            self.phases.ended_at = Some(now);
        }
        Some(Transition { from, input, to, uid: self.uid.clone() })
    }
}

/// Words for a kind of announcement by its number. A file of another version may have a number that nobody here knows.
#[must_use]
pub const fn kind_name(kind: u32) -> &'static str {
    match AnnouncementKind::from_number(kind) {
        Some(kind) => kind.words(),
        None => "unknown",
    }
}

#[cfg(test)]
mod tests;
