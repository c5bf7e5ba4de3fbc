//! What Cutover promises, proven with the real agent, real taps and the real kernel. One executable, so that
//! it is linked once and the themes run beside each other. Needs root.
//!
//! docs/numbers.md says what A1, W33 and their like mean.

mod announcements;
mod beside_felix;
mod bridges;
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
mod pages;
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
