//! Route priority between hosts with BIRD: the real daemon with the configuration that `cutover bgp bird` prints, real
//! agents, and every router's kernel and table. docs/bgp-bird.md states what is asserted here.

mod accepted;
mod hitless;
mod judging;
mod many;
mod mesh;
mod migrations;
mod neighbours;
mod own_routes;
mod releases;
mod restarts;
mod sessions;
mod sites;
