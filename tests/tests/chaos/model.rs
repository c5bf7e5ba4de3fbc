//! What a virtual machine's journey comes to, and what the kernel of each host must hold for it once everything that was broken is
//! mended and everybody has been heard. Pure: knows the plan's steps, and of what happened only whether an announcement could be heard.

use crate::plan::{GuestNumber, HostNumber, Step};

pub(crate) const NORMAL: u32 = 1024;
pub(crate) const ELEVATED: u32 = 512;

const NONE: Metrics = &[&[]];
const HERE: Metrics = &[&[NORMAL]];
const ARRIVED: Metrics = &[&[ELEVATED]];
const PERHAPS: Metrics = &[&[], &[ELEVATED]];

/// Lists of metrics, of which any one is right.
type Metrics = &'static [&'static [u32]];

/// Whether the target's agent has to know that a virtual machine has announced itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// Its watch was armed.
    Yes,
    /// Nobody announced anything.
    No,
    /// It was announced, and nobody could say whether its watch was armed.
    Maybe,
}

/// How far a virtual machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Journey {
    AtHome(HostNumber),
    Begun { from: HostNumber, to: HostNumber },
    Arrived { from: HostNumber, to: HostNumber, heard: Heard },
}

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Model(Vec<Journey>);

/// What a host must hold for a virtual machine: one of these lists of metrics, and whether it forwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Expected {
    pub(crate) metrics: Metrics,
    /// Nothing if both are right.
    pub(crate) forwards: Option<bool>,
}

impl Model {
    pub(crate) fn new(homes: &[HostNumber]) -> Self {
        Self(homes.iter().copied().map(Journey::AtHome).collect())
    }

    /// Whether a step of a journey makes sense now.
    pub(crate) fn allows(&self, step: Step) -> bool {
        let Some(guest) = step.guest() else { return true };
        match (step, self.0[guest]) {
            (Step::Begin { to, .. }, Journey::AtHome(home)) => home != to,
            (Step::Move { .. } | Step::Cancel { .. }, Journey::Begun { .. }) => true,
            (Step::Succeed { .. } | Step::Fail { .. }, Journey::Arrived { .. }) => true,
            (Step::Hit(_), _) => true,
            _ => false,
        }
    }

    /// A step of a journey that makes sense has been made; `heard` counts for a move.
    pub(crate) fn advance(&mut self, step: Step, heard: Heard) {
        let Some(guest) = step.guest() else { return };
        let journey = &mut self.0[guest];
        *journey = match (step, *journey) {
            (Step::Begin { to, .. }, Journey::AtHome(from)) => Journey::Begun { from, to },
            (Step::Move { .. }, Journey::Begun { from, to }) => Journey::Arrived { from, to, heard },
            (Step::Succeed { .. }, Journey::Arrived { to, .. }) => Journey::AtHome(to),
            (Step::Cancel { .. }, Journey::Begun { from, .. })
            | (Step::Fail { .. }, Journey::Arrived { from, .. }) => Journey::AtHome(from),
            (_, same) => same,
        };
    }

    /// Where a virtual machine runs.
    pub(crate) fn runs_on(&self, guest: GuestNumber) -> HostNumber {
        match self.0[guest] {
            Journey::AtHome(home) => home,
            Journey::Begun { from, .. } => from,
            Journey::Arrived { to, .. } => to,
        }
    }

    /// From where to where it is being migrated.
    pub(crate) fn migration(&self, guest: GuestNumber) -> Option<(HostNumber, HostNumber)> {
        match self.0[guest] {
            Journey::AtHome(_) => None,
            Journey::Begun { from, to } | Journey::Arrived { from, to, .. } => Some((from, to)),
        }
    }

    /// Those that are on their way to a host and have not moved yet.
    pub(crate) fn awaited_on(&self, host: HostNumber) -> impl Iterator<Item = GuestNumber> {
        let is_awaited = move |journey: &Journey| matches!(journey, Journey::Begun { to, .. } if *to == host);
        self.0.iter().enumerate().filter(move |(_, journey)| is_awaited(journey)).map(|(guest, _)| guest)
    }

    /// Whether its own announcements change nothing any more, or could never do so: nobody waits for them, or they have been heard.
    pub(crate) fn has_been_heard(&self, guest: GuestNumber) -> bool {
        !matches!(self.0[guest], Journey::Arrived { heard: Heard::No | Heard::Maybe, .. })
    }

    /// Nobody is being migrated.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.0.iter().all(|journey| matches!(journey, Journey::AtHome(_)))
    }

    /// What a host must hold for a virtual machine.
    pub(crate) fn expected(&self, guest: GuestNumber, host: HostNumber) -> Expected {
        let (metrics, forwards) = match self.0[guest] {
            Journey::AtHome(home) if home == host => (HERE, Some(false)),
            Journey::Begun { from, .. } if from == host => (HERE, Some(false)),
            Journey::Arrived { from, heard, .. } if from == host => (HERE, heard.is_certain()),
            Journey::Arrived { to, heard, .. } if to == host => {
                let metrics = match heard {
                    Heard::Yes => ARRIVED,
                    Heard::No => NONE,
                    Heard::Maybe => PERHAPS,
                };
                (metrics, Some(false))
            }
            _ => (NONE, Some(false)),
        };
        Expected { metrics, forwards }
    }
}

impl Heard {
    /// Whether the source forwards, if that is certain.
    const fn is_certain(self) -> Option<bool> {
        match self {
            Self::Yes => Some(true),
            Self::No => Some(false),
            Self::Maybe => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Step = Step::Begin { guest: 0, to: 1 };
    const MOVE: Step = Step::Move { guest: 0, is_announced: true };
    const SUCCEED: Step = Step::Succeed { guest: 0, is_recreated: true };
    const CANCEL: Step = Step::Cancel { guest: 0 };
    const FAIL: Step = Step::Fail { guest: 0 };

    fn after(steps: &[Step], heard: Heard) -> Model {
        let mut model = Model::new(&[0, 2]);
        for step in steps {
            assert!(model.allows(*step), "{step} after {model:?}");
            model.advance(*step, heard);
        }
        model
    }

    fn metrics(model: &Model) -> [Metrics; 3] {
        [0, 1, 2].map(|host| model.expected(0, host).metrics)
    }

    #[test]
    fn a_migration_that_succeeds() {
        assert_eq!(metrics(&after(&[], Heard::Yes)), [HERE, NONE, NONE]);
        let begun = after(&[BEGIN], Heard::Yes);
        assert_eq!(metrics(&begun), [HERE, NONE, NONE]);
        assert_eq!(begun.awaited_on(1).collect::<Vec<_>>(), [0]);
        let arrived = after(&[BEGIN, MOVE], Heard::Yes);
        assert_eq!(metrics(&arrived), [HERE, ARRIVED, NONE]);
        assert_eq!([0, 1, 2].map(|host| arrived.expected(0, host).forwards), [true, false, false].map(Some));
        assert!(!arrived.is_at_rest() && arrived.awaited_on(1).next().is_none());
        let over = after(&[BEGIN, MOVE, SUCCEED], Heard::Yes);
        assert_eq!(metrics(&over), [NONE, HERE, NONE]);
        assert_eq!((over.runs_on(0), over.is_at_rest()), (1, true));
    }

    #[test]
    fn what_nobody_heard_has_no_route_before_the_end() {
        let silent = after(&[BEGIN, MOVE], Heard::No);
        assert_eq!(metrics(&silent), [HERE, NONE, NONE]);
        assert_eq!(silent.expected(0, 0).forwards, Some(false));
        let maybe = after(&[BEGIN, MOVE], Heard::Maybe);
        assert_eq!(maybe.expected(0, 1).metrics, PERHAPS);
        assert_eq!(maybe.expected(0, 0).forwards, None);
        assert_eq!(maybe.runs_on(0), 1);
    }

    #[test]
    fn a_migration_that_is_cancelled_leaves_everything_as_it_was() {
        assert_eq!(metrics(&after(&[BEGIN, CANCEL], Heard::Yes)), metrics(&after(&[], Heard::Yes)));
    }

    #[test]
    fn a_migration_that_fails_behind_the_announcement_leaves_everything_as_it_was() {
        let failed = after(&[BEGIN, MOVE, FAIL], Heard::Yes);
        assert_eq!(metrics(&failed), metrics(&after(&[], Heard::Yes)));
        assert_eq!((failed.runs_on(0), failed.is_at_rest()), (0, true));
        assert_eq!([0, 1].map(|host| failed.expected(0, host).forwards), [Some(false); 2]);
    }

    #[test]
    fn only_what_nobody_has_heard_could_still_be_heard() {
        assert!(after(&[BEGIN], Heard::Yes).has_been_heard(0));
        let arrived = [Heard::Yes, Heard::No, Heard::Maybe].map(|heard| after(&[BEGIN, MOVE], heard));
        assert_eq!(arrived.map(|model| model.has_been_heard(0)), [true, false, false]);
    }

    #[test]
    fn steps_without_what_they_need_are_not_made() {
        let at_home = after(&[], Heard::Yes);
        for step in [MOVE, SUCCEED, CANCEL, FAIL, Step::Begin { guest: 0, to: 0 }] {
            assert!(!at_home.allows(step), "{step}");
        }
        let arrived = after(&[BEGIN, MOVE], Heard::Yes);
        for step in [BEGIN, MOVE, CANCEL] {
            assert!(!arrived.allows(step), "{step}");
        }
    }
}
