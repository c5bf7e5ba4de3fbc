//! Felix's chains as nf_tables shows them, by dump and notification.

mod connection;
mod dispatch;
mod error;
mod follower;
mod message;
mod mirror;

#[cfg(test)]
pub(crate) use message::fuzz::message as fuzz_message;

pub(super) use dispatch::Filter;
pub(super) use error::FollowError;
pub(super) use follower::{Changes, follow};
pub(super) use mirror::fuller;
