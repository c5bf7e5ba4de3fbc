//! The socket that subscribes and dumps.

use crate::netlink::dump::{self, Question};
use crate::netlink::events::MonitorSettings;
use crate::netlink::filter::Filter;
use crate::netlink::subscriber::{StepError, Subscriber, failed};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::io;
use tracing::debug;

/// What the socket is notified of.
const GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_NETCONF,
];

/// A socket for following the kernel could not be made, or broke.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A system call failed.
    #[error("cannot follow the kernel's routes: {step}: {error}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The kernel did not finish a dump.
    #[error("cannot follow the kernel's routes: a dump did not end")]
    Stuck,
}

impl From<StepError> for MonitorError {
    fn from(StepError { step, error }: StepError) -> Self {
        Self::Io { step, error }
    }
}

/// The socket with its filter.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) subscriber: Subscriber,
    filter: Filter,
}

impl Connection {
    pub(super) fn open(settings: &MonitorSettings, filter: Filter) -> Result<Self, MonitorError> {
        let bytes = settings.receive_buffer_bytes;
        let subscriber = Subscriber::open(NETLINK_ROUTE, bytes, &GROUPS, |socket| {
            if let Err(error) = socket.set_netlink_get_strict_chk(true) {
                debug!(%error, "the kernel does not filter dumps; filtering here");
            }
            filter.attach(socket).map_err(failed("SO_ATTACH_FILTER"))
        })?;
        Ok(Self { subscriber, filter })
    }

    /// Lets through what this filter does, in place of the one before.
    pub(super) fn filter(&mut self, filter: Filter) -> Result<(), MonitorError> {
        if filter != self.filter {
            filter.attach(self.subscriber.socket()).map_err(failed("SO_ATTACH_FILTER"))?;
            self.filter = filter;
        }
        Ok(())
    }

    /// Whether the socket is notified of neighbours from now on.
    pub(super) fn hear_neighbours(&mut self, hears: bool) -> Result<(), MonitorError> {
        let socket = self.subscriber.socket();
        let (changed, step) = if hears {
            (socket.add_membership(libc::RTNLGRP_NEIGH), "NETLINK_ADD_MEMBERSHIP")
        } else {
            (socket.drop_membership(libc::RTNLGRP_NEIGH), "NETLINK_DROP_MEMBERSHIP")
        };
        Ok(changed.map_err(failed(step))?)
    }

    /// Asks for a dump. Returns the sequence number of the answers.
    pub(super) fn ask(&mut self, step: Question) -> Result<u32, MonitorError> {
        Ok(self.subscriber.ask(|sequence| dump::request(step, sequence))?)
    }
}
