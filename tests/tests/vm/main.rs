//! Real guests move between hosts with real agents, while a client talks to them.

mod announcing;
mod failing;
mod holding;
mod journeys;
mod kills;
mod shapes;
mod timeline;
mod trip;
