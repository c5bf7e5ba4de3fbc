//! What a target changes in the kernel's table of connections. Tests have a table of their own.

use crate::conntrack::{ChangeError, Conntrack, Entry, Injected, Ours, ReadError, Tuple, Withdrawn};
use crate::netlink::socket::{OpenError, SendError};
use ipnet::IpNet;
use std::collections::HashSet;

/// The kernel did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("cannot reach connection tracking: {0}")]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("cannot change tracked connections: {0}")]
    Send(#[from] SendError),
}

/// As [`Conntrack`] says of each.
pub(super) trait Table {
    fn inject(&mut self, entries: &[Entry], allowed: &[IpNet], ours: &HashSet<Tuple>) -> Injected;
    fn withdraw(&mut self, ours: &[Ours]) -> Result<Withdrawn, Trouble>;
    fn forget(&mut self, addresses: &[IpNet], staying: &[IpNet]) -> Result<usize, Trouble>;
}

impl Table for Conntrack {
    fn inject(&mut self, entries: &[Entry], allowed: &[IpNet], ours: &HashSet<Tuple>) -> Injected {
        Self::inject(self, entries, allowed, ours)
    }

    fn withdraw(&mut self, ours: &[Ours]) -> Result<Withdrawn, Trouble> {
        Ok(Self::withdraw(self, ours)?)
    }

    fn forget(&mut self, addresses: &[IpNet], staying: &[IpNet]) -> Result<usize, Trouble> {
        Ok(Self::forget(self, addresses, staying)?)
    }
}
