//! Route priority between hosts with FRR: real daemons with the configuration that `cutover bgp frr` prints, watched
//! at every node's kernel and BGP table; also beside hosts with BIRD. docs/bgp-frr.md states what is asserted here.

mod accepted;
mod agents;
mod by_hand;
mod carrier;
mod ebgp;
mod hitless;
mod ibgp;
mod mesh;
mod mixed;
mod releases;
mod restarts;
mod sites;
