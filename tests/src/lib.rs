//! The lab: whole compute hosts on one machine, and the means to look at what an agent does to them.
//!
//! A [`Lab`] owns a bridge; each [`Host`] is a network namespace with an uplink on it, [`Tap`]s as Nova plugs
//! them, [`OpenTap`]s with which a test plays their hypervisor, and [`Vm`]s that move between them. An
//! [`Agent`] is the real binary in the namespace of a host. [`RouteWatch`] records what happens to the routes
//! with a decoder of its own, so a bug of the agent's netlink code cannot hide itself.
//!
//! Nothing here is shared between tests but the kernel: every name carries the process and a number, and
//! whatever is left when a lab goes away fails its test. Everything needs root.

pub mod agent;
pub mod bird;
pub mod blackout;
pub mod chromium;
mod clocks;
pub mod cloud;
pub mod crowd;
pub mod datastore;
pub mod deafening;
pub mod debian;
pub mod driver;
pub mod etcd;
pub mod fabric;
pub mod felix;
pub mod firewall;
pub mod footprint;
pub mod foreign;
pub mod forwarding;
pub mod frames;
pub mod frr;
pub mod full_host;
pub mod host;
pub mod http;
pub mod hypervisor;
pub mod kernel;
pub mod lab;
pub mod libvirt;
pub mod listener;
mod locked_memory;
pub mod log;
pub mod namespace;
pub mod neighbour_flood;
pub mod neutron;
pub mod packet;
pub mod pages;
pub mod probe;
pub mod processors;
pub mod program_cost;
pub mod prometheus;
pub mod prompt;
pub mod release;
pub mod residue;
pub mod resources;
pub mod route_history;
pub mod route_watch;
pub mod scene;
pub mod script;
pub mod site;
pub mod small_disk;
pub mod starved;
pub mod statistics;
pub mod stream;
pub mod tap;
pub mod vm;
pub mod wait;
pub mod wall_clock;

pub use agent::Agent;
pub use bird::Bird;
pub use cloud::Cloud;
pub use debian::Debian;
pub use driver::Driver;
pub use etcd::Etcd;
pub use fabric::Fabric;
pub use frr::Frr;
pub use host::Host;
pub use hypervisor::Hypervisor;
pub use lab::Lab;
pub use libvirt::Libvirt;
pub use release::Release;
pub use resources::{Directory, Port};
pub use route_watch::RouteWatch;
pub use scene::Scene;
pub use starved::Starved;
pub use tap::{OpenTap, Tap};
pub use vm::Vm;
