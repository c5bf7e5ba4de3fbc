//! Our filter of clsact on one interface, and the qdisc under it.
//!
//! Owns the marks that say which qdiscs an agent made. Only those are removed again, and only where nobody else uses them.

use super::error::AttachError;
use super::object::Object;
use super::pins::{self, Pins};
use crate::netlink::clsact;
use cutover_common::names::PROGRAM_TC;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;

/// Whether the filter is there and runs the program of this agent.
fn is_ours(object: &mut Object, ifindex: u32) -> Result<bool, AttachError> {
    let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
    // What runs an agent's program of before looks into the maps of before, which need not be those of now.
    Ok(clsact::running(ifindex)? == Some(program.info()?.id()))
}

/// Puts the filter in its place, and makes the qdisc if there is none.
pub(super) fn put(object: &mut Object, pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
    if is_ours(object, ifindex)? {
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
    let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
    Ok(clsact::put_filter(ifindex, program.fd()?.as_fd())?)
}

/// Lets the filter run the program of this agent, if it is there.
pub(super) fn take_over(object: &mut Object, ifindex: u32) -> Result<(), AttachError> {
    if !clsact::has_filter(ifindex)? {
        return Ok(());
    }
    let program = object.tc().ok_or(AttachError::NotLoaded(PROGRAM_TC))?;
    Ok(clsact::put_filter(ifindex, program.fd()?.as_fd())?)
}

/// Removes what an earlier life left on a tap that nobody watches: what is on a qdisc of ours, or runs the program that is pinned.
pub(super) fn remove_stray(
    pins: &Pins,
    ifindex: u32,
    is_marked: bool,
    before: Option<u32>,
) -> Result<(), AttachError> {
    if is_marked && !clsact::has_qdisc(ifindex)? {
        // A mark without a qdisc would make one that somebody else adds there ours.
        return remove_mark(pins, ifindex);
    }
    let running = clsact::running(ifindex)?;
    if is_marked || (running.is_some() && running == before) { remove(pins, ifindex) } else { Ok(()) }
}

/// Removes the filter from an interface, and the qdisc if we made it and nobody uses it by now.
pub(super) fn remove(pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
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
