//! Two real libvirt daemons between which a real guest is moved: what the daemon's listener hears of that, and what whole agents make
//! of it, and how the package's hook plays the orchestrator's part where there is no other.

mod agents;
mod hook;
mod listener;
