//! Attaching the program to taps and detaching it: tcx and XDP by pinned links, clsact by a filter.
//!
//! What is attached is found again from the pins and from the kernel; this file remembers nothing but the way
//! in which new taps are attached.

use super::clsact;
use super::error::{AttachError, OpenError};
use super::object::Object;
use super::pins::{self, Pins};
use super::syscall::{LinkKind, PinnedLinkInfo, pinned_link};
use crate::applier::is_gone;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType, XdpMode};
use cutover_common::names::{PROGRAM_TC, PROGRAM_XDP};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

/// Which way the operator wants (`CutoverAttach`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Attach {
    /// tcx where the kernel has it, else clsact.
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

#[derive(Debug)]
pub(super) struct Attacher {
    attachment: Attachment,
}

impl Attacher {
    pub(super) fn choose(attach: Attach) -> Result<Self, OpenError> {
        let attachment = match attach {
            Attach::Tc => Attachment::Tc,
            Attach::Xdp => Attachment::Xdp,
            Attach::Auto if !has_tcx() => Attachment::Tc,
            Attach::Tcx if !has_tcx() => return Err(OpenError::NoTcx),
            Attach::Auto | Attach::Tcx => Attachment::Tcx,
        };
        Ok(Self { attachment })
    }

    pub(super) fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Makes what an earlier agent attached run the programs of this one, without a gap. Links of taps that are
    /// gone or that nobody watches are removed.
    pub(super) fn take_over(&self, object: &mut Object, pins: &Pins, armed: &[u32]) -> Result<(), OpenError> {
        let listing = pins.links().map_err(|error| OpenError::Pins {
            step: "cannot list",
            path: pins.root().into(),
            error,
        })?;
        for path in listing {
            take_over_link(object, &path, armed)
                .map_err(|error| OpenError::TakeOver { object: path.display().to_string(), error })?;
        }
        self.take_over_filters(object, pins, armed)
    }

    /// A filter of an earlier life writes to maps that nobody may read, and costs time for each frame. Another agent in this network
    /// namespace, with pins of its own, has the same place on its taps: what it has there is left to it.
    fn take_over_filters(&self, object: &mut Object, pins: &Pins, armed: &[u32]) -> Result<(), OpenError> {
        let of = |ifindex| move |error| OpenError::TakeOver { object: format!("interface {ifindex}"), error };
        let listing = |error| OpenError::Pins { step: "cannot list", path: pins.root().into(), error };
        let armed: BTreeSet<u32> = armed.iter().copied().collect();
        let marked: BTreeSet<u32> = pins.qdiscs().map_err(listing)?.into_iter().collect();
        let dumped = clsact::interfaces()
            .map_err(|error| OpenError::TakeOver { object: "clsact".to_owned(), error: error.into() })?;
        let before = ProgramInfo::from_pin(pins.program(PROGRAM_TC)).ok().map(|program| program.id());
        // What a dump leaves out need not be gone.
        let interfaces: BTreeSet<u32> = dumped.iter().chain(&armed).chain(&marked).copied().collect();
        for ifindex in interfaces {
            let result = if armed.contains(&ifindex) {
                take_over_filter(object, ifindex)
            } else {
                remove_stray(pins, ifindex, marked.contains(&ifindex), before)
            };
            match result {
                // The tap may have gone meanwhile.
                Err(_) if is_gone(ifindex) => {}
                result => result.map_err(of(ifindex))?,
            }
        }
        Ok(())
    }

    /// Attaches the program to an interface, once, and removes what was attached there in another way, or to an
    /// interface that had this name before.
    pub(super) fn attach(
        &self,
        object: &mut Object,
        pins: &Pins,
        ifindex: u32,
        interface: &str,
    ) -> Result<(), AttachError> {
        let path = pins.link(interface);
        let pinned = question(&path)?;
        let kind = match self.attachment {
            Attachment::Tcx => LinkKind::Tcx,
            Attachment::Xdp => LinkKind::Xdp,
            Attachment::Tc => {
                put_filter(object, pins, ifindex)?;
                return remove_pin(&path);
            }
        };
        if pinned != Some(PinnedLinkInfo { kind, ifindex }) {
            // ORDER: the new link before the old one goes, so that there is no gap when only the way changes.
            let link = match kind {
                LinkKind::Tcx => attach_tcx(object, interface)?,
                LinkKind::Xdp => attach_xdp(object, ifindex)?,
            };
            remove_pin(&path)?;
            link.pin(&path)?;
        }
        remove_filter(pins, ifindex)
    }

    /// Attaches the program to an interface and detaches it again. A filter, and its qdisc, stay.
    pub(super) fn try_on(
        &self,
        object: &mut Object,
        (interface, ifindex): (&str, u32),
    ) -> Result<(), AttachError> {
        match self.attachment {
            Attachment::Tcx => attach_tcx(object, interface).map(drop),
            Attachment::Xdp => attach_xdp(object, ifindex).map(drop),
            Attachment::Tc => {
                clsact::add_qdisc(ifindex)?;
                let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
                Ok(clsact::put_filter(ifindex, program.fd()?.as_fd())?)
            }
        }
    }

    /// Removes everything of ours from an interface that may be gone, or have another name by now. Another
    /// interface that has its name by now is left alone.
    pub(super) fn detach(
        &self,
        pins: &Pins,
        ifindex: u32,
        interface: Option<&str>,
    ) -> Result<(), AttachError> {
        let named = interface.map(|interface| pins.link(interface));
        let is_found = match named {
            Some(path) => remove_link_of(ifindex, &path)?,
            None => false,
        };
        if !is_found {
            let listing = pins.links().map_err(|error| AttachError::File {
                step: "cannot list",
                path: pins.root().into(),
                error,
            })?;
            for path in listing {
                remove_link_of(ifindex, &path)?;
            }
        }
        remove_filter(pins, ifindex)
    }
}

/// Removes a link of this interface, or of none any more; whether it was one.
fn remove_link_of(ifindex: u32, path: &Path) -> Result<bool, AttachError> {
    let is_of = |link: PinnedLinkInfo| link.ifindex == ifindex || link.ifindex == 0;
    if !question(path)?.is_some_and(is_of) {
        return Ok(false);
    }
    remove_pin(path)?;
    Ok(true)
}

/// Asks the kernel rather than its version, which distributions change.
fn has_tcx() -> bool {
    // KERNEL: every network namespace has a loopback; a kernel without tcx answers EINVAL.
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

fn take_over_link(object: &mut Object, path: &Path, armed: &[u32]) -> Result<(), AttachError> {
    let Some(pinned) = question(path)? else { return Ok(()) };
    if !armed.contains(&pinned.ifindex) {
        return remove_pin(path);
    }
    match run_in_link(object, path, pinned.kind) {
        // The tap may have gone meanwhile, which leaves a link to nothing.
        Err(_) if question(path)?.is_none_or(|pinned| pinned.ifindex == 0) => remove_pin(path),
        result => result,
    }
}

/// Lets a pinned link run the program of this agent.
fn run_in_link(object: &mut Object, path: &Path, kind: LinkKind) -> Result<(), AttachError> {
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

fn take_over_filter(object: &mut Object, ifindex: u32) -> Result<(), AttachError> {
    if !clsact::has_filter(ifindex)? {
        return Ok(());
    }
    let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
    Ok(clsact::put_filter(ifindex, program.fd()?.as_fd())?)
}

/// Removes what an earlier life left on a tap that nobody watches: what is on a qdisc of ours, or runs the program that is pinned.
fn remove_stray(pins: &Pins, ifindex: u32, is_marked: bool, before: Option<u32>) -> Result<(), AttachError> {
    if is_marked && !clsact::has_qdisc(ifindex)? {
        // A mark without a qdisc would make one that somebody else adds there ours.
        return remove_mark(pins, ifindex);
    }
    let running = clsact::running(ifindex)?;
    if is_marked || (running.is_some() && running == before) { remove_filter(pins, ifindex) } else { Ok(()) }
}

fn attach_tcx(object: &mut Object, interface: &str) -> Result<FdLink, AttachError> {
    let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
    // First, because a program that ends the processing of a frame would hide it.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_xdp(object: &mut Object, ifindex: u32) -> Result<FdLink, AttachError> {
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

fn put_filter(object: &mut Object, pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
    let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
    // What runs an agent's program of before looks into the maps of before, which need not be those of now.
    if clsact::running(ifindex)? == Some(program.info()?.id()) {
        return Ok(());
    }
    let mark = pins.qdisc(ifindex);
    if clsact::add_qdisc(ifindex)? {
        match fs::create_dir(&mark) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(AttachError::File { step: "cannot make", path: mark, error });
            }
            _ => {}
        }
    }
    Ok(clsact::put_filter(ifindex, program.fd()?.as_fd())?)
}

/// Removes our filter from an interface, and the qdisc if we made it and nobody uses it by now.
pub(super) fn remove_filter(pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
    clsact::remove_filter(ifindex)?;
    if pins.qdisc(ifindex).exists() {
        if clsact::is_unused(ifindex)? {
            clsact::remove_qdisc(ifindex)?;
        }
        remove_mark(pins, ifindex)?;
    }
    Ok(())
}

/// Whoever made the qdisc, it is not ours to remove from now on.
fn remove_mark(pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
    let mark = pins.qdisc(ifindex);
    pins::remove(&mark).map_err(|error| AttachError::File { step: "cannot remove", path: mark, error })
}

fn question(path: &Path) -> Result<Option<PinnedLinkInfo>, AttachError> {
    pinned_link(path).map_err(|error| AttachError::File { step: "cannot read", path: path.into(), error })
}

fn remove_pin(path: &Path) -> Result<(), AttachError> {
    pins::remove_link(path).map_err(|error| AttachError::File {
        step: "cannot remove",
        path: path.into(),
        error,
    })
}
