//! The daemon: everything that touches the world so that `cutover-engine` does not have to.
//!
//! Data flows from the sources ([`datastore`], [`netlink`], [`bpf`]) as facts into the engine, which the
//! [`agent`] loop drives, and from there as wanted sets to the [`applier`]s. The [`fast_path`] shortcuts an
//! announcement to its routes and reports it as a fact. [`state_file`] remembers across restarts, [`migrations`]
//! is the record of finished ones, [`timeline`] what they look like to people, [`control`] answers `cutover status`, [`settings`] says what the operator wants,
//! [`felix`] observes Felix where it runs beside the daemon, [`peers`] talks to the agents of other hosts, [`libvirt`] hears of machines that
//! stop, [`observe`] shows it to
//! Prometheus, probes, people ([`browser`]) and systemd. [`preview`] says what a start would change. The command line reads files, sockets and kernel with the same modules.

pub mod agent;
pub mod allocator;
pub mod applier;
mod atomic_file;
mod batches;
pub mod bpf;
pub mod browser;
pub mod clock;
#[cfg(test)]
mod committed;
pub mod conntrack;
pub mod control;
pub mod datastore;
pub mod fast_path;
pub mod felix;
#[cfg(test)]
mod fuzz;
pub mod handover;
pub mod heartbeat;
pub mod libvirt;
mod lock;
pub mod logging;
pub mod migrations;
pub mod netlink;
pub mod observe;
#[cfg(test)]
mod own_namespace;
pub mod ownership;
pub mod peers;
pub mod presence;
pub mod preview;
pub mod priority;
pub mod processes;
pub mod progress;
pub mod retry;
pub mod run_dir;
pub mod settings;
pub mod state_file;
pub mod sysctls;
pub mod timeline;
