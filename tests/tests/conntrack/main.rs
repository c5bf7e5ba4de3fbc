//! Hand-over of tracked connections between two hosts with stateful rules, with real packets of both directions.
//!
//! Each test says what goes on after the move, and that it does not without the hand-over: otherwise it would show nothing.

mod reading;
mod sessions;
mod size;
mod stage;
