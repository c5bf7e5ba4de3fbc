//! The border between appliers and kernel: what they ask of it, as traits, so that tests can let them run against something else.
//!
//! Each trait has one implementation in the daemon, whose functions it names. That of interfaces is in `interfaces/preparer.rs`.

use crate::bpf::{ArmError, DisarmError, Kernel, OpenError, ReadError};
use crate::fast_path::FastPath;
use crate::netlink::socket::{Outcome, SendError};
use crate::netlink::{RouteChange, RouteSocket, route};
use cutover_common::abi::{Evidence, Watch};
use cutover_engine::wanted::WantedRoute;
use nix::net::if_::if_nametoindex;
use std::collections::BTreeSet;

/// The main table.
pub trait MainTable: Send + 'static {
    /// Makes the changes in this order, and waits until the kernel has done so.
    ///
    /// # Errors
    /// When it is not known what became of them.
    fn change(&mut self, changes: &[RouteChange]) -> Result<Outcome, SendError>;
}

impl MainTable for RouteSocket {
    fn change(&mut self, changes: &[RouteChange]) -> Result<Outcome, SendError> {
        self.send(&route::prepare(changes))
    }
}

/// The kernel program on the taps. [`Kernel`] says what each function does.
#[expect(missing_docs, reason = "Kernel documents them")]
pub trait Taps: Send + 'static {
    fn armed(&self) -> Result<Vec<(u32, Watch)>, ReadError>;
    /// Whether this is still the name of the interface with this number.
    fn is_there(&self, ifindex: u32, interface: &str) -> bool;
    fn restore_pins(&mut self) -> Result<bool, OpenError>;
    fn arm(&mut self, ifindex: u32, interface: &str, watch: &Watch) -> Result<(), ArmError>;
    fn disarm(&mut self, ifindex: u32, interface: Option<&str>) -> Result<(), DisarmError>;
    fn is_awaiting(&self) -> Result<bool, ReadError>;
    fn idle(&self) -> usize;
    fn detach_idle(&mut self) -> Result<(), DisarmError>;
    fn evidence(&self, generation: u64) -> Result<Option<Evidence>, ReadError>;
    fn forget_stray_evidence(&mut self) -> Result<usize, ReadError>;
}

impl Taps for Kernel {
    fn armed(&self) -> Result<Vec<(u32, Watch)>, ReadError> {
        self.armed()
    }

    fn is_there(&self, ifindex: u32, interface: &str) -> bool {
        if_nametoindex(interface) == Ok(ifindex)
    }

    fn restore_pins(&mut self) -> Result<bool, OpenError> {
        self.restore_pins()
    }

    fn arm(&mut self, ifindex: u32, interface: &str, watch: &Watch) -> Result<(), ArmError> {
        self.arm(ifindex, interface, watch)
    }

    fn disarm(&mut self, ifindex: u32, interface: Option<&str>) -> Result<(), DisarmError> {
        self.disarm(ifindex, interface)
    }

    fn is_awaiting(&self) -> Result<bool, ReadError> {
        self.is_awaiting()
    }

    fn idle(&self) -> usize {
        self.idle()
    }

    fn detach_idle(&mut self) -> Result<(), DisarmError> {
        self.detach_idle()
    }

    fn evidence(&self, generation: u64) -> Result<Option<Evidence>, ReadError> {
        self.evidence(generation)
    }

    fn forget_stray_evidence(&mut self) -> Result<usize, ReadError> {
        self.forget_stray_evidence()
    }
}

/// What is prepared for announcements.
pub trait Batches: Send + 'static {
    /// From now on a record of this generation installs these routes, and ends what is forwarded of what comes for their destinations
    /// if that is said.
    fn prepare(&self, generation: u64, routes: &BTreeSet<WantedRoute>, ends_forwarding: bool);

    /// From now on a record of another generation than these installs nothing.
    fn keep_only(&self, generations: &BTreeSet<u64>);
}

impl Batches for FastPath {
    fn prepare(&self, generation: u64, routes: &BTreeSet<WantedRoute>, ends_forwarding: bool) {
        self.prepare(generation, routes.iter().copied(), ends_forwarding);
    }

    fn keep_only(&self, generations: &BTreeSet<u64>) {
        self.keep_only(generations);
    }
}
