//! Reading everything at one revision.

use super::super::connection::Member;
use super::super::feed::Feed;
use super::super::view::{History, Stored};
use super::super::{Key, OwnStatus};
use super::{Reader, Stop, found, get, is_ready};
use cutover_engine::Fact;
use etcd_client::{GetOptions, ResponseHeader};
use std::collections::BTreeMap;

/// Keys read by one request. LIMIT: some hundred kilobytes, so that other clients of the member are not held up.
const PAGE: i64 = 500;

impl Reader {
    /// Reads everything at one revision and tells the difference. False if it is not ready any more.
    pub(super) async fn read_everything(&mut self, member: &Member, feed: &mut Feed) -> Result<bool, Stop> {
        // ORDER: the other sides of migrations are watched before the revision is chosen.
        let (migrations, _) = self.range(member, feed, &self.keys.migrations(), None).await?;
        for other in self.other_sides(&migrations) {
            if !self.others.keys().contains(&other) {
                self.watch_other(feed, &other).await?;
            }
        }
        let answer = get(member, feed, &self.keys.cluster(), GetOptions::new()).await?;
        if !is_ready(answer.kvs().first()) {
            return Ok(false);
        }
        let (cluster, revision) =
            answer.header().map_or((0, 0), |header| (header.cluster_id(), header.revision()));
        let mut snapshot = BTreeMap::new();
        for prefix in [self.keys.own_endpoints(), self.keys.migrations(), self.keys.configurations()] {
            let (found, _) = self.range(member, feed, &prefix, Some(revision)).await?;
            snapshot.extend(found);
        }
        let mut others = Vec::new();
        for other in self.others.keys() {
            let at = || GetOptions::new().with_revision(revision);
            let answer = get(member, feed, &self.keys.endpoint(&other), at()).await?;
            let endpoint = answer.kvs().first().map(found);
            let written_at = endpoint.as_ref().map(|endpoint| endpoint.mod_revision);
            snapshot.extend(endpoint.map(|endpoint| (Key::Endpoint(other.clone()), endpoint)));
            let answer = get(member, feed, &self.keys.status(&other), at()).await?;
            others.push((other, written_at, answer.kvs().first().map(found)));
        }
        let history = match self.seen {
            Some((before, last)) if before != cluster || last > revision => History::Replaced,
            _ => History::Continued,
        };
        if history == History::Replaced {
            tracing::warn!(
                revision,
                "Datastore was set back or replaced; only what differs in content counts"
            );
        }
        self.seen = Some((cluster, revision));
        let keys = snapshot.len();
        let mut news = self.view.replace(snapshot, history);
        // ORDER: when nothing can fail any more. What has been noted is not news the next time that everything is read.
        for (other, written_at, status) in others {
            // At a start everything is news, and what was told before is remembered.
            let told = written_at.filter(|_| self.times_read > 0 && news.tells_endpoint(&other));
            news.statuses.extend(self.note_status(&other, status.as_ref(), told));
        }
        news.migrations_at = Some(revision);
        if self.times_read > 0 {
            // The publisher may be off.
            let _ = self.outputs.own_statuses.send(OwnStatus::Unknown);
            news.facts.push(Fact::DatastoreFollowed);
        }
        // ORDER: before the news are sent. Whoever asked will ask again; whoever asks from now on is answered.
        while self.questions.try_recv().is_ok() {}
        feed.skip_to(revision);
        self.times_read += 1;
        tracing::info!(
            endpoint = member.endpoint(),
            revision,
            keys,
            quarantined = self.view.quarantined(),
            news = news.facts.len(),
            "Datastore read"
        );
        let named = self.named(&news.facts);
        self.send(news).await?;
        self.outputs.standing.is_good();
        for other in named {
            self.follow_other(member, feed, &other, revision).await?;
        }
        Ok(true)
    }

    async fn range(
        &mut self,
        member: &Member,
        feed: &mut Feed,
        prefix: &str,
        revision: Option<i64>,
    ) -> Result<(BTreeMap<Key, Stored>, i64), Stop> {
        let end = prefix_end(prefix);
        let mut from = prefix.as_bytes().to_vec();
        let mut entries = BTreeMap::new();
        let mut at = revision;
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let options = at.map_or_else(|| options.clone(), |at| options.clone().with_revision(at));
            let mut kv = member.kv();
            let answer = feed.meanwhile("read", kv.get(from.clone(), Some(options))).await?;
            // Pages belong together only at one revision.
            let pinned = *at.get_or_insert_with(|| answer.header().map_or(0, ResponseHeader::revision));
            for kv in answer.kvs() {
                if let Some(key) = self.parse(kv.key()) {
                    entries.insert(key, found(kv));
                }
            }
            match answer.kvs().last() {
                Some(last) if answer.more() => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok((entries, pinned)),
            }
        }
    }
}

/// The first key after all that begin with `prefix`.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // INVARIANT: prefixes end with a slash or a dash, never with the last byte there is.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
