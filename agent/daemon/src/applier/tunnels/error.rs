//! What can keep the tunnel from being as wanted, with what mends it.

use crate::bpf::{AttachError, OpenError, ReadError};
use crate::netlink::socket::SendError;
use crate::sysctls::SettingError;
use cutover_common::names::DEVICE_TUNNEL;
use std::io;

/// The tunnel is not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Somebody else has the name.
    #[error(
        "there is a device {DEVICE_TUNNEL} that is not the agent's (VXLAN, external, GPE); remove it or give it another name"
    )]
    Foreign,
    /// The device cannot be made.
    #[error(
        "cannot make the device {DEVICE_TUNNEL} (VXLAN-GPE with port {port}): {error}; the kernel needs the module vxlan, and no other \
         VXLAN device may have the port"
    )]
    Create {
        /// `CutoverTunnelPort`.
        port: u16,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The device cannot be set up.
    #[error(
        "cannot set the device {DEVICE_TUNNEL} up: {error}; if UDP port {port} is in use, set CutoverTunnelPort to another one on all hosts"
    )]
    Up {
        /// `CutoverTunnelPort`.
        port: u16,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// Somebody removed the device while it was being made.
    #[error("the device {DEVICE_TUNNEL} is gone again as soon as it is made")]
    Vanished,
    /// The kernel cannot be asked, or does not do something.
    #[error("cannot {step}: {error}")]
    Netlink {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// It is not known what became of changes.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The kernel refuses a route or a rule.
    #[error("cannot {what}: {error}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// What it said.
        #[source]
        error: io::Error,
    },
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] Box<OpenError>),
    /// The maps cannot be written.
    #[error(transparent)]
    Maps(#[from] ReadError),
    /// The programs cannot be attached.
    #[error("cannot attach to {DEVICE_TUNNEL}: {0}")]
    Attach(#[from] AttachError),
    /// A sysctl of the device cannot be set.
    #[error(transparent)]
    Setting(#[from] SettingError),
}
