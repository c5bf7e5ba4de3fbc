//! Pinned links of taps, tcx and XDP: made, found again, taken over, removed.
//!
//! A pin has the name of its tap, but for the anchor ([`hold_anchor`]). What a link is attached to is asked of the kernel, because a tap
//! can have got another name, or another tap its name.

use super::error::AttachError;
use super::object::Object;
use super::pins::{self, Pins};
use super::syscall::{LinkKind, PinnedLinkInfo, pinned_link};
use aya::programs::ProgramError;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{SchedClassifier, TcAttachType, XdpMode};
use cutover_common::names::{PROGRAM_TC, PROGRAM_XDP};
use std::fs;
use std::path::{Path, PathBuf};

/// Whether the kernel has tcx. Asks the kernel rather than its version, which distributions change.
pub(super) fn has_tcx() -> bool {
    // KERNEL: every network namespace has a loopback; a kernel without tcx answers EINVAL.
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// Attaches the program with tcx.
///
/// KERNEL (measured on 6.18; tcx_prog_attach, tcx_link_attach): that, and detaching it, waits for a grace period of RCU with the lock of links
/// (RTNL) held: 8 to 16 ms. To let an attached link run another program takes a microsecond.
pub(super) fn attach_tcx(object: &mut Object, interface: &str) -> Result<FdLink, AttachError> {
    let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
    // First, because a program that ends the processing of a frame would hide it.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Attaches the program with XDP.
///
/// KERNEL (measured on 6.18; bpf_dispatcher_update): only the first such attachment of a program anywhere on the machine, and the end of
/// the last one, wait for a grace period. Others take microseconds.
pub(super) fn attach_xdp(object: &mut Object, ifindex: u32) -> Result<FdLink, AttachError> {
    let program = object.xdp().ok_or(AttachError::NotLoaded(PROGRAM_XDP))?;
    let id = match program.attach_to_if_index(ifindex, XdpMode::Driver) {
        Ok(id) => id,
        // A driver without XDP, or with its own conditions; the generic mode has none.
        Err(ProgramError::SyscallError(_) | ProgramError::XdpError(_)) => {
            program.attach_to_if_index(ifindex, XdpMode::Skb)?
        }
        Err(error) => return Err(error.into()),
    };
    let link = program.take_link(id)?;
    // KERNEL: without XDP links (Linux 5.9) aya attaches by netlink; that is detached when it is dropped here.
    FdLink::try_from(link).map_err(|_| AttachError::NoXdpLinks)
}

/// Lets a pinned link run the program of this agent.
pub(super) fn run_in(object: &mut Object, path: &Path, kind: LinkKind) -> Result<(), AttachError> {
    let link = FdLink::from(PinnedLink::from_pin(path)?);
    // The links go out of aya's hands at once, which would detach them with the agent.
    match kind {
        LinkKind::Tcx => {
            let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
            let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
            FdLink::try_from(program.take_link(id)?)?;
        }
        LinkKind::Xdp => {
            let program = object.xdp().ok_or(AttachError::NotLoaded(PROGRAM_XDP))?;
            let id = program.attach_to_link(XdpLink::try_from(link)?)?;
            FdLink::try_from(program.take_link(id)?)?;
        }
    }
    Ok(())
}

/// The link of an interface, under whichever name it is pinned; from now on it has that of the interface.
pub(super) fn of(pins: &Pins, interface: &str, ifindex: u32) -> Result<Option<PinnedLinkInfo>, AttachError> {
    let path = pins.link(interface);
    if let Some(pinned) = question(&path)?.filter(|pinned| pinned.ifindex == ifindex) {
        return Ok(Some(pinned));
    }
    for other in list(pins)?.into_iter().filter(|other| *other != pins.anchor()) {
        if let Some(pinned) = question(&other)?.filter(|pinned| pinned.ifindex == ifindex) {
            remove(&path)?;
            rename(&other, &path)?;
            return Ok(Some(pinned));
        }
    }
    Ok(None)
}

/// Sees to it that the program is attached with XDP to an interface that is about to be watched, so that attaching it elsewhere keeps
/// nobody waiting. Nobody else is watched.
pub(super) fn hold_anchor(object: &mut Object, pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
    if is_anchored(pins, ifindex)? {
        return Ok(());
    }
    let link = attach_xdp(object, ifindex)?;
    // ORDER: that of a tap that nobody watches any more goes when it is not the last one.
    remove(&pins.anchor())?;
    link.pin(pins.anchor())?;
    Ok(())
}

/// Makes the anchor the link of its interface, if it is on this one; whether it is.
pub(super) fn take_anchor(pins: &Pins, interface: &str, ifindex: u32) -> Result<bool, AttachError> {
    if !is_anchored(pins, ifindex)? {
        return Ok(false);
    }
    let path = pins.link(interface);
    remove(&path)?;
    rename(&pins.anchor(), &path)?;
    Ok(true)
}

fn is_anchored(pins: &Pins, ifindex: u32) -> Result<bool, AttachError> {
    Ok(question(&pins.anchor())?.is_some_and(|anchor| anchor.ifindex == ifindex))
}

fn rename(from: &Path, to: &Path) -> Result<(), AttachError> {
    fs::rename(from, to).map_err(|error| AttachError::File {
        step: "cannot rename",
        path: from.into(),
        error,
    })
}

/// Detaches the program from an interface if that keeps nobody waiting; whether it did.
pub(super) fn remove_cheap(pins: &Pins, ifindex: u32, interface: Option<&str>) -> Result<bool, AttachError> {
    let Some(path) = interface.map(|interface| pins.link(interface)) else { return Ok(false) };
    let only = PinnedLinkInfo { kind: LinkKind::Xdp, ifindex };
    let is_all =
        question(&path)? == Some(only) && !is_anchored(pins, ifindex)? && !pins.qdisc(ifindex).exists();
    if !is_all || !has_xdp_beside(pins, &path)? {
        return Ok(false);
    }
    remove(&path)?;
    Ok(true)
}

/// Whether the program is attached with XDP by another link than this one.
fn has_xdp_beside(pins: &Pins, path: &Path) -> Result<bool, AttachError> {
    let is_there = |pinned: PinnedLinkInfo| pinned.kind == LinkKind::Xdp && pinned.ifindex != 0;
    // By its name the anchor comes first.
    for other in list(pins)?.iter().filter(|other| path != other.as_path()) {
        if question(other)?.is_some_and(is_there) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes every link of an interface, or of none any more. That under the name of the interface, and the anchor, may be enough.
pub(super) fn remove_of(pins: &Pins, ifindex: u32, interface: Option<&str>) -> Result<(), AttachError> {
    remove_if_of(ifindex, &pins.anchor())?;
    if let Some(interface) = interface
        && remove_if_of(ifindex, &pins.link(interface))?
    {
        return Ok(());
    }
    for path in list(pins)? {
        remove_if_of(ifindex, &path)?;
    }
    Ok(())
}

/// Removes a link of this interface, or of none any more; whether it was one.
fn remove_if_of(ifindex: u32, path: &Path) -> Result<bool, AttachError> {
    let is_of = |link: PinnedLinkInfo| link.ifindex == ifindex || link.ifindex == 0;
    if !question(path)?.is_some_and(is_of) {
        return Ok(false);
    }
    remove(path)?;
    Ok(true)
}

fn list(pins: &Pins) -> Result<Vec<PathBuf>, AttachError> {
    pins.links().map_err(|error| AttachError::File { step: "cannot list", path: pins.root().into(), error })
}

/// What is pinned at `path`, if it is a link.
pub(super) fn question(path: &Path) -> Result<Option<PinnedLinkInfo>, AttachError> {
    pinned_link(path).map_err(|error| AttachError::File { step: "cannot read", path: path.into(), error })
}

/// Detaches a link and removes its pin; it may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), AttachError> {
    pins::remove_link(path).map_err(|error| AttachError::File {
        step: "cannot remove",
        path: path.into(),
        error,
    })
}
