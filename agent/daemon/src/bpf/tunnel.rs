//! The programs of the tunnel's device and their maps.
//!
//! Nothing is pinned. The filters of clsact on the device keep programs and maps of the last life at work until those of this life, whose
//! maps are filled by then, take their place: a filter is replaced under RCU, so every packet meets the old programs or the new ones.
//! What counts packets begins anew with that.
//!
//! KERNEL (measured on 6.18): to attach with tcx waits for a grace period with the lock of links held, 8 to 16 ms, in which other
//! virtual machines' routes would have to wait as well. A qdisc and filters on a device of our own take 0.2 ms, on every kernel.

use super::error::{AttachError, OpenError, ReadError};
use super::locked_memory;
use super::maps::found;
use super::object::{self, TUNNEL};
use crate::netlink::clsact::{self, Hook, TUNNEL_EGRESS, TUNNEL_INGRESS};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::programs::{Program, SchedClassifier};
use aya::util::nr_cpus;
use cutover_common::names;
use cutover_common::tunnel::{
    Address, Delivery, FAMILY_BITS, Forward, Reception, TUNNEL_ID_BITS, Traffic, TunnelCounter,
    TunnelCounters,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the maps are to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TunnelEntries {
    /// By prefix: into which tunnel.
    pub forwards: BTreeMap<IpNet, Forward>,
    /// By identifier of a tunnel: who may send through it.
    pub receptions: BTreeMap<u32, Reception>,
    /// By identifier: to which prefixes.
    pub deliveries: BTreeSet<(u32, IpNet)>,
}

impl TunnelEntries {
    /// The identifiers of the tunnels that something goes into.
    fn outgoing(&self) -> BTreeSet<u32> {
        self.forwards.values().map(|forward| forward.tunnel_id).collect()
    }

    fn incoming(&self) -> BTreeSet<u32> {
        self.receptions.keys().copied().collect()
    }
}

/// The loaded programs. What they are attached to goes on without this value.
pub struct TunnelPrograms {
    ebpf: Ebpf,
    forwards: LpmTrie<MapData, Address, Forward>,
    receptions: HashMap<MapData, u32, Reception>,
    deliveries: LpmTrie<MapData, Delivery, u32>,
    counts: TunnelCounts,
    /// What the maps hold.
    written: TunnelEntries,
}

impl TunnelPrograms {
    /// Loads the programs, with empty maps.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load() -> Result<Self, OpenError> {
        Self::try_load().map_err(locked_memory::explain)
    }

    fn try_load() -> Result<Self, OpenError> {
        let mut ebpf = object::load(TUNNEL, |_| {})?;
        for name in [names::PROGRAM_FORWARD, names::PROGRAM_RECEIVE] {
            let program = program(&mut ebpf, name).ok_or(OpenError::WrongObject { name })?;
            program.load().map_err(|error| OpenError::Program { name, error: Box::new(error) })?;
        }
        let mut take = |name| ebpf.take_map(name).ok_or(OpenError::WrongObject { name });
        let counts = Counts {
            forwarded: take(names::MAP_FORWARDED)?.try_into()?,
            received: take(names::MAP_RECEIVED)?.try_into()?,
            counters: take(names::MAP_TUNNEL_COUNTERS)?.try_into()?,
        };
        Ok(Self {
            forwards: take(names::MAP_FORWARDS)?.try_into()?,
            receptions: take(names::MAP_RECEPTIONS)?.try_into()?,
            deliveries: take(names::MAP_DELIVERIES)?.try_into()?,
            counts: TunnelCounts(Arc::new(Mutex::new(counts))),
            written: TunnelEntries::default(),
            ebpf,
        })
    }

    /// Reads what the programs count.
    #[must_use]
    pub fn counts(&self) -> TunnelCounts {
        self.counts.clone()
    }

    /// Makes the maps hold this, and nothing else.
    ///
    /// # Errors
    /// The first that the kernel refuses. Whatever can be done is done all the same.
    pub fn write(&mut self, entries: &TunnelEntries) -> Result<(), ReadError> {
        let mut results = Vec::new();
        // ORDER: what counts before what lets packets through, and what lets them through to somebody before what lets them through.
        results.push(self.make_counts(entries));
        for delivery in entries.deliveries.difference(&self.written.deliveries.clone()) {
            let result = self.deliveries.insert(&delivery_key(delivery), 1, 0);
            if result.is_ok() {
                self.written.deliveries.insert(*delivery);
            }
            results.push(result);
        }
        for (&tunnel_id, reception) in &entries.receptions {
            if self.written.receptions.get(&tunnel_id) != Some(reception) {
                let result = self.receptions.insert(tunnel_id, reception, 0);
                if result.is_ok() {
                    self.written.receptions.insert(tunnel_id, *reception);
                }
                results.push(result);
            }
        }
        for (prefix, forward) in &entries.forwards {
            if self.written.forwards.get(prefix) != Some(forward) {
                let result = self.forwards.insert(&forward_key(prefix), forward, 0);
                if result.is_ok() {
                    self.written.forwards.insert(*prefix, *forward);
                }
                results.push(result);
            }
        }
        results.extend(self.forget(entries));
        results.into_iter().collect::<Result<(), MapError>>().map_err(ReadError::from)
    }

    /// Takes out what is not to be there.
    fn forget(&mut self, entries: &TunnelEntries) -> Vec<Result<(), MapError>> {
        let mut results = Vec::new();
        for tunnel_id in self.written.incoming().difference(&entries.incoming()) {
            let result = found(self.receptions.remove(tunnel_id));
            if result.is_ok() {
                self.written.receptions.remove(tunnel_id);
            }
            results.push(result.map(|_| ()));
        }
        for delivery in self.written.deliveries.clone().difference(&entries.deliveries) {
            let result = found(self.deliveries.remove(&delivery_key(delivery)));
            if result.is_ok() {
                self.written.deliveries.remove(delivery);
            }
            results.push(result.map(|_| ()));
        }
        let gone: Vec<IpNet> = self
            .written
            .forwards
            .keys()
            .filter(|prefix| !entries.forwards.contains_key(prefix))
            .copied()
            .collect();
        for prefix in gone {
            let result = found(self.forwards.remove(&forward_key(&prefix)));
            if result.is_ok() {
                self.written.forwards.remove(&prefix);
            }
            results.push(result.map(|_| ()));
        }
        results.push(self.counts.lock().keep_only(&entries.outgoing(), &entries.incoming()));
        results
    }

    fn make_counts(&self, entries: &TunnelEntries) -> Result<(), MapError> {
        let mut counts = self.counts.lock();
        let outgoing = make(&mut counts.forwarded, &entries.outgoing());
        let incoming = make(&mut counts.received, &entries.incoming());
        outgoing.and(incoming)
    }

    /// Attaches both programs to the device, in the place of those of an earlier life.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), AttachError> {
        clsact::add_qdisc(ifindex)?;
        for (hook, name) in HOOKS {
            if !self.runs_at(ifindex, hook, name)? {
                let program = self.program(name)?;
                clsact::put_filter_at(ifindex, hook, program.fd()?.as_fd())?;
            }
        }
        Ok(())
    }

    /// Whether both are.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_attached(&mut self, ifindex: u32) -> Result<bool, AttachError> {
        for (hook, name) in HOOKS {
            if !self.runs_at(ifindex, hook, name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn runs_at(&mut self, ifindex: u32, hook: Hook, name: &'static str) -> Result<bool, AttachError> {
        let id = self.program(name)?.info()?.id();
        Ok(clsact::running_at(ifindex, hook)? == Some(id))
    }

    fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, AttachError> {
        program(&mut self.ebpf, name).ok_or(AttachError::NotLoaded(name))
    }
}

impl fmt::Debug for TunnelPrograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelPrograms").field("written", &self.written).finish_non_exhaustive()
    }
}

const HOOKS: [(Hook, &str); 2] =
    [(TUNNEL_INGRESS, names::PROGRAM_RECEIVE), (TUNNEL_EGRESS, names::PROGRAM_FORWARD)];

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Option<&'a mut SchedClassifier> {
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Some(program),
        _ => None,
    }
}

fn forward_key(prefix: &IpNet) -> Key<Address> {
    Key::new(FAMILY_BITS + u32::from(prefix.prefix_len()), prefix.network().into())
}

fn delivery_key((tunnel_id, prefix): &(u32, IpNet)) -> Key<Delivery> {
    let delivery = Delivery { tunnel_id: *tunnel_id, address: prefix.network().into() };
    Key::new(TUNNEL_ID_BITS + FAMILY_BITS + u32::from(prefix.prefix_len()), delivery)
}

type TrafficMap = PerCpuHashMap<MapData, u32, Traffic>;

struct Counts {
    forwarded: TrafficMap,
    received: TrafficMap,
    counters: PerCpuArray<MapData, TunnelCounters>,
}

impl Counts {
    fn keep_only(&mut self, outgoing: &BTreeSet<u32>, incoming: &BTreeSet<u32>) -> Result<(), MapError> {
        for (map, kept) in [(&mut self.forwarded, outgoing), (&mut self.received, incoming)] {
            let there = map.keys().collect::<Result<BTreeSet<u32>, _>>()?;
            for tunnel_id in there.difference(kept) {
                found(map.remove(tunnel_id))?;
            }
        }
        Ok(())
    }
}

/// Makes entries that the program can count in.
fn make(map: &mut TrafficMap, tunnels: &BTreeSet<u32>) -> Result<(), MapError> {
    for tunnel_id in tunnels {
        if found(map.get(tunnel_id, 0))?.is_none() {
            map.insert(tunnel_id, zeros()?, 0)?;
        }
    }
    Ok(())
}

fn zeros() -> Result<PerCpuValues<Traffic>, MapError> {
    let of_io = |(_, error)| MapError::IoError(error);
    let cpus = nr_cpus().map_err(of_io)?;
    PerCpuValues::try_from(vec![Traffic::default(); cpus]).map_err(MapError::IoError)
}

/// Reads what the programs count. Cheap to clone.
#[derive(Clone)]
pub struct TunnelCounts(Arc<Mutex<Counts>>);

impl TunnelCounts {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has gone into each tunnel.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn forwarded(&self) -> Result<BTreeMap<u32, Traffic>, ReadError> {
        sums(&self.lock().forwarded)
    }

    /// What has come out of each tunnel.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn received(&self) -> Result<BTreeMap<u32, Traffic>, ReadError> {
        sums(&self.lock().received)
    }

    /// What became of all packets, by name, summed over the CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, ReadError> {
        let cpus = self.lock().counters.get(&0, 0)?;
        let sum = |counter| cpus.iter().map(|cpu: &TunnelCounters| cpu.value(counter)).sum();
        Ok(TunnelCounter::ALL.iter().map(|counter| (counter.name(), sum(*counter))).collect())
    }
}

fn sums(map: &TrafficMap) -> Result<BTreeMap<u32, Traffic>, ReadError> {
    let mut sums = BTreeMap::new();
    for entry in map.iter() {
        let (tunnel_id, cpus) = entry?;
        let mut sum = Traffic::default();
        for traffic in cpus.iter() {
            sum.packets += traffic.packets;
            sum.bytes += traffic.bytes;
        }
        sums.insert(tunnel_id, sum);
    }
    Ok(sums)
}

impl fmt::Debug for TunnelCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TunnelCounts")
    }
}
