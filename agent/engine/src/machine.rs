//! The migration machine: the only thing in Cutover that remembers.
//!
//! [`next`] is the transition table, nothing more. [`Machine`] adds what the table needs to know about one
//! endpoint: when states were entered, when they end, and the evidence that was gathered since the role went
//! away. The engine turns facts into calls and logs the transitions that come back.

use crate::fact::AnnouncementSeen;
use crate::model::EndpointKey;
use crate::roles::{Assignment, Role};
use crate::time::BootTime;
use core::fmt;
use core::time::Duration;
use cutover_common::AnnouncementKind;
use serde::{Deserialize, Serialize};

/// How long an endpoint stays suppressed after its migration is gone without a trace and its source's endpoint is
/// gone as well.
///
/// LIMIT: a driver that rolls back re-creates the source's endpoint within 0.45 s (recorded); ten times that,
/// counted from when it went away. After it the machine does what the existing agent does at once: it takes the
/// migration for a success. While the source's endpoint is *there* nothing is taken for a success: the virtual
/// machine most probably runs at the source, and advertising it from here would cut it off.
pub const UNRESOLVED_BOUND: Duration = Duration::from_secs(5);

mod repeats;

pub use repeats::Repeats;

/// State of the machine. The names are those of the existing agent and of its documentation.
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
    Target,
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
    Source,
    /// The endpoint is gone for good.
    Deleted,
}

impl Input {
    /// The name under which the log shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Target => "Target",
            Self::Announcement { .. } => "GARPDetected",
            Self::RoleGone(_) => "NoRole",
            Self::Timer => "TimerPop",
            Self::Source => "Source",
            Self::Deleted => "Deleted",
        }
    }
}

/// The transition table.
#[must_use]
pub const fn next(state: State, input: Input) -> State {
    use Input::{Announcement, Deleted, RoleGone, Source, Target, Timer};
    match (state, input) {
        (State::Base | State::Target | State::TimeWait, Target) => State::Target,

        (State::Target, Announcement { role_gone: false }) => State::Live,
        (State::Target, Announcement { role_gone: true } | RoleGone(Outcome::Success)) => State::TimeWait,
        (State::Target, RoleGone(Outcome::Failure) | Source | Deleted) => State::Base,

        (State::Live, RoleGone(_) | Source) => State::TimeWait,

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

/// What is known since the role went away while no announcement had been seen (W34).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unresolved {
    /// When the role went away.
    pub since: BootTime,
    /// Our endpoint was written again since.
    pub rewritten: bool,
    /// Since when the source's endpoint is absent, if it is.
    pub source_absent_since: Option<BootTime>,
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
    /// The kernel program saw the announcement.
    pub announced_at: Option<BootTime>,
    /// The fast path took the record.
    pub taken_at: Option<BootTime>,
    /// The kernel had acknowledged the elevated routes of the fast path.
    pub routed_at: Option<BootTime>,
    /// The orchestrator ended the migration.
    pub role_gone_at: Option<BootTime>,
    /// Elevated priority ended.
    pub ended_at: Option<BootTime>,
    /// What kind of frame announced it, by its number in the map.
    pub kind: Option<u32>,
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
    /// Whether there is nothing to remember. A target in Base is one whose migration is known to be over.
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
            State::TimeWait => self.elevated_until,
            State::Target => self.unresolved.and_then(|unresolved| unresolved.success_at(grace)),
            State::Base | State::Live => None,
        };
        let repeat = self.repeats.map(Repeats::next_at);
        of_state.into_iter().chain(self.decided_at(grace)).chain(repeat).min()
    }

    /// When the end of a migration away from here counts as one after which the virtual machine has stayed.
    ///
    /// A driver removes or rewrites the endpoint within half a second (recorded).
    fn decided_at(&self, grace: Duration) -> Option<BootTime> {
        self.undecided_since.map(|since| since + grace)
    }

    /// The role is, from now on, this one. `source_present` says whether the source's endpoint exists.
    pub fn assign(
        &mut self,
        assignment: &Assignment,
        source_present: bool,
        now: BootTime,
        convergence: Duration,
    ) -> Option<Transition> {
        let same_migration = assignment.uid == self.uid;
        let role_before = core::mem::replace(&mut self.role, assignment.role);
        self.role_uid.clone_from(&assignment.uid);
        match assignment.role {
            Role::Target
                if role_before == Role::Target
                    && (same_migration || matches!(self.state, State::Target | State::Live)) =>
            {
                if !same_migration {
                    self.report_due_since = Some(now);
                }
                self.uid.clone_from(&assignment.uid);
                self.source.clone_from(&assignment.source);
                None
            }
            Role::Target => {
                let known_to_run_here = matches!(self.state, State::Base | State::TimeWait)
                    && same_migration
                    && self.phases.announced_at.is_some();
                if known_to_run_here && !self.uid.is_empty() {
                    // A datastore that was set back shows a migration again whose end we have seen. Its virtual
                    // machine announced itself here: taking its route away would be wrong.
                    return None;
                }
                self.begin(assignment, now);
                self.step(Input::Target, now, convergence)
            }
            Role::Source => {
                let transition = if role_before == Role::Source {
                    None
                } else {
                    self.step(Input::Source, now, convergence)
                };
                self.not_here = false;
                self.undecided_since = None;
                // Nova waits for the next target; a write from here would end its wait.
                self.report_due_since = None;
                self.repeats = None;
                transition
            }
            Role::None if role_before == Role::Source => {
                self.undecided_since = Some(now);
                // What a target that has failed did to the port while it was one.
                if core::mem::take(&mut self.disturbed) {
                    self.status_removed_elsewhere(now);
                }
                None
            }
            Role::None if role_before == Role::Target => {
                self.phases.role_gone_at.get_or_insert(now);
                if self.state == State::Target {
                    self.unresolved = Some(Unresolved {
                        since: now,
                        rewritten: false,
                        source_absent_since: (!source_present).then_some(now),
                    });
                }
                self.step(Input::RoleGone(Outcome::Unresolved), now, convergence)
            }
            Role::None => None,
        }
    }

    /// A new attempt starts: what was known of the one before is over.
    fn begin(&mut self, assignment: &Assignment, now: BootTime) {
        if self.state == State::Target && assignment.uid == self.uid {
            self.phases.role_gone_at = None;
        } else {
            // The watch of an attempt that was never resolved goes on for the next one.
            let armed_at = self.phases.armed_at.filter(|_| self.state == State::Target);
            self.phases = Phases { targeted_at: Some(now), armed_at, ..Phases::default() };
            self.report_due_since = Some(now);
        }
        self.uid.clone_from(&assignment.uid);
        self.source.clone_from(&assignment.source);
        self.unresolved = None;
        self.not_here = false;
        self.disturbed = false;
        self.repeats = None;
        self.undecided_since = None;
    }

    /// An announcement was accepted on the tap.
    pub fn announced(
        &mut self,
        seen: &AnnouncementSeen,
        now: BootTime,
        convergence: Duration,
    ) -> Option<Transition> {
        if self.state != State::Target {
            return None;
        }
        self.phases.announced_at = Some(seen.seen_at);
        self.phases.taken_at = seen.taken_at;
        self.phases.routed_at = seen.routed_at;
        self.phases.kind = Some(seen.kind as u32);
        let role_gone = self.role != Role::Target;
        self.step(Input::Announcement { role_gone }, now, convergence)
    }

    /// What was done about the announcement, told after the announcement itself.
    pub fn acted_on(&mut self, seen: &AnnouncementSeen) {
        self.phases.taken_at = seen.taken_at;
        self.phases.routed_at = seen.routed_at;
    }

    /// Our own endpoint was written again.
    pub fn endpoint_written(&mut self) {
        self.not_here = false;
        self.undecided_since = None;
        if let Some(unresolved) = &mut self.unresolved {
            unresolved.rewritten = true;
        }
    }

    /// The endpoint that the migration came from was written: after the end of the migration this means that
    /// the virtual machine stayed there.
    pub fn source_written(&mut self, now: BootTime, convergence: Duration) -> Option<Transition> {
        self.unresolved?;
        self.step(Input::RoleGone(Outcome::Failure), now, convergence)
    }

    /// The endpoint that the migration came from is gone.
    pub fn source_removed(&mut self, now: BootTime) {
        if let Some(unresolved) = &mut self.unresolved {
            unresolved.source_absent_since.get_or_insert(now);
        }
    }

    /// Nobody could look for the endpoint that the migration came from until now.
    pub fn source_looked_for_anew(&mut self, now: BootTime) {
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
        if to != State::Target {
            self.arming = None;
            self.unresolved = None;
        }
        self.elevated_until = (to == State::TimeWait).then(|| now + convergence);
        self.not_here = to == State::Base && input == Input::RoleGone(Outcome::Failure);
        if to == State::TimeWait && input != Input::Source {
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

impl Unresolved {
    /// When the migration will count as a success if nothing else happens.
    ///
    /// An endpoint written again while its source's stays away beyond the grace time is one. Without that, the end
    /// of the bound is taken for one, as the existing agent takes the end of the migration.
    fn success_at(&self, grace: Duration) -> Option<BootTime> {
        let absent_since = self.source_absent_since?;
        let bound = absent_since + UNRESOLVED_BOUND;
        Some(if self.rewritten { bound.min(absent_since + grace) } else { bound })
    }
}

/// Name of a kind of announcement by its number, for people.
#[must_use]
pub fn kind_name(kind: u32) -> &'static str {
    [
        (AnnouncementKind::Rarp, "RARP"),
        (AnnouncementKind::GarpRequest, "gratuitous ARP request"),
        (AnnouncementKind::GarpReply, "gratuitous ARP reply"),
        (AnnouncementKind::NeighbourAdvertisement, "neighbour advertisement"),
        (AnnouncementKind::FirstFrame, "first frame"),
    ]
    .into_iter()
    .find_map(|(known, name)| (known as u32 == kind).then_some(name))
    .unwrap_or("unknown")
}

#[cfg(test)]
mod tests;
