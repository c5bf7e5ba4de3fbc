//! The tunnel between the two hosts of a migration, in the kernel: a source, a target and a client, each behind one router whose route
//! to the virtual machine still leads to the source.

mod bed;
mod forging;
mod forwarding;
mod lives;
