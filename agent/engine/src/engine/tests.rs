//! The engine from outside, and a little from inside: what it remembers and what it wants.

mod absence;
mod aftermath;
mod bridges;
mod driver;
mod evidence;
mod exhaustive;
mod filter;
mod fleet;
mod held;
mod hitless;
mod host;
mod incremental;
mod leaving;
mod loss;
mod orders;
mod ready;
mod recall;
mod recordings;
mod reference;
mod repeated;
mod restart;
mod scratch;
mod status;
mod taps;
