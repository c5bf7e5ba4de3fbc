//! How a migration ended whose LiveMigration is gone although nobody announced anything (W2, W34).
//!
//! Owns what counts as evidence, and how long is waited for it. The order of the driver's writes is what tells: it deletes the
//! LiveMigration first, then the source's endpoint, and only after a success it writes the target's endpoint after that.

use crate::time::BootTime;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// How long an endpoint stays suppressed after its migration is gone without a trace and its source's endpoint is
/// gone as well.
///
/// LIMIT: a driver that rolls back re-creates the source's endpoint within 0.45 s (recorded); ten times that,
/// counted from when it went away. After it the machine does what Felix does at once: it takes the
/// migration for a success. While the source's endpoint is *there* nothing is taken for a success: the virtual
/// machine most probably runs at the source, and advertising it from here would cut it off.
pub const UNRESOLVED_BOUND: Duration = Duration::from_secs(5);

/// The same for a migration during which its source's endpoint has never been in the datastore: then there is nothing
/// that a rollback could bring back.
///
/// LIMIT: a driver that gives up a target removes its endpoint within 0.07 s after the LiveMigration (recorded), and
/// raising the priority of what is about to go would be wrong; some times that.
pub const SOURCELESS_BOUND: Duration = Duration::from_millis(250);

/// What is known since the role went away while no announcement had been seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unresolved {
    /// When the role went away.
    pub since: BootTime,
    /// Our endpoint was written again since, while the source's was not known to be absent.
    pub rewritten: bool,
    /// Since when the source's endpoint is absent, if it is.
    pub source_absent_since: Option<BootTime>,
}

impl Unresolved {
    /// When the migration will count as a success if nothing else happens.
    ///
    /// An endpoint written again while its source's stays away beyond the grace time is one. Without that, the end
    /// of the bound is taken for one, as Felix takes the end of the migration.
    pub(super) fn success_at(&self, is_sourceless: bool, grace: Duration) -> Option<BootTime> {
        let absent_since = self.source_absent_since?;
        let nothing_came = absent_since + if is_sourceless { SOURCELESS_BOUND } else { UNRESOLVED_BOUND };
        let stayed_away = self.rewritten.then_some(absent_since + grace);
        let decided = stayed_away.into_iter().chain([nothing_came]).min()?;
        // Whatever goes with the migration has a moment to go.
        Some(decided.max(self.since + SOURCELESS_BOUND))
    }

    /// Our endpoint was written again. Returns whether that decides it: a rollback never writes the target's endpoint
    /// after it has removed the source's.
    pub(super) fn written_again(&mut self) -> bool {
        self.rewritten = true;
        self.source_absent_since.is_some()
    }
}
