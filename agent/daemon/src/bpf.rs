//! The agent's half of the kernel program: loading it, attaching it to taps, and reading what it found.
//!
//! Owns everything under the pin path and everything that is attached to interfaces. It decides nothing: the
//! watch applier says which taps to arm, the fast path reads [`Kernel::events`]. Dropping a [`Kernel`] changes
//! nothing in the kernel; what is pinned goes on working until somebody opens it again or cleans it up.
//!
//! Interface numbers are those of the network namespace of the calling thread.

mod attach;
mod error;
mod filter;
mod layout;
mod leaving;
mod links;
mod locked_memory;
mod maps;
mod object;
mod pins;
pub mod probe;
mod syscall;
mod takeover;
mod traces;
mod tunnel;

pub use attach::{Attach, Attachment};
pub use error::is_refused;
pub use error::{ArmError, AttachError, CleanupError, DisarmError, ListenError, OpenError, ReadError};
pub use leaving::{LastFrames, Leaving};
pub use maps::CounterReader;
pub use object::{KernelLog, LEAVING, OBJECT};
pub use traces::{cleanup, leftovers};
pub use tunnel::{TunnelCounts, TunnelEntries, TunnelPrograms};

use attach::Attacher;
use aya::maps::{MapData, RingBuf};
use cutover_common::abi::{Evidence, Watch};
use maps::Maps;
use nix::net::if_::if_nametoindex;
use object::Object;
use pins::Pins;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// How the program is loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where everything is pinned (`CutoverPinPath`); inside a BPF file system.
    pub pin_path: PathBuf,
    /// How to attach to taps (`CutoverAttach`).
    pub attach: Attach,
    /// Whether to load the object that writes log lines.
    pub debug_log: bool,
}

/// The loaded programs, their maps and what they are attached to.
#[derive(Debug)]
pub struct Kernel {
    pins: Pins,
    object: Object,
    maps: Maps,
    attacher: Attacher,
    /// What nobody watches any more and the program is still attached to, with the name that it had, if that is known.
    idle: BTreeMap<u32, Option<String>>,
    /// The one of them that was tried last.
    detached_last: u32,
    /// To pin them again.
    pinned_maps: Vec<(&'static str, OwnedFd)>,
}

impl Kernel {
    /// Loads the programs and takes over whatever an earlier agent left under the pin path: maps with their
    /// watches and evidence, and links, which run this program from then on without missing a frame. What
    /// is attached to a tap that nobody watches any more is removed, or left to [`Kernel::detach_idle`] while others are watched.
    ///
    /// # Errors
    /// When the pin path is not in a BPF file system, when the kernel refuses the programs, or when it cannot
    /// attach them in the way asked for.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let pins = Pins::create(&options.pin_path)?;
        layout::remove_outdated_maps(&pins)?;
        let mut object = Object::load(&pins, options.debug_log)?;
        let maps = Maps::of(&mut object)?;
        let attacher = Attacher::choose(options.attach)?;
        let pinned_maps = Object::open_pinned_maps(&pins)?;
        let idle = BTreeMap::new();
        let mut kernel = Self { pins, object, maps, attacher, idle, detached_last: 0, pinned_maps };
        let armed: Vec<u32> = kernel.maps.watches()?.into_iter().map(|(ifindex, _)| ifindex).collect();
        let idle = takeover::take_over(&mut kernel.object, &kernel.pins, &armed)?;
        kernel.idle = idle.into_iter().map(|ifindex| (ifindex, None)).collect();
        // ORDER: after the links, so that what is pinned by name is what runs.
        kernel.object.pin(&kernel.pins)?;
        kernel.maps.refresh_settings()?;
        Ok(kernel)
    }

    /// Every armed watch with the number of its tap.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn armed(&self) -> Result<Vec<(u32, Watch)>, ReadError> {
        Ok(self.maps.watches()?)
    }

    /// Pins maps and programs again that somebody removed the pins of, so that another agent can take them over. Says
    /// whether that was so; what was attached by a link is attached again when it is armed the next time.
    ///
    /// # Errors
    /// When the folders cannot be made or locked, or the kernel refuses.
    pub fn restore_pins(&mut self) -> Result<bool, OpenError> {
        if Object::is_pinned(&self.pins) {
            return Ok(false);
        }
        self.pins.make_again()?;
        layout::mark(&self.pins)?;
        for (name, map) in &self.pinned_maps {
            let path = self.pins.map(name);
            if !path.exists() {
                syscall::pin(map, &path).map_err(|error| OpenError::Pins {
                    step: "cannot pin",
                    path,
                    error,
                })?;
            }
        }
        self.object.pin(&self.pins)?;
        Ok(true)
    }

    /// Watches a tap. Arming it again with the same watch changes nothing; with another generation it is a new
    /// watch, and the evidence of the old one is forgotten. A tap of this name that was there before, with
    /// another number, is given up. What is attached to the tap already stays as it is; otherwise it is attached in a way that keeps
    /// nobody waiting while another tap is watched, if the operator leaves the choice.
    ///
    /// # Errors
    /// When the tap is not (or no longer) there under both its name and its number, or the kernel refuses. Then
    /// the tap is not watched, unless it was before.
    pub fn arm(&mut self, ifindex: u32, interface: &str, watch: &Watch) -> Result<(), ArmError> {
        if if_nametoindex(interface) != Ok(ifindex) {
            return Err(ArmError::NotThere { interface: interface.to_owned(), ifindex });
        }
        let failed = |error| ArmError::Watch { interface: interface.to_owned(), error };
        let before = self.maps.watch(ifindex).map_err(failed)?;
        if before.as_ref() != Some(watch) {
            // ORDER: the watch has to be there before the first frame meets the program.
            self.maps.put_watch(ifindex, watch).map_err(failed)?;
        }
        // What cannot be read is not worth a detour.
        let is_another_watched = || self.maps.has_another(ifindex).unwrap_or(false);
        let tap = (interface, ifindex);
        if let Err(error) = self.attacher.attach(&mut self.object, &self.pins, tap, is_another_watched) {
            // What cannot see frames must not pass for armed after a restart.
            if before.is_none() {
                self.maps.remove_watch(ifindex).map_err(failed)?;
                // A part of it may be attached.
                self.idle.insert(ifindex, Some(interface.to_owned()));
            }
            return Err(ArmError::Attach { interface: interface.to_owned(), error });
        }
        self.idle.remove(&ifindex);
        if let Some(before) = before.filter(|before| before.generation != watch.generation) {
            self.maps.forget_evidence(before.generation).map_err(failed)?;
        }
        Ok(())
    }

    /// Stops watching a tap: removes the watch and its evidence. The program is detached if that keeps nobody waiting. Otherwise it stays
    /// attached, and does nothing without a watch, until [`Kernel::detach_idle`]. Doing so twice, or after the tap is gone, is fine.
    ///
    /// # Errors
    /// When the kernel refuses; what was not removed is removed by the next try.
    pub fn disarm(&mut self, ifindex: u32, interface: Option<&str>) -> Result<(), DisarmError> {
        let failed = |error| DisarmError::Watch { ifindex, error };
        if let Some(watch) = self.maps.watch(ifindex).map_err(failed)? {
            // ORDER: the watch last, because it is how a next try finds the evidence.
            self.maps.forget_evidence(watch.generation).map_err(failed)?;
            self.maps.remove_watch(ifindex).map_err(failed)?;
        }
        let detached = match self.attachment() {
            Attachment::Tc => attach::detach(&self.pins, ifindex, interface).map(|()| true),
            Attachment::Tcx | Attachment::Xdp => links::remove_cheap(&self.pins, ifindex, interface),
        };
        // What cannot be done now is done later.
        if !detached.unwrap_or(false) {
            self.idle.insert(ifindex, interface.map(str::to_owned));
        }
        Ok(())
    }

    /// Whether an announcement may come on some tap, and whatever keeps it waiting matters.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn is_awaiting(&self) -> Result<bool, ReadError> {
        Ok(self.maps.is_awaiting()?)
    }

    /// On how many taps that nobody watches the program is perhaps still attached.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Detaches the program from one of the taps that nobody watches, which can keep everybody waiting who needs the kernel's lock of links.
    /// The next call takes the next one, whatever became of this one. Without a known name every pin is looked through.
    ///
    /// # Errors
    /// When the kernel refuses; it is tried again when its turn comes.
    pub fn detach_idle(&mut self) -> Result<(), DisarmError> {
        let after = self.detached_last.saturating_add(1);
        let next = self.idle.range(after..).next().or_else(|| self.idle.first_key_value());
        let Some((&ifindex, interface)) = next else { return Ok(()) };
        self.detached_last = ifindex;
        attach::detach(&self.pins, ifindex, interface.as_deref())
            .map_err(|error| DisarmError::Detach { ifindex, error })?;
        self.idle.remove(&ifindex);
        Ok(())
    }

    /// Forgets evidence of watches that are not there any more: a program that was running when its watch was replaced or removed
    /// may have latched it after that was forgotten. Whatever is left stays for as long as the map, which has a last place.
    ///
    /// # Errors
    /// When the maps cannot be read or changed.
    pub fn forget_stray_evidence(&mut self) -> Result<usize, ReadError> {
        let known: BTreeSet<u64> = self.maps.watches()?.iter().map(|(_, watch)| watch.generation).collect();
        let latched = self.maps.all_evidence()?;
        let strays: Vec<u64> = latched.into_keys().filter(|generation| !known.contains(generation)).collect();
        for generation in &strays {
            self.maps.forget_evidence(*generation)?;
        }
        Ok(strays.len())
    }

    /// What was latched for an arming, if it was announced.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn evidence(&self, generation: u64) -> Result<Option<Evidence>, ReadError> {
        Ok(self.maps.evidence(generation)?)
    }

    /// Everything that is latched, by generation.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn all_evidence(&self) -> Result<BTreeMap<u64, Evidence>, ReadError> {
        Ok(self.maps.all_evidence()?)
    }

    /// Removes what was latched for an arming. If it is still armed, its next announcement is latched again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget_evidence(&mut self, generation: u64) -> Result<(), ReadError> {
        Ok(self.maps.forget_evidence(generation)?)
    }

    /// The counters of the program.
    #[must_use]
    pub fn counters(&self) -> &CounterReader {
        self.maps.counters()
    }

    /// The ring buffer of announcements, for its one reader: only the first call gets it. It holds whatever
    /// was not read by an earlier agent, too.
    pub fn events(&mut self) -> Option<RingBuf<MapData>> {
        self.maps.take_events()
    }

    /// The log lines of the program, if it was loaded to write some: only the first call gets them.
    pub fn log(&mut self) -> Option<KernelLog> {
        self.object.take_log()
    }

    /// How taps are watched.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        self.attacher.attachment()
    }
}
