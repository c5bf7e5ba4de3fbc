//! Real agents that talk to each other: what is sent to a virtual machine while it moves reaches it, although the client never learns
//! where it has gone.

mod bed;
mod blackout;
mod channel;
mod connections;
mod forwarding;
mod holding;
mod lives;
mod off;
