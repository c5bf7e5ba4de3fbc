//! Resources in etcd, read and changed one key at a time with the driver's comparisons.
//!
//! A resource is created only where there is none, and rewritten or removed only as it was read; if somebody else was
//! quicker it is read anew, as often as the driver does.

use super::stamp;
use super::{Picture, Reported, Store, StoredMigration, goes_to};
use crate::cli::Failure;
use cutover_daemon::datastore::etcd::{Cluster, Key, Keys, Member, RequestError};
use cutover_daemon::datastore::resource::{self, Format, Resource};
use cutover_engine::model::{EndpointKey, LiveMigration};
use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, Txn, TxnOp};
use serde_json::Value;
use tokio::runtime::Runtime;

/// LIMIT: attempts to write what somebody else changes meanwhile; as the driver.
const ATTEMPTS: usize = 5;

/// LIMIT: keys of one answer.
const PAGE: i64 = 1000;

/// An etcd cluster that can be written.
pub(super) struct ClusterStore {
    runtime: Runtime,
    member: Member,
    keys: Keys,
    held: Option<(String, Value)>,
}

fn unavailable(error: RequestError) -> Failure {
    Failure::unavailable(format!("{error}; see whether etcd runs and EtcdEndpoints names its members"))
}

impl ClusterStore {
    /// Connects to a member that answers, the one with number `first` if it does.
    pub(super) fn connect(cluster: &Cluster, keys: Keys, first: usize) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))?;
        let member = runtime.block_on(cluster.connect_any(first)).map_err(unavailable)?;
        Ok(Self { runtime, member, keys, held: None })
    }

    fn range(&self, from: &str, options: GetOptions) -> Result<GetResponse, Failure> {
        let mut kv = self.member.kv();
        let request = self.member.ask("read", kv.get(from, Some(options)));
        self.runtime.block_on(request).map_err(unavailable)
    }

    fn get(&self, key: &str) -> Result<Option<KeyValue>, Failure> {
        Ok(self.range(key, GetOptions::new())?.take_kvs().into_iter().next())
    }

    /// Every key that begins with `prefix`, as of one moment.
    fn list(&self, prefix: &str, with_values: bool) -> Result<Vec<KeyValue>, Failure> {
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let (mut from, mut revision, mut all) = (prefix.to_owned(), 0, Vec::new());
        loop {
            let mut options =
                GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            if !with_values {
                options = options.with_keys_only();
            }
            let mut page = self.range(&from, options)?;
            revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
            let more = page.more();
            all.append(&mut page.take_kvs());
            match all.last() {
                Some(last) if more => from = format!("{}\0", String::from_utf8_lossy(last.key())),
                _ => return Ok(all),
            }
        }
    }

    /// Does something to a key if it is still as it was. Says whether it was.
    fn change(&self, key: &str, compare: Compare, operation: TxnOp) -> Result<bool, Failure> {
        let mut kv = self.member.kv();
        let transaction = Txn::new().when([compare]).and_then([operation]);
        let answer = self.runtime.block_on(self.member.ask("write", kv.txn(transaction)));
        match answer {
            Ok(answer) => Ok(answer.succeeded()),
            Err(error) => {
                Err(unavailable(error)).map_err(|failure| Failure::unavailable(format!("{key}: {failure}")))
            }
        }
    }

    fn create(&self, key: &str, document: &Value) -> Result<(), Failure> {
        let absent = Compare::version(key, CompareOp::Equal, 0);
        match self.change(key, absent, TxnOp::put(key, document.to_string(), None))? {
            true => Ok(()),
            false => Err(Failure::other(format!("{key}: the key exists already; remove it"))),
        }
    }

    fn rewrite(&self, key: &str) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let Some(pair) = self.get(key)? else {
                return Err(Failure::other(format!("{key}: the key is gone")));
            };
            if self.change(key, unchanged(&pair), TxnOp::put(key, pair.value(), None))? {
                return Ok(());
            }
        }
        Err(contended(key))
    }

    fn remove(&self, key: &str) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let Some(pair) = self.get(key)? else { return Ok(()) };
            if self.change(key, unchanged(&pair), TxnOp::delete(key, None))? {
                return Ok(());
            }
        }
        Err(contended(key))
    }

    fn document(&self, key: &str) -> Result<Value, Failure> {
        let pair = self.get(key)?.ok_or_else(|| Failure::other(format!("{key}: the key is gone")))?;
        serde_json::from_slice(pair.value())
            .map_err(|error| Failure::other(format!("{key}: the value cannot be copied: {error}")))
    }

    /// Writes a key, whatever is there.
    fn put(&self, key: &str, document: &Value) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let before = match self.get(key)? {
                Some(pair) => unchanged(&pair),
                None => Compare::version(key, CompareOp::Equal, 0),
            };
            if self.change(key, before, TxnOp::put(key, document.to_string(), None))? {
                return Ok(());
            }
        }
        Err(contended(key))
    }

    fn migrations(&self, is_meant: impl Fn(&LiveMigration) -> bool) -> Result<Vec<StoredMigration>, Failure> {
        let mut found = Vec::new();
        for pair in self.list(&self.keys.migrations(), true)? {
            let place = String::from_utf8_lossy(pair.key()).into_owned();
            let Some(Key::Migration(name)) = self.keys.parse(&place) else { continue };
            let text = String::from_utf8_lossy(pair.value());
            match resource::parse(&text, Format::Json) {
                Ok(parsed) => {
                    if let Resource::Migration(_, migration) = parsed.resource
                        && is_meant(&migration)
                    {
                        found.push(StoredMigration { place, name, migration });
                    }
                }
                Err(refusal) => tracing::warn!(key = place, "LiveMigration left out: {refusal}"),
            }
        }
        Ok(found)
    }

    fn picture(&self, is_meant: impl Fn(&EndpointKey) -> bool) -> Result<Picture, Failure> {
        let keys = self.list(&self.keys.endpoints(), false)?;
        let endpoints = keys.iter().filter_map(|pair| {
            let place = pair.key_str().ok()?;
            match self.keys.parse(place)? {
                Key::Endpoint(key) if is_meant(&key) => Some((key, place.to_owned())),
                _ => None,
            }
        });
        let endpoints = endpoints.collect();
        Ok(Picture {
            endpoints,
            migrations: self.migrations(|migration| migration.endpoints().any(&is_meant))?,
        })
    }
}

fn unchanged(pair: &KeyValue) -> Compare {
    Compare::mod_revision(pair.key(), CompareOp::Equal, pair.mod_revision())
}

fn contended(key: &str) -> Failure {
    Failure::other(format!("{key}: somebody else keeps changing the key; {ATTEMPTS} attempts failed"))
}

impl Store for ClusterStore {
    fn place(&self) -> String {
        format!("etcd {}", self.member.endpoint())
    }

    fn status_place(&self, endpoint: &EndpointKey) -> String {
        self.keys.status(endpoint)
    }

    fn namespace(&self) -> String {
        self.keys.namespace()
    }

    fn repeats(&self) -> bool {
        true
    }

    fn look(&mut self, port: &str) -> Result<Picture, Failure> {
        self.picture(|key| key.endpoint == port)
    }

    fn look_for_machine(&mut self, workload: &str) -> Result<Picture, Failure> {
        self.picture(|key| key.workload == workload)
    }

    fn migrations_to(&mut self, host: &str) -> Result<Vec<StoredMigration>, Failure> {
        self.migrations(|migration| goes_to(migration, host))
    }

    fn endpoint(&mut self, key: &EndpointKey) -> Result<Value, Failure> {
        self.document(&self.keys.endpoint(key))
    }

    fn create_migration(&mut self, name: &str, document: &Value) -> Result<(), Failure> {
        self.create(&self.keys.migration(name), document)
    }

    fn create_endpoint(&mut self, key: &EndpointKey, document: &Value) -> Result<(), Failure> {
        self.create(&self.keys.endpoint(key), document)
    }

    fn put_endpoint(&mut self, key: &EndpointKey, document: &Value) -> Result<(), Failure> {
        self.put(&self.keys.endpoint(key), document)
    }

    fn rewrite_migration(&mut self, name: &str) -> Result<(), Failure> {
        self.rewrite(&self.keys.migration(name))
    }

    fn rewrite_endpoint(&mut self, key: &EndpointKey) -> Result<(), Failure> {
        self.rewrite(&self.keys.endpoint(key))
    }

    fn remove_migration(&mut self, name: &str) -> Result<(), Failure> {
        self.remove(&self.keys.migration(name))
    }

    fn remove_endpoint(&mut self, key: &EndpointKey) -> Result<(), Failure> {
        self.remove(&self.keys.endpoint(key))
    }

    /// If this process dies before it puts the endpoint back, the endpoint is lost, as with a driver that dies.
    fn take_away(&mut self, key: &EndpointKey) -> Result<(), Failure> {
        let key = self.keys.endpoint(key);
        let mut document = self.document(&key)?;
        stamp::renew(&mut document)?;
        self.remove(&key)?;
        self.held = Some((key, document));
        Ok(())
    }

    fn put_back(&mut self) -> Result<(), Failure> {
        match self.held.take() {
            Some((key, document)) => self.create(&key, &document),
            None => Ok(()),
        }
    }

    /// Revisions tell what was written since: also a `up` that was there before and was written again.
    fn reported(&mut self, migration: &str, target: &EndpointKey) -> Result<Reported, Failure> {
        let Some(pair) = self.get(&self.keys.status(target))? else { return Ok(Reported::Nothing) };
        let document: Option<Value> = serde_json::from_slice(pair.value()).ok();
        let status = document.and_then(|document| Some(document.get("status")?.as_str()?.to_owned()));
        let Some(status) = status else { return Ok(Reported::Nothing) };
        let began = self.get(&self.keys.migration(migration))?.map_or(0, |pair| pair.create_revision());
        Ok(if pair.mod_revision() > began { Reported::Since(status) } else { Reported::Before(status) })
    }
}
