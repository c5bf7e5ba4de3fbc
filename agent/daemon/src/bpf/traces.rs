//! Everything that agents left in the kernel under a pin path, and its removal.
//!
//! Needs no loaded program. Filters of tc are looked for in the network namespace of the calling thread; pins
//! are the host's.

use super::error::CleanupError;
use super::pins::{self, Pins};
use crate::netlink::clsact;
use nix::net::if_::if_nameindex;
use std::path::{Path, PathBuf};

/// What is there, one line each, without touching it.
///
/// # Errors
/// When pins or filters cannot be read.
pub fn leftovers(pin_path: &Path) -> Result<Vec<String>, CleanupError> {
    cleanup(pin_path, true)
}

/// Removes everything and says what, one line each; with `dry_run` it only says so. Programs stop seeing
/// frames first, and maps go last. What does not exist is no error.
///
/// # Errors
/// An agent works with these pins; or at the first thing that cannot be read or removed.
pub fn cleanup(pin_path: &Path, dry_run: bool) -> Result<Vec<String>, CleanupError> {
    // Looking is harmless while an agent works with them.
    let pins = if dry_run { Pins::at(pin_path) } else { Pins::lock_existing(pin_path).map_err(Box::new)? };
    let mut said = Vec::new();
    let [links, qdiscs, programs, maps, abi] = pins.folders();
    for path in list(&links)? {
        said.push(format!("link {}", path.display()));
        if !dry_run {
            pins::remove_link(&path).map_err(|error| CleanupError::File {
                step: "cannot remove",
                path,
                error,
            })?;
        }
    }
    remove_filters(&pins, dry_run, &mut said)?;
    remove_all(&qdiscs, "mark of a qdisc", dry_run, &mut said)?;
    remove_all(&programs, "program", dry_run, &mut said)?;
    remove_all(&maps, "map", dry_run, &mut said)?;
    remove_all(&abi, "mark of a version", dry_run, &mut said)?;
    for folder in pins.folders().iter().map(PathBuf::as_path).chain([pins.root()]) {
        if folder.exists() {
            said.push(format!("folder {}", folder.display()));
            remove(folder, dry_run)?;
        }
    }
    Ok(said)
}

fn remove_all(folder: &Path, what: &str, dry_run: bool, said: &mut Vec<String>) -> Result<(), CleanupError> {
    let listing = pins::entries(folder).map_err(|error| CleanupError::File {
        step: "cannot list",
        path: folder.into(),
        error,
    })?;
    for path in listing {
        said.push(format!("{what} {}", path.display()));
        remove(&path, dry_run)?;
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, CleanupError> {
    pins::entries(folder).map_err(|error| CleanupError::File {
        step: "cannot list",
        path: folder.into(),
        error,
    })
}

fn remove_filters(pins: &Pins, dry_run: bool, said: &mut Vec<String>) -> Result<(), CleanupError> {
    let failed = |step| move |error| CleanupError::File { step, path: pins.root().into(), error };
    let marked = pins.qdiscs().map_err(failed("cannot list qdiscs of"))?;
    let interfaces =
        if_nameindex().map_err(|error| failed("cannot list the interfaces for")(error.into()))?;
    for interface in &interfaces {
        let (ifindex, name) = (interface.index(), interface.name().to_string_lossy());
        if clsact::has_filter(ifindex)? {
            said.push(format!("tc filter on {name}"));
            if !dry_run {
                clsact::remove_filter(ifindex)?;
            }
        }
        if marked.contains(&ifindex) && (dry_run || clsact::is_unused(ifindex)?) {
            said.push(format!("clsact qdisc on {name}"));
            if !dry_run {
                clsact::remove_qdisc(ifindex)?;
            }
        }
    }
    Ok(())
}

fn remove(path: &Path, dry_run: bool) -> Result<(), CleanupError> {
    if dry_run {
        return Ok(());
    }
    pins::remove(path).map_err(|error| CleanupError::File { step: "cannot remove", path: path.into(), error })
}
