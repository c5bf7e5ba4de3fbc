//! The conversations that the engine wants, and how each of them stands.
//!
//! Owns what is remembered of a conversation for as long as it is wanted: what there is to say, what was heard last, and which
//! connection counts. Connections are made, and used, by others.

use super::context::Ears;
use super::herald::Herald;
use super::message::Hello;
use super::report::ConversationStatus;
use crate::applier::WantedReceiver;
use crate::applier::tunnels::Start;
use crate::clock;
use crate::logging::printable;
use cutover_engine::conversation::{Says, TargetSays, WantedConversation};
use cutover_engine::shared::SharedMap;
use cutover_engine::time::milliseconds;
use cutover_engine::wanted::Tunnel;
use cutover_engine::{BootTime, EndpointKey, Fact};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Which end of a migration a host is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// Where the virtual machine leaves: waits to be asked.
    Source,
    /// Where it goes: asks.
    Target,
}

impl Side {
    pub(super) const fn of(says: &Says) -> Self {
        match says {
            Says::Source(_) => Self::Source,
            Says::Target(_) => Self::Target,
        }
    }

    /// The word of the log and of the status.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// What a conversation is about. Anything else is another conversation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Topic {
    /// The endpoint here.
    pub(super) endpoint: EndpointKey,
    /// The migration.
    pub(super) uid: String,
    /// The endpoint there.
    pub(super) peer: EndpointKey,
    /// What this host is.
    pub(super) side: Side,
}

/// A conversation that is wanted.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) topic: Topic,
    /// How things stand here; nothing when the conversation is not wanted any more.
    ///
    /// LIMIT: only the line waits for it, so that an announcement wakes who tells of it and nobody else.
    says: watch::Sender<Option<Says>>,
    /// It is not wanted any more.
    is_over: watch::Sender<bool>,
    /// Number of the tap that is about to be left, on the source; 0 if none is known.
    tap: AtomicU32,
    /// By which watch the virtual machine is announced, and whether it has been. Held while `says` is changed.
    announcement: Mutex<(Option<u64>, bool)>,
    /// Number of the connection that counts: the newest one.
    connection: watch::Sender<u64>,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    told: Option<(IpAddr, Says)>,
    is_connected: bool,
    /// Of being connected or not.
    since: BootTime,
    error: Option<String>,
}

/// What was heard is not for this conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unheard {
    #[error("it says what only a {} can say, and is none", .0.word())]
    WrongSide(Side),
    #[error("there is a newer connection")]
    Replaced,
}

impl Conversation {
    fn new(topic: Topic, says: Says, tap: Option<u32>, announced_by: Option<u64>) -> Self {
        let inside = Inside { told: None, is_connected: false, since: clock::now(), error: None };
        let (says, connection) = (watch::Sender::new(Some(says)), watch::Sender::new(0));
        Self {
            topic,
            says,
            is_over: watch::Sender::new(false),
            tap: AtomicU32::new(tap.unwrap_or(0)),
            announcement: Mutex::new((announced_by, false)),
            connection,
            inside: Mutex::new(inside),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announcement(&self) -> MutexGuard<'_, (Option<u64>, bool)> {
        self.announcement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine says this. As long as it waits for the same announcement, it has not heard of it.
    fn say(&self, mut says: Says, tap: Option<u32>, announced_by: Option<u64>) {
        self.tap.store(tap.unwrap_or(0), Ordering::Relaxed);
        let mut announcement = self.announcement();
        let is_ahead = *announcement == (announced_by, true) && announced_by.is_some();
        *announcement = (announced_by, is_ahead);
        if let Says::Target(says) = &mut says {
            says.is_announced |= is_ahead;
        }
        self.says.send_if_modified(|before| before.replace(says) != Some(says));
    }

    /// The watch of this generation has seen the announcement.
    pub(super) fn announced(&self, generation: u64) {
        let mut announcement = self.announcement();
        if announcement.0 != Some(generation) {
            return;
        }
        announcement.1 = true;
        self.says.send_if_modified(|says| match says {
            Some(Says::Target(says)) => !std::mem::replace(&mut says.is_announced, true),
            _ => false,
        });
    }

    /// On the source: the tap that is about to be left.
    pub(super) fn tap(&self) -> Option<u32> {
        Some(self.tap.load(Ordering::Relaxed)).filter(|tap| *tap != 0)
    }

    fn announced_by(&self) -> Option<u64> {
        self.announcement().0
    }

    /// How things stand here, and the word that it has changed.
    pub(super) fn says(&self) -> watch::Receiver<Option<Says>> {
        self.says.subscribe()
    }

    /// Returns when nobody wants it any more.
    pub(super) async fn unwanted(&self) {
        // It ends with this value at the latest, which is borrowed.
        let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
    }

    /// A new connection takes the place of any other. Returns its number.
    pub(super) fn connect(&self) -> u64 {
        let mut number = 0;
        let mut inside = self.inside();
        self.connection.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        *inside = Inside { is_connected: true, since: clock::now(), error: None, told: inside.told };
        number
    }

    /// Returns when there has been a connection.
    pub(super) async fn reached(&self) {
        let _ = self.connection.subscribe().wait_for(|newest| *newest > 0).await;
    }

    /// Returns when the connection with this number does not count any more.
    pub(super) async fn replaced(&self, number: u64) {
        let _ = self.connection.subscribe().wait_for(|newest| *newest != number).await;
    }

    /// There is no connection, or no more. Whoever speaks for an older one than the newest changes nothing.
    pub(super) fn disconnected(&self, number: Option<u64>, error: String) {
        let mut inside = self.inside();
        if number.is_some_and(|number| number != *self.connection.borrow()) {
            return;
        }
        if std::mem::replace(&mut inside.is_connected, false) || inside.error.is_none() {
            inside.since = clock::now();
        }
        inside.error = Some(error);
    }

    /// Tells the engine what the peer says, if that is news.
    pub(super) fn hear(&self, number: u64, address: IpAddr, says: Says, ears: &Ears) -> Result<(), Unheard> {
        if Side::of(&says) == self.topic.side {
            return Err(Unheard::WrongSide(self.topic.side));
        }
        let mut inside = self.inside();
        // ORDER: under the lock. What an older connection has said may be older than what the engine knows.
        if *self.connection.borrow() != number {
            return Err(Unheard::Replaced);
        }
        if inside.told == Some((address, says)) {
            return Ok(());
        }
        inside.told = Some((address, says));
        let Topic { endpoint, uid, .. } = self.topic.clone();
        // Without the loop the agent is about to end.
        let _ = ears.facts.send(Fact::PeerSaid { endpoint: endpoint.clone(), uid, address, says });
        drop(inside);
        // ORDER: the engine hears of it before it hears that it has been done.
        if let Says::Target(TargetSays { tunnel_id: id, is_ready: true, is_announced: true, .. }) = says {
            ears.starter.start(Start { endpoint, tunnel: Tunnel { id, peer: address } });
        }
        Ok(())
    }

    fn status(&self) -> ConversationStatus {
        let Topic { endpoint, uid, peer, side } = &self.topic;
        let inside = self.inside();
        ConversationStatus {
            endpoint: endpoint.to_string(),
            migration_uid: uid.clone(),
            peer: peer.host.clone(),
            side: side.word().to_owned(),
            is_connected: inside.is_connected,
            error: inside.error.clone(),
            for_ms: milliseconds(clock::now().since(inside.since)),
        }
    }
}

/// All of them. Copies are about the same ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    conversations: Mutex<BTreeMap<EndpointKey, Arc<Conversation>>>,
    /// Those that this host does not want to be asked about any more; the other one may need a while to see that.
    over: Mutex<VecDeque<Topic>>,
    changes: watch::Sender<u64>,
    herald: Herald,
}

/// LIMIT: more than end within the seconds that another host takes to see the end of a migration. Who is forgotten is refused with a
/// warning.
const OVER_MAX: usize = 256;

/// Why who says hello is not talked to. It may still be wanted in a moment.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unwanted {
    #[error("its migration is over here")]
    Over,
    #[error("no migration of that endpoint is known here")]
    Endpoint,
    #[error("it is about migration {}, and here that endpoint is in another one", printable(.0))]
    Migration(String),
    #[error("that endpoint is not the source of its migration here")]
    Side,
    #[error("the migration of that endpoint goes to another one than {}", printable(.0))]
    Peer(String),
}

impl Table {
    fn conversations(&self) -> MutexGuard<'_, BTreeMap<EndpointKey, Arc<Conversation>>> {
        self.0.conversations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what is wanted now. Returns the conversations that are new and in which this host asks.
    pub(super) fn update(
        &self,
        before: &SharedMap<Arc<EndpointKey>, WantedConversation>,
        now: &SharedMap<Arc<EndpointKey>, WantedConversation>,
    ) -> Vec<Arc<Conversation>> {
        let (mut to_ask, mut is_changed) = (Vec::new(), false);
        for difference in now.differences(before) {
            let endpoint = EndpointKey::clone(difference.key);
            let Some(WantedConversation { uid, peer, says, tap, announced_by }) = difference.now.cloned()
            else {
                if let Some(gone) = self.conversations().remove(&endpoint) {
                    self.end(&gone);
                }
                continue;
            };
            let topic = Topic { endpoint, uid, peer, side: Side::of(&says) };
            let known = self.conversations().get(&topic.endpoint).filter(|it| it.topic == topic).cloned();
            if let Some(known) = known {
                known.say(says, tap, announced_by);
                continue;
            }
            let (endpoint, side) = (topic.endpoint.clone(), topic.side);
            self.over().retain(|over| *over != topic);
            let conversation = Arc::new(Conversation::new(topic, says, tap, announced_by));
            if let Some(other) = self.conversations().insert(endpoint, Arc::clone(&conversation)) {
                self.end(&other);
            }
            if side == Side::Target {
                to_ask.push(conversation);
            }
            is_changed = true;
        }
        self.tell_herald();
        if is_changed {
            self.0.changes.send_modify(|number| *number += 1);
        }
        to_ask
    }

    /// By which announcements are heard of.
    #[cfg(test)]
    pub(super) fn herald(&self) -> Herald {
        self.0.herald.clone()
    }

    /// With what hears of announcements.
    pub(super) fn with(herald: Herald) -> Self {
        Self(Arc::new(Shared { herald, ..Shared::default() }))
    }

    fn tell_herald(&self) {
        let conversations = self.conversations();
        let of = |it: &Arc<Conversation>| Some((it.announced_by()?, Arc::clone(it)));
        self.0.herald.set(conversations.values().filter_map(of).collect());
    }

    fn over(&self) -> MutexGuard<'_, VecDeque<Topic>> {
        self.0.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, conversation: &Conversation) {
        conversation.says.send_replace(None);
        conversation.is_over.send_replace(true);
        let mut over = self.over();
        if conversation.topic.side == Side::Source {
            over.push_back(conversation.topic.clone());
        }
        if over.len() > OVER_MAX {
            over.pop_front();
        }
    }

    /// The conversation that somebody wants to have.
    pub(super) fn find(&self, hello: &Hello) -> Result<Arc<Conversation>, Unwanted> {
        let is_asked_for =
            |over: &Topic| (&over.endpoint, &over.uid, &over.peer) == (&hello.to, &hello.uid, &hello.from);
        if self.over().iter().any(is_asked_for) {
            return Err(Unwanted::Over);
        }
        let conversations = self.conversations();
        let found = conversations.get(&hello.to).ok_or(Unwanted::Endpoint)?;
        if found.topic.side != Side::Source {
            Err(Unwanted::Side)
        } else if found.topic.uid != hello.uid {
            Err(Unwanted::Migration(hello.uid.clone()))
        } else if found.topic.peer != hello.from {
            Err(Unwanted::Peer(hello.from.to_string()))
        } else {
            Ok(Arc::clone(found))
        }
    }

    /// Wakes whoever waits for another conversation to be wanted.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// How all of them stand.
    pub(super) fn status(&self) -> Vec<ConversationStatus> {
        let conversations: Vec<_> = self.conversations().values().cloned().collect();
        conversations.iter().map(|conversation| conversation.status()).collect()
    }
}

/// Keeps the table as the engine wants it, and has `ask` begin every conversation in which this host asks.
pub(super) async fn follow(table: Table, mut wanted: WantedReceiver, mut ask: impl FnMut(Arc<Conversation>)) {
    let mut before = SharedMap::default();
    loop {
        let newest = wanted.borrow_and_update().clone();
        // What is only known from memory says nothing about migrations.
        if let Some(newest) = newest.filter(|newest| !newest.is_recalled) {
            table.update(&before, &newest.conversations).into_iter().for_each(&mut ask);
            before = newest.conversations.clone();
        }
        if wanted.changed().await.is_err() {
            // The agent is about to end.
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::VERSION;
    use super::super::trials::{endpoint, source_says, target_says};
    use super::*;
    use crate::applier::tunnels::Starter;
    use tokio::sync::mpsc;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn wanted(uid: &str, says: Says) -> SharedMap<Arc<EndpointKey>, WantedConversation> {
        let peer = endpoint("there", 1);
        let conversation =
            WantedConversation { uid: uid.to_owned(), peer, says, tap: None, announced_by: None };
        [(Arc::new(endpoint("here", 1)), conversation)].into()
    }

    fn hello(uid: &str) -> Hello {
        let (from, to) = (endpoint("there", 1), endpoint("here", 1));
        Hello { version: VERSION, uid: uid.to_owned(), from, to, says: target_says(1).into() }
    }

    #[test]
    fn only_the_wanted_conversation_is_found() {
        let (table, none) = (Table::default(), SharedMap::default());
        assert_eq!(table.find(&hello("u")).unwrap_err(), Unwanted::Endpoint);
        let as_source = wanted("u", source_says(false));
        assert_eq!(table.update(&none, &as_source).len(), 0, "a source waits to be asked");
        assert!(table.find(&hello("u")).is_ok());
        assert_eq!(table.find(&hello("v")).unwrap_err(), Unwanted::Migration("v".to_owned()));
        let stranger = Hello { from: endpoint("elsewhere", 1), ..hello("u") };
        assert!(matches!(table.find(&stranger), Err(Unwanted::Peer(_))));
        let other_port = Hello { to: endpoint("here", 2), ..hello("u") };
        assert_eq!(table.find(&other_port).unwrap_err(), Unwanted::Endpoint);
        let as_target = wanted("w", target_says(1));
        assert_eq!(table.update(&as_source, &as_target).len(), 1);
        assert_eq!(table.find(&hello("w")).unwrap_err(), Unwanted::Side);
        table.update(&as_target, &none);
        assert_eq!(table.find(&hello("v")).unwrap_err(), Unwanted::Endpoint);
    }

    #[test]
    fn what_is_over_is_remembered_for_a_while() {
        let (table, none) = (Table::default(), SharedMap::default());
        let of = |number: usize| wanted(&number.to_string(), source_says(false));
        let mut before = of(0);
        table.update(&none, &before);
        for number in 1..=OVER_MAX {
            let now = of(number);
            table.update(&before, &now);
            before = now;
        }
        let find = |number: usize| table.find(&hello(&number.to_string()));
        assert!(find(OVER_MAX).is_ok());
        assert!((0..OVER_MAX).all(|number| find(number).unwrap_err() == Unwanted::Over));
        table.update(&before, &of(1));
        assert!(find(1).is_ok(), "wanted again");
        assert_eq!(find(OVER_MAX).unwrap_err(), Unwanted::Over);
        table.update(&of(1), &none);
        table.update(&none, &of(OVER_MAX + 1));
        table.update(&of(OVER_MAX + 1), &none);
        assert!(matches!(find(0), Err(Unwanted::Endpoint)), "the oldest is forgotten");
    }

    #[test]
    fn the_engine_hears_what_is_news_to_it() {
        let (table, none) = (Table::default(), SharedMap::default());
        let (facts, mut heard) = mpsc::unbounded_channel();
        let ears = Ears { facts, starter: Starter::that_only_tells().0 };
        table.update(&none, &wanted("u", source_says(false)));
        let conversation = table.find(&hello("u")).unwrap();
        let first = conversation.connect();
        for (says, is_news) in [(1, true), (1, false), (2, true), (1, true)] {
            conversation.hear(first, ADDRESS, target_says(says), &ears).unwrap();
            assert_eq!(heard.try_recv().is_ok(), is_news, "{says}");
        }
        let wrong = conversation.hear(first, ADDRESS, source_says(true), &ears);
        assert_eq!(wrong, Err(Unheard::WrongSide(Side::Source)));
        let second = conversation.connect();
        let late = conversation.hear(first, ADDRESS, target_says(9), &ears);
        assert_eq!(late, Err(Unheard::Replaced));
        conversation.hear(second, ADDRESS, target_says(1), &ears).unwrap();
        assert!(heard.try_recv().is_err(), "the same again after a new connection");
        let elsewhere = IpAddr::from([192, 0, 2, 3]);
        conversation.hear(second, elsewhere, target_says(1), &ears).unwrap();
        let Ok(Fact::PeerSaid { endpoint: at, uid, address, says }) = heard.try_recv() else { panic!() };
        assert_eq!((at, uid.as_str(), address, says), (endpoint("here", 1), "u", elsewhere, target_says(1)));
    }

    /// What is said next is the newest, however much there was between.
    #[test]
    fn what_is_said_is_the_newest() {
        let table = Table::default();
        let mut before = SharedMap::default();
        let mut says = None;
        for number in 0..10 {
            let now = wanted("u", target_says(number));
            let asked = table.update(&before, &now);
            assert_eq!(asked.len(), usize::from(number == 0));
            says = says.or_else(|| Some(asked[0].says()));
            before = now;
        }
        let mut says = says.unwrap();
        assert_eq!(*says.borrow_and_update(), Some(target_says(9)));
        table.update(&before, &wanted("v", target_says(9)));
        assert_eq!(*says.borrow_and_update(), None, "another migration is another conversation");
    }

    #[test]
    fn an_old_connection_that_ends_is_no_news() {
        let table = Table::default();
        table.update(&SharedMap::default(), &wanted("u", source_says(false)));
        let conversation = table.find(&hello("u")).unwrap();
        let (first, second) = (conversation.connect(), conversation.connect());
        conversation.disconnected(Some(first), "cut".to_owned());
        assert!(table.status()[0].is_connected);
        conversation.disconnected(Some(second), "cut".to_owned());
        let status = table.status();
        assert!(!status[0].is_connected && status[0].error.as_deref() == Some("cut"), "{status:?}");
    }
}
