//! Migrations to this host, and away from it, as people see them: with the time of every phase, finished or running.
//!
//! Pure: records and answers of the agent in, values out. `cutover timeline` prints and draws them, and the page in a browser shows them
//! ([`crate::browser`]).

mod departure;
mod migration;
mod segment;
pub mod span;

pub use departure::{Departure, Step};
#[cfg(test)]
pub(crate) use migration::samples;
pub use migration::{Migration, Outcome, Phase};
pub use segment::{Panel, Segment, SegmentKind, segments};
