//! Following the endpoints and statuses of other hosts that matter here: which ones is said in `others`.

use super::super::Key;
use super::super::connection::Member;
use super::super::feed::{Change, Extent, Feed};
use super::super::others::Others;
use super::super::view::{News, Stored, interpret};
use super::{Reader, Stop, found, get};
use crate::applier::statuses;
use crate::clock;
use crate::datastore::resource::Resource;
use cutover_engine::Fact;
use cutover_engine::model::EndpointKey;
use etcd_client::GetOptions;
use std::collections::BTreeMap;

impl Reader {
    /// The other sides that these facts name for the first time.
    pub(super) fn named(&mut self, facts: &[Fact]) -> Vec<EndpointKey> {
        facts.iter().flat_map(|fact| self.others.note(self.keys.host(), fact)).collect()
    }

    pub(super) fn other_sides(&self, migrations: &BTreeMap<Key, Stored>) -> Vec<EndpointKey> {
        let sides = migrations.iter().filter_map(|(key, found)| match interpret(key, &found.value).ok()?.0 {
            Resource::Migration(_, migration) => Others::other_side(self.keys.host(), &migration),
            _ => None,
        });
        sides.collect()
    }

    pub(super) async fn watch_other(&mut self, feed: &mut Feed, other: &EndpointKey) -> Result<(), Stop> {
        let endpoint = feed.add(&self.keys.endpoint(other), Extent::Exact).await?;
        let status = feed.add(&self.keys.status(other), Extent::Exact).await?;
        self.others.follow(other.clone()).watches = vec![endpoint, status];
        Ok(())
    }

    /// Begins to follow an endpoint of another host in the middle of the stream, at `revision` of it.
    pub(super) async fn follow_other(
        &mut self,
        member: &Member,
        feed: &mut Feed,
        other: &EndpointKey,
        revision: i64,
    ) -> Result<(), Stop> {
        self.watch_other(feed, other).await?;
        let answer = get(member, feed, &self.keys.endpoint(other), GetOptions::new()).await?;
        if let Some(kv) = answer.kvs().first() {
            let change =
                Change { key: kv.key().to_vec(), revision: kv.mod_revision(), found: Some(found(kv)) };
            if kv.mod_revision() <= revision {
                let mut news = News::default();
                self.view.put(&Key::Endpoint(other.clone()), &found(kv), &mut news);
                self.send(news).await?;
            } else {
                feed.insert(change);
            }
        }
        let answer = get(member, feed, &self.keys.status(other), GetOptions::new()).await?;
        match answer.kvs().first() {
            // ORDER: what was written since is taken when its turn comes.
            Some(kv) if kv.mod_revision() > revision => {
                let found = Some(found(kv));
                feed.insert(Change { key: kv.key().to_vec(), revision: kv.mod_revision(), found });
            }
            status => {
                let mut news = News::default();
                news.statuses.extend(self.note_status(other, status.map(found).as_ref(), None));
                self.send(news).await?;
            }
        }
        Ok(())
    }

    /// A status that came and went before everything is read again would never have been there.
    pub(super) fn note_skipped(&mut self, change: &Change) {
        if change.found.is_some()
            && let Some(Key::Status(other)) = self.parse(&change.key)
        {
            self.others.status_skipped(&other);
        }
    }

    /// What there is to tell about another host's status: also where it is known, if its endpoint is told at the same time and is
    /// older, by the revision of that.
    pub(super) fn note_status(
        &mut self,
        other: &EndpointKey,
        found: Option<&Stored>,
        endpoint_told: Option<i64>,
    ) -> Option<Fact> {
        let endpoint = other.clone();
        match found {
            Some(found) => {
                let revision = found.mod_revision;
                self.others.status_read(other, revision, endpoint_told).then(|| {
                    let is_up = statuses::parse(&found.value).as_deref() == Some("up");
                    Fact::StatusReportedElsewhere { endpoint, is_up, revision }
                })
            }
            None => self.others.status_removed(other).then_some(Fact::StatusRemovedElsewhere(endpoint)),
        }
    }

    /// Stops following endpoints that do not matter any more.
    pub(super) async fn tidy(&mut self, feed: &mut Feed, news: &mut News) -> Result<(), Stop> {
        let (view, host) = (&self.view, self.keys.host());
        let matters = |other: &EndpointKey, has_status: bool| {
            let here = EndpointKey { host: host.to_owned(), ..other.clone() };
            (has_status || view.knows(&Key::Endpoint(other.clone()))) && view.knows(&Key::Endpoint(here))
        };
        for (other, followed) in self.others.expire(clock::now(), matters) {
            for id in followed.watches {
                feed.cancel(id).await?;
            }
            self.view.forget(&Key::Endpoint(other), news);
        }
        Ok(())
    }
}
