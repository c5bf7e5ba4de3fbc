//! What the engine is told. Past tense: a fact has already happened.

use crate::chains::Chains;
use crate::conversation::Says;
use crate::model::{Endpoint, EndpointKey, LiveMigration, Policy};
use crate::time::BootTime;
use crate::wanted::Question;
use cutover_common::AnnouncementKind;
use std::net::IpAddr;
use std::sync::Arc;

/// One observation, in the order in which it was made.
#[derive(Clone, PartialEq, Debug)]
pub enum Fact {
    /// An endpoint was created or written again (also with the same content, which is evidence, W34). Reading the
    /// datastore again must not look like this: what did not change is not told again.
    EndpointWritten(EndpointKey, Endpoint),
    /// An endpoint is gone from the datastore.
    EndpointRemoved(EndpointKey),
    /// A LiveMigration was created or written again. The name is the key of the resource in the datastore.
    MigrationWritten(String, LiveMigration),
    /// A LiveMigration is gone.
    MigrationRemoved(String),
    /// The datastore has delivered everything that it held. Nothing is programmed before this, except what is announced on a tap of
    /// which the memory knows. The links that exist have to be known by then, or endpoints without a tap would not be held.
    InSync {
        /// False while something in the datastore could not be read: then routes that nobody asks for are kept,
        /// because the resource that asks for them may be the unreadable one.
        complete: bool,
    },
    /// A link exists, with these properties now.
    LinkSeen(Link),
    /// A link is gone.
    LinkRemoved {
        /// Its number.
        ifindex: u32,
    },
    /// The settings changed.
    PolicyChanged(Box<Policy>),
    /// The watch of this generation is armed in the kernel.
    WatchArmed {
        /// Which arming.
        generation: u64,
        /// When it was done.
        at: BootTime,
    },
    /// The watch of this generation could not be armed; it will be tried again.
    WatchFailed {
        /// Which arming.
        generation: u64,
    },
    /// An announcement was accepted by the kernel, now or while nobody was looking.
    AnnouncementSeen(AnnouncementSeen),
    /// Neighbours and sysctls of an interface are, or are not, as wanted.
    InterfaceConfigured {
        /// Its number.
        ifindex: u32,
        /// Whether everything is in place.
        ready: bool,
    },
    /// What Felix has for an interface, if that differs from what was told before. Until then, it has nothing.
    ChainsSeen {
        /// Name of the interface; Felix knows no numbers.
        interface: String,
        /// What is there.
        chains: Chains,
    },
    /// The status of an endpoint of this host was written because a write was due.
    StatusWritten {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// Since when the write had been due ([`crate::wanted::WantedStatus::due_since`]).
        due_since: BootTime,
        /// When it was done.
        at: BootTime,
    },
    /// The status that another host had reported for an endpoint disappeared, which takes the port out of
    /// service wherever its virtual machine runs (W35).
    StatusRemovedElsewhere(EndpointKey),
    /// Another host has written the status of an endpoint. ORDER: told in the order of the datastore, because it matters
    /// whether that was before or after the end of a migration.
    StatusReportedElsewhere {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// Whether it is `up`.
        is_up: bool,
        /// The datastore's number of the write.
        revision: i64,
    },
    /// The ready command said that an endpoint is ready.
    EndpointReady {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// What it was asked. An endpoint that is not like this any more is not ready.
        question: Arc<Question>,
    },
    /// The datastore was asked whether it has an endpoint ([`crate::Engine::take_questions`]).
    EndpointLookedUp {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// When it was asked.
        at: BootTime,
        /// What it said.
        exists: bool,
    },
    /// The agent at the other end of a migration said how things stand there.
    PeerSaid {
        /// The endpoint of this host that the conversation is about.
        endpoint: EndpointKey,
        /// The migration.
        uid: String,
        /// The peer's end of the tunnel in the underlay.
        address: IpAddr,
        /// What it said.
        says: Says,
    },
    /// The agent at the other end said when the last frame of the virtual machine came from the tap that it has left.
    LastFrameTold {
        /// The endpoint to which it has come.
        endpoint: EndpointKey,
        /// The migration.
        uid: String,
        /// When that was, on the clock of this host.
        at: BootTime,
        /// By how many nanoseconds that may be wrong, because the clocks of two hosts can be compared only so well.
        error_ns: u64,
    },
    /// What comes out of the tunnel for an endpoint reaches its tap, or does not any more.
    ReceptionReady {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// The identifier of the tunnel.
        tunnel_id: u32,
        /// Whether everything is in place.
        is_ready: bool,
    },
    /// What comes for an endpoint whose virtual machine is leaving is forwarded from now on.
    ForwardStarted {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// The identifier of the tunnel.
        tunnel_id: u32,
        /// When it was done.
        at: BootTime,
    },
    /// The tracked connections that a virtual machine has at the source were made here.
    ConnectionsMade {
        /// The endpoint to which it comes.
        endpoint: EndpointKey,
        /// The migration.
        uid: String,
        /// How many there are by now.
        count: usize,
        /// When it was done.
        at: BootTime,
    },
    /// Somebody who knows the hypervisor says that a virtual machine that is about to leave has stopped here, or goes on here.
    MachineStopped {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// False if it goes on here.
        is_stopped: bool,
    },
    /// An operator says that everything that [`crate::Engine::losses`] shows is gone.
    LossConfirmed,
    /// The datastore could not be followed for a while, and is again. Everything that happened meanwhile has been told.
    DatastoreFollowed,
    /// Time has passed; nothing else happened.
    TimePassed,
}

/// A network interface of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number, never used twice while the host is up.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// IFF_UP: routes can be installed.
    pub admin_up: bool,
    /// IFF_RUNNING: something is at the other end.
    pub running: bool,
    /// Number of the interface whose port it is, such as a bridge.
    pub master: Option<u32>,
}

/// An accepted announcement with the times of everything that was done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnnouncementSeen {
    /// Which arming accepted it.
    pub generation: u64,
    /// What kind of frame.
    pub kind: AnnouncementKind,
    /// When the kernel program saw the frame.
    pub seen_at: BootTime,
    /// When the fast path took the record from the ring buffer, if it did.
    pub taken_at: Option<BootTime>,
    /// When the kernel had acknowledged the last elevated route, if the fast path installed them.
    pub routed_at: Option<BootTime>,
}
