//! Taking over what an earlier agent attached: it runs the programs of this one, without a gap.
//!
//! What is on taps that nobody watches is removed, at once if nobody is watched at all. Otherwise links stay, because to detach one can
//! keep everybody waiting ([`super::links::attach_tcx`]), and whoever is watched may announce himself now.

use super::error::{AttachError, OpenError};
use super::object::Object;
use super::pins::Pins;
use super::{filter, links};
use crate::applier::is_gone;
use crate::netlink::clsact;
use aya::programs::ProgramInfo;
use cutover_common::names::PROGRAM_TC;
use std::collections::BTreeSet;
use std::path::Path;

/// Returns the interfaces that something is still attached to although nobody watches them.
pub(super) fn take_over(object: &mut Object, pins: &Pins, armed: &[u32]) -> Result<BTreeSet<u32>, OpenError> {
    let listing = pins.links().map_err(|error| OpenError::Pins {
        step: "cannot list",
        path: pins.root().into(),
        error,
    })?;
    let mut idle = BTreeSet::new();
    for path in listing {
        let taken = take_over_link(object, &path, armed)
            .map_err(|error| OpenError::TakeOver { object: path.display().to_string(), error })?;
        idle.extend(taken.filter(|ifindex| !armed.contains(ifindex)));
    }
    take_over_filters(object, pins, armed)?;
    Ok(idle)
}

/// Returns the interface that the link is attached to, if it stays.
fn take_over_link(object: &mut Object, path: &Path, armed: &[u32]) -> Result<Option<u32>, AttachError> {
    let Some(pinned) = links::question(path)? else { return Ok(None) };
    if armed.is_empty() || pinned.ifindex == 0 {
        links::remove(path)?;
        return Ok(None);
    }
    match links::run_in(object, path, pinned.kind) {
        // The tap may have gone meanwhile, which leaves a link to nothing. What nobody watches is not worth a failed start.
        Err(_)
            if !armed.contains(&pinned.ifindex)
                || links::question(path)?.is_none_or(|pinned| pinned.ifindex == 0) =>
        {
            links::remove(path)?;
            Ok(None)
        }
        result => result.map(|()| Some(pinned.ifindex)),
    }
}

/// A filter of an earlier life writes to maps that nobody may read, and costs time for each frame. Another agent in this network
/// namespace, with pins of its own, has the same place on its taps: what it has there is left to it.
fn take_over_filters(object: &mut Object, pins: &Pins, armed: &[u32]) -> Result<(), OpenError> {
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
            filter::take_over(object, ifindex)
        } else {
            filter::remove_stray(pins, ifindex, marked.contains(&ifindex), before)
        };
        match result {
            // The tap may have gone meanwhile.
            Err(_) if is_gone(ifindex) => {}
            result => result.map_err(of(ifindex))?,
        }
    }
    Ok(())
}
