//! Route priority between hosts with FRR: real daemons with the configuration that `cutover bgp frr` prints, watched
//! at every node's kernel and BGP table. docs/bgp-frr.md states what is asserted here.

mod accepted;
mod agents;
mod ebgp;
mod fabric;
mod ibgp;
mod restarts;
