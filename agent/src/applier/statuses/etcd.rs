//! Endpoint status in etcd, where an unmodified Neutron driver looks for it.
//!
//! Owns the keys `/calico/felix/v2/<region>/host/<host>/workload/…` of this host. They have no lease: what was
//! reported stays while the agent is away. Values and urgency come from the plan, the pace from the publisher. The
//! agent runs it if its datastore is etcd; nothing is written while `EndpointReportingEnabled` is off,
//! or the datastore is not ready.

use super::plan::Planner;
use super::publisher::{Page, Publisher, Store};
use super::{Inputs, parse};
use crate::datastore::etcd::{Keys, Member, RequestError, Writer};
use cutover_engine::Fact;
use cutover_engine::model::EndpointKey;
use etcd_client::{DeleteOptions, GetOptions, GetResponse};
use tokio::sync::mpsc;

/// LIMIT: keys of one answer; a status and its key have some 200 bytes.
const PAGE: i64 = 1000;

/// Keeps the status keys of this host as wanted until the sender of the wanted sets is gone.
pub async fn run(writer: Writer, keys: Keys, inputs: Inputs, facts: mpsc::UnboundedSender<Fact>) {
    let name = {
        let keys = keys.clone();
        move |endpoint: &EndpointKey| keys.status(endpoint)
    };
    let store = StatusKeys { writer, prefix: keys.statuses() };
    Publisher::new(store, Planner::new(name), facts).run(inputs).await;
}

/// The status keys of one host.
#[derive(Clone)]
struct StatusKeys {
    writer: Writer,
    prefix: String,
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

    async fn write(&self, name: String, value: String) -> Result<(), RequestError> {
        let put = |member: Member| async move { member.kv().put(name, value, None).await };
        self.writer.request("report an endpoint status", put).await.map(drop)
    }

    async fn remove(&self, name: String) -> Result<(), RequestError> {
        let delete = |member: Member| async move { member.kv().delete(name, None::<DeleteOptions>).await };
        self.writer.request("remove an endpoint status", delete).await.map(drop)
    }
}

/// The first key after all that begin with `prefix`, which ends with a slash.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.trim_end_matches('/').to_owned();
    end.push('0');
    end
}
