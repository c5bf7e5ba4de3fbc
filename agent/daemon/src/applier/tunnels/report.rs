//! What is forwarded and received, for `cutover status`.

use crate::bpf::{ReadError, TunnelCounts};
use cutover_common::tunnel::{Traffic, TunnelCounter};
use cutover_engine::EndpointKey;
use cutover_engine::wanted::Tunnel;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One forward.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardState {
    /// The endpoint that the virtual machine leaves.
    pub endpoint: Arc<EndpointKey>,
    /// The way to where it goes.
    pub tunnel: Tunnel,
    /// Its prefixes.
    pub prefixes: BTreeSet<IpNet>,
    /// Whether it is wanted that packets are forwarded.
    pub is_wanted: bool,
    /// Whether they are.
    pub is_active: bool,
    /// Whether the target's word is enough to start it.
    pub is_ready: bool,
    /// What has been forwarded, since this agent took it over.
    pub traffic: Traffic,
}

/// One reception.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceptionState {
    /// The endpoint to which the virtual machine comes.
    pub endpoint: Arc<EndpointKey>,
    /// Where it comes from.
    pub tunnel: Tunnel,
    /// Name of the tap.
    pub interface: String,
    /// Its prefixes.
    pub prefixes: BTreeSet<IpNet>,
    /// Whether what comes reaches the tap.
    pub is_ready: bool,
    /// What has come, since this agent took it over.
    pub traffic: Traffic,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tunnels {
    /// In the order of their endpoints.
    pub forwards: Vec<ForwardState>,
    /// In the order of their endpoints.
    pub receptions: Vec<ReceptionState>,
    /// Packets that went into tunnels in the life of this agent.
    pub forwarded: u64,
    /// Packets that came out of them.
    pub received: u64,
    /// Packets that were dropped at the tunnel's device, by reason, in the life of this agent. Empty while there has been no tunnel.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Why something is not as wanted.
    pub error: Option<String>,
}

/// Shows it at any time. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TunnelReport(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) forwards: Vec<ForwardState>,
    pub(super) receptions: Vec<ReceptionState>,
    pub(super) counts: Option<TunnelCounts>,
    pub(super) error: Option<String>,
}

impl TunnelReport {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    ///
    /// # Errors
    /// When the maps of the programs cannot be read.
    pub fn read(&self) -> Result<Tunnels, ReadError> {
        let (mut tunnels, counts) = {
            let state = self.lock();
            let tunnels = Tunnels {
                forwards: state.forwards.clone(),
                receptions: state.receptions.clone(),
                forwarded: 0,
                received: 0,
                dropped: BTreeMap::new(),
                error: state.error.clone(),
            };
            (tunnels, state.counts.clone())
        };
        let Some(counts) = counts else { return Ok(tunnels) };
        let (forwarded, received) = (counts.forwarded()?, counts.received()?);
        for forward in &mut tunnels.forwards {
            forward.traffic = forwarded.get(&forward.tunnel.id).copied().unwrap_or_default();
        }
        for reception in &mut tunnels.receptions {
            reception.traffic = received.get(&reception.tunnel.id).copied().unwrap_or_default();
        }
        let counted = counts.counters()?;
        let count = |counter: TunnelCounter| counted.get(counter.name()).copied().unwrap_or(0);
        (tunnels.forwarded, tunnels.received) =
            (count(TunnelCounter::Forwarded), count(TunnelCounter::Received));
        let drops = TunnelCounter::ALL.iter().filter(|counter| counter.is_drop());
        tunnels.dropped = drops.map(|counter| (counter.name(), count(*counter))).collect();
        Ok(tunnels)
    }
}
