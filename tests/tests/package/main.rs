//! The Debian package on Debian 12 and 13 with a real systemd: installed, upgraded over a running migration, downgraded, removed, purged,
//! beside Felix, and what systemd makes of the units. At no point is a route of a VM touched that runs on the host.
//!
//! `cargo xtask test package` makes the packages and the roots; without them these tests say that they were skipped.

mod beside_felix;
mod life;
mod sandbox;
mod site;
mod status_group;
mod supervision;
