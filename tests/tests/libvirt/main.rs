//! Two real libvirt daemons between which a real guest is moved: what the daemon's listener hears of that, and what whole agents make
//! of it.

mod agents;
mod listener;
