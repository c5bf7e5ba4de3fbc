//! Where the thread that works on connections and the conversations with other hosts' agents meet.
//!
//! Owns who asks for readings, the newest reading of each, and the way of parts that have come. Copies are about the same.

use super::transfer::{Part, Reading};
use cutover_engine::EndpointKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};

/// LIMIT: parts that wait for the thread. Whoever brings more waits himself, and so does his peer.
const DELIVERIES_MAX: usize = 4;

/// The endpoint of this host, and its migration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Topic {
    /// The endpoint of this host.
    pub endpoint: EndpointKey,
    /// The migration.
    pub uid: String,
}

/// A part that has come from a source.
#[derive(Debug)]
pub struct Delivery {
    /// What it is about.
    pub topic: Topic,
    /// Number of the connection on which it came; a later one has a higher number.
    pub connection: u64,
    /// The part.
    pub part: Part,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Exchange(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    offers: Mutex<BTreeMap<Topic, Offer>>,
    /// Counts up when somebody asks who has not before.
    asked: watch::Sender<u64>,
    wanted: watch::Sender<BTreeSet<Topic>>,
    deliveries: mpsc::Sender<Delivery>,
    connections: AtomicU64,
}

/// A reading that somebody wants, or several.
#[derive(Debug)]
struct Offer {
    askers: usize,
    reading: watch::Sender<Option<Arc<Reading>>>,
}

/// Somebody asks for the readings about a topic, until this is dropped.
#[derive(Debug)]
pub struct Asked {
    exchange: Exchange,
    topic: Topic,
    /// The newest one, when there is one.
    pub readings: watch::Receiver<Option<Arc<Reading>>>,
}

impl Exchange {
    /// With the other end of the way of parts.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Delivery>) {
        let (deliveries, delivered) = mpsc::channel(DELIVERIES_MAX);
        let shared = Shared {
            offers: Mutex::default(),
            asked: watch::Sender::new(0),
            wanted: watch::Sender::new(BTreeSet::new()),
            deliveries,
            connections: AtomicU64::new(0),
        };
        (Self(Arc::new(shared)), delivered)
    }

    fn offers(&self) -> MutexGuard<'_, BTreeMap<Topic, Offer>> {
        self.0.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for readings. The first one comes when the kernel has been read.
    #[must_use]
    pub fn ask(&self, topic: &Topic) -> Asked {
        let mut offers = self.offers();
        let offer = offers
            .entry(topic.clone())
            .or_insert_with(|| Offer { askers: 0, reading: watch::Sender::new(None) });
        offer.askers += 1;
        let readings = offer.reading.subscribe();
        drop(offers);
        self.0.asked.send_modify(|number| *number += 1);
        Asked { exchange: self.clone(), topic: topic.clone(), readings }
    }

    /// Returns when the connections of a virtual machine that arrives are wanted.
    pub async fn wanted(&self, topic: &Topic) {
        // It ends when this does, which is borrowed.
        let _ = self.0.wanted.subscribe().wait_for(|wanted| wanted.contains(topic)).await;
    }

    /// The number of a new connection.
    #[must_use]
    pub fn next_connection(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Hands a part on, when there is room for it. False if nobody is there any more.
    pub async fn deliver(&self, delivery: Delivery) -> bool {
        self.0.deliveries.send(delivery).await.is_ok()
    }

    /// The word that somebody asks who has not before.
    pub(super) fn asked(&self) -> watch::Receiver<u64> {
        self.0.asked.subscribe()
    }

    /// Whether somebody asks for readings about that.
    #[must_use]
    pub fn is_asked(&self, topic: &Topic) -> bool {
        self.offers().contains_key(topic)
    }

    /// There is a new reading, for whoever asks.
    pub fn publish(&self, topic: &Topic, reading: Arc<Reading>) {
        if let Some(offer) = self.offers().get(topic) {
            offer.reading.send_replace(Some(reading));
        }
    }

    /// There is this reading, for whoever has none: he came after it was made.
    pub(super) fn offer(&self, topic: &Topic, reading: &Arc<Reading>) {
        if let Some(offer) = self.offers().get(topic) {
            offer.reading.send_if_modified(|newest| {
                let is_news = newest.is_none();
                newest.get_or_insert_with(|| Arc::clone(reading));
                is_news
            });
        }
    }

    /// Returns when they are not wanted any more, or are to be asked for anew.
    pub async fn unwanted(&self, topic: &Topic) {
        let _ = self.0.wanted.subscribe().wait_for(|wanted| !wanted.contains(topic)).await;
    }

    /// These are to be asked for.
    pub fn want(&self, topics: BTreeSet<Topic>) {
        self.0.wanted.send_if_modified(|wanted| {
            let is_news = *wanted != topics;
            *wanted = topics;
            is_news
        });
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut offers = self.exchange.offers();
        if let Some(offer) = offers.get_mut(&self.topic) {
            offer.askers -= 1;
            if offer.askers == 0 {
                offers.remove(&self.topic);
            }
        }
    }
}
