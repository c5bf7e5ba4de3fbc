//! Endpoint status in etcd, where an unmodified Neutron driver looks for it.
//!
//! Owns the keys `/calico/felix/v2/<region>/host/<host>/workload/…` of this host. They have no lease: what was
//! reported stays while the agent is away. Values and urgency come from the plan, the pace from the publisher. The
//! agent runs it if its datastore is etcd; nothing is written while `EndpointReportingEnabled` is off,
//! or the datastore is not ready.

use super::plan::Planner;
use super::publisher::{Outcome, Page, Publisher, Store};
use super::{Inputs, parse};
use crate::datastore::etcd::{Keys, Member, RequestError, Writer};
use cutover_engine::Fact;
use cutover_engine::model::EndpointKey;
use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, Txn, TxnOp};
use tokio::sync::mpsc;

/// LIMIT: keys of one answer; a status and its key have some 200 bytes.
const PAGE: i64 = 1000;

/// Keeps the status keys of this host as wanted until the sender of the wanted sets is gone.
pub async fn run(writer: Writer, keys: Keys, inputs: Inputs, facts: mpsc::UnboundedSender<Fact>) {
    let name = {
        let keys = keys.clone();
        move |endpoint: &EndpointKey| keys.status(endpoint)
    };
    let store = StatusKeys::new(writer, &keys);
    Publisher::new(store, Planner::new(name), facts).run(inputs).await;
}

/// The status keys of one host.
#[derive(Clone, Debug)]
pub struct StatusKeys {
    writer: Writer,
    prefix: String,
    /// What the keys of LiveMigrations begin with.
    migrations: String,
}

impl StatusKeys {
    /// Those of the host whose keys these are.
    #[must_use]
    pub fn new(writer: Writer, keys: &Keys) -> Self {
        Self { writer, prefix: keys.statuses(), migrations: keys.migrations() }
    }

    /// Writes a status, unless a LiveMigration was written after the revision `seen`.
    ///
    /// # Errors
    /// When the member cannot be reached or refuses.
    pub async fn report(
        &self,
        key: String,
        value: String,
        seen: Option<i64>,
    ) -> Result<Outcome, RequestError> {
        self.unless_overtaken("report an endpoint status", TxnOp::put(key, value, None), seen).await
    }

    /// Removes one, which need not exist, unless a LiveMigration was written after the revision `seen`.
    ///
    /// # Errors
    /// When the member cannot be reached or refuses.
    pub async fn withdraw(&self, key: String, seen: Option<i64>) -> Result<Outcome, RequestError> {
        self.unless_overtaken("remove an endpoint status", TxnOp::delete(key, None), seen).await
    }

    /// Does something in one transaction with the question whether a LiveMigration was written after this revision. A driver
    /// that begins a migration takes any `up` that comes then for its target's.
    async fn unless_overtaken(
        &self,
        step: &'static str,
        what: TxnOp,
        seen: Option<i64>,
    ) -> Result<Outcome, RequestError> {
        let is_seen = seen.map(|seen| {
            Compare::mod_revision(self.migrations.as_str(), CompareOp::Less, seen.saturating_add(1))
                .with_prefix()
        });
        let transaction = Txn::new().when(is_seen.into_iter().collect::<Vec<_>>()).and_then([what]);
        let ask = |member: Member| async move { member.kv().txn(transaction).await };
        let answer = self.writer.request(step, ask).await?;
        Ok(if answer.succeeded() { Outcome::Done } else { Outcome::Overtaken })
    }
}

impl Store for StatusKeys {
    type Error = RequestError;

    async fn page(&self, from: Option<String>) -> Result<Page, RequestError> {
        let from = from.unwrap_or_else(|| self.prefix.clone());
        let options = GetOptions::new().with_range(end_of(&self.prefix)).with_limit(PAGE);
        let get = |member: Member| async move { member.kv().get(from, Some(options)).await };
        let answer: GetResponse = self.writer.request("read the reported statuses", get).await?;
        let mut page = Page::default();
        for pair in answer.kvs() {
            // A key that is not text cannot be one of ours.
            let Ok(name) = pair.key_str() else { continue };
            page.statuses.insert(name.to_owned(), parse(pair.value()));
        }
        if let (true, Some(last)) = (answer.more(), answer.kvs().last()) {
            page.next = Some(format!("{}\0", String::from_utf8_lossy(last.key())));
        }
        Ok(page)
    }

    async fn write(&self, name: String, value: String, seen: Option<i64>) -> Result<Outcome, RequestError> {
        self.report(name, value, seen).await
    }

    async fn remove(&self, name: String, seen: Option<i64>) -> Result<Outcome, RequestError> {
        self.withdraw(name, seen).await
    }
}

/// The first key after all that begin with `prefix`, which ends with a slash.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.trim_end_matches('/').to_owned();
    end.push('0');
    end
}
