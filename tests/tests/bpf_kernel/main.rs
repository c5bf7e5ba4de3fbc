//! The kernel program on real taps: attached in every way, read, taken over, cleaned up.

mod announcing;
mod attaching;
mod bed;
mod filling;
mod leaving;
mod surviving;
