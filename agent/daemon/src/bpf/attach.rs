//! Attaching the program to taps and detaching it: tcx and XDP by pinned links ([`super::links`]), clsact by a filter ([`super::filter`]).
//!
//! What is attached is found again from the pins and from the kernel; this file remembers nothing but the way
//! in which new taps are attached.

use super::error::{AttachError, OpenError};
use super::object::Object;
use super::pins::Pins;
use super::syscall::LinkKind;
use super::{filter, links};
use crate::logging::one_line;
use crate::netlink::clsact;
use cutover_common::names::PROGRAM_TC;
use std::fmt;
use std::os::fd::AsFd as _;

/// Which way the operator wants (`CutoverAttach`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Attach {
    /// tcx where the kernel has it, else clsact. In place of tcx XDP, where tcx would keep others waiting.
    #[default]
    Auto,
    /// tcx (Linux 6.6).
    Tcx,
    /// A filter on the clsact qdisc.
    Tc,
    /// XDP, by the driver where it can, else generic.
    Xdp,
}

/// Which way is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// tcx.
    Tcx,
    /// A filter on the clsact qdisc.
    Tc,
    /// XDP.
    Xdp,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        })
    }
}

/// How new taps are attached to.
#[derive(Debug)]
pub(super) struct Attacher {
    attachment: Attachment,
    /// XDP may take the place of tcx where tcx would keep others waiting.
    may_vary: bool,
}

impl Attacher {
    pub(super) fn choose(attach: Attach) -> Result<Self, OpenError> {
        let attachment = match attach {
            Attach::Tc => Attachment::Tc,
            Attach::Xdp => Attachment::Xdp,
            Attach::Auto if !links::has_tcx() => Attachment::Tc,
            Attach::Tcx if !links::has_tcx() => return Err(OpenError::NoTcx),
            Attach::Auto | Attach::Tcx => Attachment::Tcx,
        };
        Ok(Self { attachment, may_vary: attach == Attach::Auto && attachment == Attachment::Tcx })
    }

    pub(super) fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Attaches the program to an interface, once, and removes what was attached there in another way, or to an
    /// interface that had this name before. Where another tap is watched meanwhile, in a way that keeps nobody waiting, unless the
    /// operator chose one or somebody else's program is in that place.
    pub(super) fn attach(
        &self,
        object: &mut Object,
        pins: &Pins,
        (interface, ifindex): (&str, u32),
        is_another_watched: impl FnOnce() -> bool,
    ) -> Result<(), AttachError> {
        let kind = match self.attachment {
            Attachment::Tcx => LinkKind::Tcx,
            Attachment::Xdp => LinkKind::Xdp,
            Attachment::Tc => {
                filter::put(object, pins, ifindex)?;
                return links::remove(&pins.link(interface));
            }
        };
        let found = links::of(pins, interface, ifindex)?;
        if found.is_some_and(|found| found.kind == kind || self.may_vary) {
            return Ok(());
        }
        let varies = self.may_vary && is_another_watched();
        if (varies || kind == LinkKind::Xdp) && links::take_anchor(pins, interface, ifindex)? {
            return filter::remove(pins, ifindex);
        }
        // ORDER: the new link before the old one goes, so that there is no gap when only the way changes.
        let link = match kind {
            LinkKind::Xdp => links::attach_xdp(object, ifindex)?,
            LinkKind::Tcx if varies => links::attach_xdp(object, ifindex).or_else(|error| {
                tracing::debug!(interface, error = %one_line(&error), "no XDP beside others that are watched; tcx in its place");
                links::attach_tcx(object, interface)
            })?,
            LinkKind::Tcx => {
                if self.may_vary
                    && let Err(error) = links::hold_anchor(object, pins, ifindex)
                {
                    tracing::debug!(interface, error = %one_line(&error), "no XDP, so to attach to others may keep this tap waiting");
                }
                links::attach_tcx(object, interface)?
            }
        };
        let path = pins.link(interface);
        links::remove(&path)?;
        link.pin(path)?;
        filter::remove(pins, ifindex)
    }

    /// Attaches the program to an interface and detaches it again. A filter, and its qdisc, stay.
    pub(super) fn try_on(
        &self,
        object: &mut Object,
        (interface, ifindex): (&str, u32),
    ) -> Result<(), AttachError> {
        match self.attachment {
            Attachment::Tcx => links::attach_tcx(object, interface).map(drop),
            Attachment::Xdp => links::attach_xdp(object, ifindex).map(drop),
            Attachment::Tc => {
                clsact::add_qdisc(ifindex)?;
                let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
                Ok(clsact::put_filter(ifindex, program.fd()?.as_fd())?)
            }
        }
    }
}

/// Removes everything of ours from an interface that may be gone, or have another name by now. Another
/// interface that has its name by now is left alone.
pub(super) fn detach(pins: &Pins, ifindex: u32, interface: Option<&str>) -> Result<(), AttachError> {
    links::remove_of(pins, ifindex, interface)?;
    filter::remove(pins, ifindex)
}
