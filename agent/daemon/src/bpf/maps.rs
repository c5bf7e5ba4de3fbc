//! The maps from the agent's side: watches and settings, which it writes; evidence, which it removes; counters
//! and announcements, which it reads.

use super::error::{OpenError, ReadError};
use super::object::Object;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use cutover_common::abi::{Evidence, Settings, WATCH_FLAG_FIRST_FRAME, Watch};
use cutover_common::{Counter, Counters, names};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(super) struct Maps {
    watches: HashMap<MapData, u32, Watch>,
    evidence: HashMap<MapData, u64, Evidence>,
    settings: Array<MapData, Settings>,
    counters: CounterReader,
    events: Option<RingBuf<MapData>>,
}

impl Maps {
    pub(super) fn of(object: &mut Object) -> Result<Self, OpenError> {
        Ok(Self {
            watches: object.take_map(names::MAP_WATCHES)?.try_into()?,
            evidence: object.take_map(names::MAP_EVIDENCE)?.try_into()?,
            settings: object.take_map(names::MAP_SETTINGS)?.try_into()?,
            counters: CounterReader(Arc::new(object.take_map(names::MAP_COUNTERS)?.try_into()?)),
            events: Some(object.take_map(names::MAP_EVENTS)?.try_into()?),
        })
    }

    pub(super) fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.events.take()
    }

    pub(super) fn watches(&self) -> Result<Vec<(u32, Watch)>, MapError> {
        self.watches.iter().collect()
    }

    pub(super) fn watch(&self, ifindex: u32) -> Result<Option<Watch>, MapError> {
        found(self.watches.get(&ifindex, 0))
    }

    /// Whether there is a watch of another interface.
    pub(super) fn has_another(&self, ifindex: u32) -> Result<bool, MapError> {
        for other in self.watches.keys() {
            if other? != ifindex {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a watch has not seen an announcement yet.
    pub(super) fn is_awaiting(&self) -> Result<bool, MapError> {
        for entry in self.watches.iter() {
            let (_, watch) = entry?;
            if self.evidence(watch.generation)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn put_watch(&mut self, ifindex: u32, watch: &Watch) -> Result<(), MapError> {
        // ORDER: before the watch is there, or its first frames would go by.
        if watch.flags & WATCH_FLAG_FIRST_FRAME != 0 {
            self.settings.set(0, Settings { first_frame: 1 }, 0)?;
        }
        self.watches.insert(ifindex, watch, 0)
    }

    pub(super) fn remove_watch(&mut self, ifindex: u32) -> Result<(), MapError> {
        found(self.watches.remove(&ifindex))?;
        self.refresh_settings()
    }

    /// Takes the setting back that no watch asks for any more. One that stays too long only costs time.
    pub(super) fn refresh_settings(&mut self) -> Result<(), MapError> {
        if self.settings.get(&0, 0)? == Settings::default() {
            return Ok(());
        }
        let mut first_frame = 0;
        for entry in self.watches.iter() {
            let (_, watch) = entry?;
            first_frame |= watch.flags & WATCH_FLAG_FIRST_FRAME;
        }
        self.settings.set(0, Settings { first_frame: u32::from(first_frame != 0) }, 0)
    }

    pub(super) fn evidence(&self, generation: u64) -> Result<Option<Evidence>, MapError> {
        found(self.evidence.get(&generation, 0))
    }

    pub(super) fn all_evidence(&self) -> Result<BTreeMap<u64, Evidence>, MapError> {
        self.evidence.iter().collect()
    }

    pub(super) fn forget_evidence(&mut self, generation: u64) -> Result<(), MapError> {
        found(self.evidence.remove(&generation)).map(drop)
    }

    pub(super) fn counters(&self) -> &CounterReader {
        &self.counters
    }
}

/// Reads the counters. Cheap to clone, and waits for nobody: whoever attaches or detaches may have to wait for a lock of the kernel.
#[derive(Clone)]
pub struct CounterReader(Arc<PerCpuArray<MapData, Counters>>);

impl CounterReader {
    /// Every counter by name, summed over the CPUs. They start at 0 when the host starts.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn read(&self) -> Result<BTreeMap<&'static str, u64>, ReadError> {
        let cpus = self.0.get(&0, 0)?;
        let sum = |counter| cpus.iter().map(|cpu: &Counters| cpu.value(counter)).sum();
        Ok(Counter::ALL.iter().map(|counter| (counter.name(), sum(*counter))).collect())
    }
}

impl fmt::Debug for CounterReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CounterReader")
    }
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").field("events_taken", &self.events.is_none()).finish_non_exhaustive()
    }
}

/// An entry that is not there is an answer, not an error.
pub(super) fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
