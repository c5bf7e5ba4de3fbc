//! Migrations to this host, and away from it, as people see them: with the time of every phase, finished or running.
//!
//! Pure: records and answers of the agent in, values out. `cutover timeline` prints and draws them, and the page in a browser shows them
//! ([`crate::browser`]).

mod blackout;
mod departure;
mod migration;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
mod segment;
pub mod span;

pub use blackout::Blackout;
pub use departure::{Departure, Step};
pub use migration::{Migration, Outcome, Phase};
pub use segment::{Panel, Segment, SegmentKind, segments};
