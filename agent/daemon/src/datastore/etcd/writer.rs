//! A connection for writes, replaced after a failure by one to the next member.
//!
//! The reader has a connection of its own, so that a burst of writes never delays what it hears. The publisher of
//! statuses and the heartbeat share this one. It decides nothing and repeats nothing.

use super::{Cluster, Member, RequestError};
use std::sync::Arc;
use tokio::sync::Mutex;

/// Writes to whichever member answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Writer {
    cluster: Cluster,
    current: Arc<Mutex<Current>>,
}

#[derive(Debug, Default)]
struct Current {
    member: Option<Member>,
    /// Counts the connections, so that requests that fail together give up one of them only.
    number: usize,
}

impl Writer {
    /// Connects when something is written for the first time.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, current: Arc::default() }
    }

    /// Makes one request; after a failure the next one goes to another member.
    ///
    /// A request that is given up by its caller counts as failed.
    ///
    /// # Errors
    /// When the member cannot be reached or refuses.
    pub async fn request<T, F>(
        &self,
        step: &'static str,
        make: impl FnOnce(Member) -> F,
    ) -> Result<T, RequestError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let (member, number) = self.member().await?;
        let mut attempt = Attempt { writer: self, number, failed: true };
        let result = member.ask(step, make(member.clone())).await;
        attempt.failed = result.is_err();
        result
    }

    async fn member(&self) -> Result<(Member, usize), RequestError> {
        let mut current = self.current.lock().await;
        if let Some(member) = &current.member {
            return Ok((member.clone(), current.number));
        }
        // ORDER: counted before the attempt, which may be given up: a member that does not answer is not asked again.
        current.number += 1;
        let endpoints = self.cluster.endpoints();
        let member = self.cluster.connect(&endpoints[current.number % endpoints.len()]).await?;
        current.member = Some(member.clone());
        Ok((member, current.number))
    }
}

struct Attempt<'a> {
    writer: &'a Writer,
    number: usize,
    failed: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.failed {
            return;
        }
        // Whoever holds the lock is about to replace the connection or has just taken it; in the second case the
        // next failure gives it up.
        if let Ok(mut current) = self.writer.current.try_lock()
            && current.number == self.number
        {
            current.member = None;
        }
    }
}
