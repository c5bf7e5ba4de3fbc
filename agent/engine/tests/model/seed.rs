//! Wrong transitions that are put in between the engine and the world, so that it is known that the search finds such a thing.
//!
//! Nothing of the engine is changed: a fact is told that nobody has seen, or something that is wanted is left out, as if the engine
//! had decided wrongly.

use core::time::Duration;
use cutover_engine::Wanted;
use cutover_engine::model::Policy;
use cutover_engine::wanted::WantedForward;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seed {
    /// The end of a migration counts as its success: `(Target, RoleGone(Unresolved)) => TimeWait`.
    EndIsSuccess,
    /// The source forwards as soon as the target is ready, and not only when the virtual machine has gone.
    ForwardsTooEarly,
    /// An endpoint that the driver deletes for a moment is not held.
    NothingIsHeld,
}

impl Seed {
    /// The settings, as if the engine took no notice of one of them.
    pub(crate) fn of_policy(self, policy: &Policy) -> Policy {
        let grace = if self == Self::NothingIsHeld { Duration::ZERO } else { policy.grace };
        Policy { grace, ..policy.clone() }
    }

    /// What is wanted, as if the engine had decided wrongly.
    pub(crate) fn of_wanted(self, wanted: &Wanted) -> Wanted {
        let mut wanted = wanted.clone();
        if self == Self::ForwardsTooEarly {
            let early = wanted.forwards.iter().filter(|(_, forward)| forward.awaits_word);
            let early: Vec<_> = early.map(|(key, it)| (key.clone(), it.clone())).collect();
            for (key, forward) in early {
                wanted.forwards.insert(key, WantedForward { is_active: true, ..forward });
            }
        }
        wanted
    }
}
