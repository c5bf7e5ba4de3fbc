//! What Cutover promises, proven with the real agent, real taps and the real kernel. One executable, so that
//! it is linked once and the themes run beside each other. Needs root.
//!
//! Numbers such as A1 and W33 are those of the project's list of scenarios (A: what every compatible agent
//! does) and of weaknesses of existing agents (W: what this one does better).

mod announcements;
mod beside_felix;
mod commands;
mod datastore;
mod driver_orders;
mod held_lock;
mod hostile;
mod kernels;
mod kills;
mod lost;
mod mainline;
mod overruns;
mod ready_command;
mod refused;
mod restart;
mod roles;
mod switching;
mod tap_settings;
mod taps;
mod timeline;
mod upkeep;
mod watch;
