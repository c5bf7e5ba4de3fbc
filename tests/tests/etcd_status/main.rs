//! What goes back to Neutron through a real etcd, and the orchestrator's part that `cutover migrate` plays in it:
//! real agents, real taps. One executable, so that it is linked once. Needs root and Debian's etcd.

mod clock;
mod cloud;
mod full_host;
mod heartbeat;
mod leaving;
mod migrate;
mod neutron;
mod overtaken;
mod regions;
mod statuses;
