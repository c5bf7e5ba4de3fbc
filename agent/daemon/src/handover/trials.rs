//! What the tests of this folder begin with.

use super::table::{Table, Trouble};
use super::transfer::Reading;
use crate::conntrack::{Entries, Entry, Injected, Ours, Refusal, Tuple, Withdrawn, samples};
use crate::netlink::socket::OpenError;
use cutover_engine::BootTime;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

pub(super) fn at(milliseconds: u64) -> BootTime {
    BootTime(0) + Duration::from_millis(milliseconds)
}

/// From a VM to somebody, told apart by a number.
pub(super) fn tcp(number: u32) -> Entry {
    let other = Ipv4Addr::from(0xc000_0200 + number).into();
    let mut entry = samples::tcp(0);
    (entry.original.destination, entry.reply.source) = (other, other);
    entry
}

pub(super) fn entries(carried: &[Entry]) -> Entries {
    Entries { carried: carried.to_vec(), ..Entries::default() }
}

pub(super) fn reading(number: u64, carried: &[Entry]) -> Reading {
    Reading { number, at: at(number * 1000), entries: entries(carried), is_last: false }
}

pub(super) fn trouble() -> Trouble {
    OpenError { step: "socket", error: io::Error::from_raw_os_error(1) }.into()
}

/// A table that does what it is told.
#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) entries: BTreeMap<Tuple, Entry>,
    pub(super) is_broken: bool,
    pub(super) forgotten: usize,
    /// So many of the next ones find no room.
    pub(super) refuses: usize,
    pub(super) made: usize,
    pub(super) stayed: Vec<IpNet>,
}

impl Fake {
    pub(super) fn with(entries: &[Entry]) -> Self {
        let mut fake = Self::default();
        entries.iter().for_each(|entry| fake.add(entry.clone()));
        fake
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.insert(entry.original, entry);
    }

    pub(super) fn there(&self) -> Vec<Entry> {
        self.entries.values().cloned().collect()
    }

    fn works(&self) -> Result<(), Trouble> {
        if self.is_broken { Err(trouble()) } else { Ok(()) }
    }
}

impl Table for Fake {
    fn inject(&mut self, entries: &[Entry], _: &[IpNet], ours: &HashSet<Tuple>) -> Injected {
        let mut injected = Injected::default();
        for entry in entries {
            if self.entries.contains_key(&entry.original) && !ours.contains(&entry.original) {
                injected.kept += 1;
                continue;
            }
            if self.refuses > 0 {
                self.refuses -= 1;
                *injected.refused.entry(Refusal::NoRoom).or_default() += 1;
                continue;
            }
            self.made += 1;
            self.add(entry.clone());
            let Entry { original, reply, .. } = *entry;
            injected.ours.push(Ours { original, reply, expires_at: at(3_600_000_000) });
            injected.done += 1;
        }
        injected
    }

    fn withdraw(&mut self, ours: &[Ours]) -> Result<Withdrawn, Trouble> {
        self.works()?;
        let deleted = ours.iter().filter(|ours| self.entries.remove(&ours.original).is_some()).count();
        Ok(Withdrawn { deleted, ..Withdrawn::default() })
    }

    fn forget(&mut self, addresses: &[IpNet], staying: &[IpNet]) -> Result<usize, Trouble> {
        self.works()?;
        self.forgotten += 1;
        self.stayed = staying.to_vec();
        let before = self.entries.len();
        self.entries.retain(|tuple, _| !addresses.iter().any(|prefix| prefix.contains(&tuple.source)));
        Ok(before - self.entries.len())
    }
}
