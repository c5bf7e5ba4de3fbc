//! What is started so that nothing is lost that is sent to a virtual machine while it moves: who talks to the agents of other hosts, and who
//! forwards and takes what is forwarded. It says nothing itself.

use super::parts::Parts;
use super::published::Published;
use super::start::{RunError, io_error};
use crate::applier::leaving::LeavingApplier;
use crate::applier::tunnels::{Starter, TunnelApplier, TunnelReport};
use crate::bpf::LastFrames;
use crate::control::{Departing, TunnelStatus};
use crate::datastore::etcd::Cluster;
use crate::handover::{Handover, HandoverReport, HandoverStatus};
use crate::libvirt;
use crate::logging::one_line;
use crate::peers::{self, Herald, PeersReport, Ways};
use crate::settings::Settings;
use cutover_engine::Fact;
use cutover_engine::notice::DepartureRecord;
use cutover_engine::view::{ForwardView, ReceptionView};
use std::path::Path;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// What says how it stands.
#[derive(Debug)]
pub(super) struct Hitless {
    pub(super) peers: PeersReport,
    tunnels: TunnelReport,
    handovers: HandoverReport,
    last_frames: LastFrames,
    starter: Starter,
    /// Whether libvirt is heard; nothing where nobody listens.
    pub(super) libvirt: Option<libvirt::Listener>,
}

impl Hitless {
    /// In the network namespace of the calling thread. `cluster` is the datastore, if that is etcd.
    ///
    /// # Errors
    /// When there is no socket or no thread to be had.
    pub(super) fn start(
        parts: &mut Parts,
        settings: &Settings,
        (cluster, run_dir): (Option<&Cluster>, &Path),
        wanted: &Published,
        (facts, herald): (&UnboundedSender<Fact>, Herald),
        hypervisor: UnboundedSender<libvirt::Event>,
    ) -> Result<Self, RunError> {
        let no_thread = io_error("start a thread");
        let (starter, starts) = Starter::open(facts.clone())?;
        let handover = Handover::new(facts.clone());
        let handovers = handover.report();
        let leaving = LeavingApplier::default();
        let last_frames = leaving.last_frames();
        let (peers, conversations) = match peers::Options::new(settings, cluster, run_dir) {
            Ok(options) => {
                let ways = Ways {
                    facts: facts.clone(),
                    exchange: handover.exchange(),
                    last_frames: last_frames.clone(),
                    herald,
                    starter: starter.clone(),
                };
                let (peers, conversations) = peers::peers(options, wanted.subscribe(), ways);
                (peers, Some(conversations))
            }
            Err(reason) => (PeersReport::off(reason), None),
        };
        let mut libvirt = None;
        if let Some(conversations) = conversations {
            parts
                .start_prompt("the conversations with other hosts' agents", "cutover-peers", conversations)
                .map_err(no_thread)?;
            let run = handover.run(wanted.subscribe());
            parts.start_apart("the hand-over of connections", "cutover-conns", run).map_err(no_thread)?;
            if !settings.cutover_libvirt_uri.is_empty() {
                let uri = settings.cutover_libvirt_uri.clone();
                let listener = libvirt::Listener::new(libvirt::Place { uri, ..libvirt::Place::default() });
                libvirt = Some(listener.clone());
                let run = listen(listener, starter.clone(), hypervisor);
                parts.start_prompt("the listener to libvirt", "cutover-libvirt", run).map_err(no_thread)?;
            }
        }
        // Also where nobody says what to forward: the last life may have forwarded something.
        let applier = TunnelApplier::open(settings.into(), peers.own_address(), starts, facts.clone())?;
        let tunnels = applier.report();
        let run = applier.run(wanted.for_recall());
        parts.start_prompt("the tunnel applier", "cutover-tunnel", run).map_err(no_thread)?;
        let run = leaving.run(wanted.subscribe());
        parts.start_apart("the applier of last frames", "cutover-leaving", run).map_err(no_thread)?;
        Ok(Self { peers, tunnels, handovers, last_frames, starter, libvirt })
    }
}

/// Starts what waits for a stop as soon as libvirt tells of one, and passes on what libvirt says.
async fn listen(listener: libvirt::Listener, starter: Starter, hypervisor: UnboundedSender<libvirt::Event>) {
    let (told, mut telling) = unbounded_channel::<libvirt::Event>();
    let pass_on = async {
        while let Some(event) = telling.recv().await {
            if event.what == libvirt::What::Stopped {
                let which = Departing::Workload(event.domain.clone());
                starter.stopped(|endpoint| which.is(endpoint));
            }
            // The receiver is gone only while the agent stops.
            let _: Result<(), _> = hypervisor.send(event);
        }
    };
    tokio::join!(listener.run(told), pass_on);
}

impl Hitless {
    /// By which whoever hears that a virtual machine has stopped starts what waits for that.
    pub(super) fn starter(&self) -> Starter {
        self.starter.clone()
    }

    /// The record of a migration away from here, with when the last frame came from the tap.
    pub(super) fn with_last_frame(&self, record: &DepartureRecord, tap: Option<u32>) -> DepartureRecord {
        let last_frame_at = tap.and_then(|tap| self.last_frames.of(tap));
        DepartureRecord { last_frame_at, ..record.clone() }
    }
}

/// What `cutover status` shows of it.
pub(super) struct Shown {
    pub(super) forwards: Vec<ForwardView>,
    pub(super) receivers: Vec<ReceptionView>,
    pub(super) tunnel: TunnelStatus,
    pub(super) handovers: Vec<HandoverStatus>,
    pub(super) handover_error: Option<String>,
}

impl Hitless {
    /// What the engine knows, with the packets that the kernel has counted.
    pub(super) fn show(&self, mut forwards: Vec<ForwardView>, mut receivers: Vec<ReceptionView>) -> Shown {
        let (handovers, handover_error) = self.handovers.read();
        for forward in forwards.iter_mut().filter(|it| it.is_announced || it.is_stopped) {
            forward.last_frame_at = forward.tap.and_then(|tap| self.last_frames.of(tap));
        }
        let tunnels = match self.tunnels.read() {
            Ok(tunnels) => tunnels,
            Err(error) => {
                let tunnel =
                    TunnelStatus { error: Some(one_line(&error).to_string()), ..TunnelStatus::default() };
                return Shown { forwards, receivers, tunnel, handovers, handover_error };
            }
        };
        for forward in &mut forwards {
            let counted = tunnels.forwards.iter().find(|it| Some(it.tunnel.id) == forward.tunnel_id);
            forward.packets = counted.map_or(0, |it| it.traffic.packets);
        }
        for receiver in &mut receivers {
            let counted = tunnels.receptions.iter().find(|it| it.tunnel.id == receiver.tunnel_id);
            receiver.packets = counted.map_or(0, |it| it.traffic.packets);
        }
        let dropped = tunnels.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        let (forwarded, received) = (tunnels.forwarded, tunnels.received);
        let tunnel = TunnelStatus { forwarded, received, dropped, error: tunnels.error };
        Shown { forwards, receivers, tunnel, handovers, handover_error }
    }
}
