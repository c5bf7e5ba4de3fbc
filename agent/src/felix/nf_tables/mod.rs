//! Felix's chains as nf_tables shows them, by dump and notification.

mod connection;
mod dispatch;
mod follower;
mod message;
mod mirror;

pub(super) use dispatch::Filter;
pub(super) use follower::{Changes, FollowError, follow};
pub(super) use mirror::fuller;
