//! The cutover agent: everything that touches the world so that `cutover-engine` does not have to.
//!
//! Data flows from the sources ([`datastore`], [`netlink`], [`bpf`]) as facts into the engine, which the
//! [`agent`] loop drives, and from there as wanted sets to the [`applier`]s. The [`fast_path`] shortcuts an
//! announcement to its routes and reports it as a fact. [`state_file`] remembers across restarts, [`migrations`]
//! is the record of finished ones, [`control`] answers `cutover status`, [`settings`] says what the operator wants,
//! [`felix`] observes the agent that keeps policy where it runs beside this one, [`doctor`] checks a host, [`bgp`] writes configurations of BGP daemons, [`cli`] is the command line.

pub mod agent;
pub mod allocator;
pub mod applier;
pub mod bgp;
pub mod bpf;
pub mod cli;
pub mod clock;
pub mod control;
pub mod datastore;
pub mod doctor;
pub mod fast_path;
pub mod felix;
pub mod heartbeat;
mod lock;
pub mod logging;
pub mod migrations;
pub mod netlink;
pub mod overruns;
#[cfg(test)]
mod own_namespace;
pub mod ownership;
pub mod presence;
mod processes;
pub mod run_dir;
pub mod settings;
pub mod state_file;
mod sysctls;
