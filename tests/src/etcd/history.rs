//! Many writes at once, each with a revision of its own as the driver's are, and everything that was ever written, in the
//! order of revisions.

use super::Etcd;
use crate::resources::new_uid;
use etcd_client::{Client, Error, EventType, WatchOptions};
use tokio::task::JoinSet;

/// A write of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Which one.
    pub key: String,
    /// Its value from now on; nothing to delete it. It may be gone already.
    pub value: Option<String>,
}

/// A write as etcd keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// When, in the order of everything in the cluster.
    pub revision: i64,
    /// Which key.
    pub key: String,
    /// Its value; nothing if it was deleted.
    pub value: Option<String>,
}

impl Etcd {
    /// Writes lists of keys. The lists are written at the same time, so nobody knows the order between them; each by itself
    /// keeps its order. Returns when all of it is written.
    pub fn write_lists(&self, lists: Vec<Vec<Write>>) {
        self.ask(move |client| {
            let lists = lists.clone();
            Box::pin(async move {
                let mut writing = JoinSet::new();
                for list in lists {
                    writing.spawn(write_list(client.clone(), list));
                }
                while let Some(written) = writing.join_next().await {
                    written.expect("writing does not panic")?;
                }
                Ok(())
            })
        });
    }

    /// The revision of the last write so far.
    #[must_use]
    pub fn revision(&self) -> i64 {
        let answer = self.ask(|client| Box::pin(client.get("/", None)));
        answer.header().expect("every answer has one").revision()
    }

    /// Every write below `prefix` since the cluster began. Nothing may have been compacted.
    #[must_use]
    pub fn written(&self, prefix: &str) -> Vec<Written> {
        self.written_after(0, prefix)
    }

    /// Every write below `prefix` after this revision. Nothing of it may have been compacted.
    #[must_use]
    pub fn written_after(&self, revision: i64, prefix: &str) -> Vec<Written> {
        // The end of what is to be read: a write of its own.
        let (end, this_one) = (format!("{prefix}~end-of-history"), new_uid());
        self.put(&end, &this_one);
        let prefix = prefix.to_owned();
        self.ask(move |client| {
            let (prefix, end, this_one) = (prefix.clone(), end.clone(), this_one.clone());
            Box::pin(async move {
                let options =
                    WatchOptions::new().with_prefix().with_start_revision(revision + 1).with_fragment();
                let mut stream = client.watch(prefix, Some(options)).await?;
                let mut all: Vec<Written> = Vec::new();
                while let Some(message) = stream.message().await? {
                    for event in message.events() {
                        let Some(kv) = event.kv() else { continue };
                        let key = String::from_utf8_lossy(kv.key()).into_owned();
                        if key == end {
                            if kv.value() == this_one.as_bytes() {
                                return Ok(all);
                            }
                            continue;
                        }
                        let value = (event.event_type() == EventType::Put)
                            .then(|| String::from_utf8_lossy(kv.value()).into_owned());
                        all.push(Written { revision: kv.mod_revision(), key, value });
                    }
                }
                Ok(all)
            })
        })
    }
}

async fn write_list(client: Client, list: Vec<Write>) -> Result<(), Error> {
    let mut kv = client.kv_client();
    for Write { key, value } in list {
        match value {
            Some(value) => drop(kv.put(key, value, None).await?),
            None => drop(kv.delete(key, None).await?),
        }
    }
    Ok(())
}
