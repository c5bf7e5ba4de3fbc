//! How the hand-over of connections stands, for `cutover status`.

use super::exchange::Topic;
use crate::conntrack::{Left, Refusal};
use cutover_engine::wanted::HandoverStage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How it stands with one virtual machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HandoverStatus {
    /// The endpoint of this host.
    pub endpoint: String,
    /// The migration.
    pub migration_uid: String,
    /// On the source `leaving` and `left`, on the target `expected`, `arrived` and `failed`.
    pub stage: String,
    /// On the source, how many there were when it was read last; on the target, how many this agent has made and not taken back.
    pub connections: usize,
    /// What was known on the source when the virtual machine did not run there any more has been read, or has come.
    pub is_last: bool,
    /// Connections that are not carried, by the reason.
    pub left: BTreeMap<String, usize>,
    /// On the target: connections that were there already and stayed.
    pub kept: usize,
    /// On the target: connections that were not made, by the reason.
    pub refused: BTreeMap<String, usize>,
    /// On the target: connections that were taken back.
    pub withdrawn: usize,
    /// On the source: connections whose packets may pass wherever they are in their windows.
    pub loosened: usize,
}

impl HandoverStatus {
    /// The words for stages, in the order of [`HandoverStage`].
    pub const STAGES: [&'static str; 5] = ["leaving", "left", "expected", "arrived", "failed"];

    pub(super) fn of(topic: &Topic, stage: HandoverStage) -> Self {
        let stage = Self::STAGES[stage as usize];
        let (endpoint, migration_uid) = (topic.endpoint.to_string(), topic.uid.clone());
        Self { endpoint, migration_uid, stage: stage.to_owned(), ..Self::default() }
    }
}

/// Reasons as text, as they travel.
pub(super) fn left(left: &BTreeMap<Left, usize>) -> BTreeMap<String, usize> {
    let word = |left| match serde_json::to_value(left) {
        Ok(serde_json::Value::String(word)) => word,
        _ => format!("{left:?}"),
    };
    left.iter().map(|(left, count)| (word(*left), *count)).collect()
}

/// Reasons as text.
pub(super) fn refused(refused: &BTreeMap<Refusal, usize>) -> BTreeMap<String, usize> {
    refused.iter().map(|(refusal, count)| (refusal.to_string(), *count)).collect()
}

/// All of them. Copies are about the same.
#[derive(Clone, Debug, Default)]
pub struct HandoverReport(Arc<Mutex<(Vec<HandoverStatus>, Option<String>)>>);

impl HandoverReport {
    pub(super) fn set(&self, all: Vec<HandoverStatus>, error: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (all, error);
    }

    /// How each of them stands, and what does not work.
    #[must_use]
    pub fn read(&self) -> (Vec<HandoverStatus>, Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
