//! What the agents say to each other, and what of it is on its way.

use crate::script::{HostId, NAMES, number};
use cutover_engine::conversation::{Says, WantedConversation};

/// Something that one agent says to another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Word {
    pub(crate) to: HostId,
    pub(crate) uid: String,
    pub(crate) says: Says,
}

/// One direction of the connection from a host.
#[derive(Clone, Default, Debug)]
struct Wire {
    /// Said last on this connection.
    sent: Option<Word>,
    /// On the way.
    word: Option<Word>,
}

/// The connections between all agents, by who speaks.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    wires: Vec<Wire>,
    pub(crate) is_cut: bool,
}

impl Channel {
    pub(crate) fn between(hosts: usize) -> Self {
        Self { wires: vec![Wire::default(); hosts], is_cut: false }
    }

    /// Puts what is new on the wires, between those who want to talk to each other about the same migration.
    pub(crate) fn carry(&mut self, conversations: &[Option<WantedConversation>]) {
        for (id, wire) in self.wires.iter_mut().enumerate() {
            let conversation = conversations[id].as_ref().filter(|_| !self.is_cut);
            let heard_by = conversation.and_then(|it| {
                let to = number(&it.peer.host);
                let listens = conversations.get(to)?.as_ref()?;
                (listens.uid == it.uid && listens.peer.host == NAMES[id]).then_some(to)
            });
            let Some((conversation, to)) = conversation.zip(heard_by) else {
                *wire = Wire::default();
                continue;
            };
            let word = Word { to, uid: conversation.uid.clone(), says: conversation.says };
            if wire.word.is_none() && wire.sent.as_ref() != Some(&word) {
                (wire.word, wire.sent) = (Some(word.clone()), Some(word));
            }
        }
    }

    /// Who is about to hear something.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = HostId> + '_ {
        self.wires.iter().filter_map(|wire| Some(wire.word.as_ref()?.to))
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_cut && self.listeners().next().is_none()
    }

    /// Whether anybody talks.
    pub(crate) fn is_used(&self) -> bool {
        !self.is_cut && self.wires.iter().any(|wire| wire.sent.is_some())
    }

    /// Those whose last word has been heard.
    pub(crate) fn heard(&self) -> impl Iterator<Item = HostId> + '_ {
        let is_heard = |wire: &Wire| wire.word.is_none() && wire.sent.is_some();
        self.wires.iter().enumerate().filter(move |(_, wire)| is_heard(wire)).map(|(id, _)| id)
    }

    /// The word that a host is about to hear, and whose it is.
    pub(crate) fn take(&mut self, to: HostId) -> Option<(HostId, Word)> {
        let is_it = |wire: &Wire| wire.word.as_ref().is_some_and(|word| word.to == to);
        let from = self.wires.iter().position(is_it)?;
        Some((from, self.wires[from].word.take()?))
    }

    /// What a host has said last.
    pub(crate) fn last(&self, from: HostId) -> Option<Word> {
        self.wires[from].sent.clone()
    }
}
