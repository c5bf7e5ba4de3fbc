//! Metrics: how everything stands, as a page for Prometheus.
//!
//! A page is a pure function of what was observed. [`families`] is the table of everything that it can have.

pub mod families;
pub(super) mod fill;
pub(super) mod histogram;
mod process;
pub mod reference;
mod sheet;
#[cfg(test)]
pub(crate) mod tests;

pub use sheet::Format;

use super::Observed;
use crate::progress::Stuck;
use sheet::Sheet;
use std::collections::BTreeMap;
use std::time::Duration;

/// The page. `observed` is nothing if the loop has not answered; `busy` is for how long each part of the agent has been busy, and `stuck`
/// are those for which that is too long.
#[must_use]
pub fn page(
    observed: Option<&Observed>,
    busy: &BTreeMap<&'static str, Duration>,
    stuck: &[Stuck],
    format: Format,
) -> String {
    sheet(observed, busy, stuck).write(format)
}

fn sheet(observed: Option<&Observed>, busy: &BTreeMap<&'static str, Duration>, stuck: &[Stuck]) -> Sheet {
    let mut sheet = Sheet::default();
    fill::agent(&mut sheet, observed, busy, stuck);
    if let Some(observed) = observed {
        fill::endpoints(&mut sheet, observed);
        fill::announcements(&mut sheet, &observed.status);
        fill::kernel(&mut sheet, observed);
        fill::datastore(&mut sheet, observed);
        fill::forwarding(&mut sheet, observed);
        fill::felix(&mut sheet, &observed.status);
    }
    sheet
}
