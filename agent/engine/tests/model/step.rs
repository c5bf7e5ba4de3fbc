//! What can happen next.

use crate::host::Moment;
use crate::script::{HostId, Move, Write};

/// What is not part of a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// An agent is killed.
    Dies(HostId),
    /// The same in the middle of what it does about the next thing that it hears.
    DiesOver(Heard, HostId, Moment),
    /// A host loses the datastore; what happens meanwhile is read later (a compacted history, a member that froze).
    LosesDatastore(HostId),
    /// The connections between the agents break, with what is on them.
    ChannelBreaks,
    /// What a host has said last arrives once more.
    WordComesAgain(HostId),
}

/// What an engine hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    Write,
    Announcement,
    Word,
}

/// What can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The driver writes.
    Write(Write),
    /// Something happens to the virtual machine or its tap.
    Move(Move),
    /// A host's engine hears what comes next.
    Hears(HostId, Heard),
    /// A host hears from libvirt.
    HearsHypervisor(HostId),
    /// Interface and watch are set up as wanted.
    Prepares(HostId),
    /// Time passes until an engine has something to do.
    Waits,
    Fault(Fault),
    /// An agent is started; it has not read the datastore.
    Starts(HostId),
    /// It reads the datastore.
    Reads(HostId),
    /// A host has the datastore again.
    FindsDatastore(HostId),
    /// The agents connect again.
    Connects,
}
