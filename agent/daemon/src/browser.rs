//! What people read in a browser: the page of a host, and a report on the migrations of several.
//!
//! Pure: answers of the agent and records in, a document out. A document needs nothing but itself: no script, no picture, font or style from
//! elsewhere, and its policy forbids the browser all of that. Names and reasons come from a datastore, a kernel or a guest; they are text, of
//! bounded length, wherever they stand (`html`). What is shown reads without a mouse and without sight: headings, tables with captions, and
//! everything that a colour says in words as well. Nothing moves.

mod attention;
mod document;
mod endpoints;
mod flight;
mod host;
mod html;
mod journey;
mod report;
#[cfg(test)]
mod tests;
mod waiting;

pub use document::POLICY;
pub use host::{Host, host, period, unanswered};
pub use report::{Record, report};
