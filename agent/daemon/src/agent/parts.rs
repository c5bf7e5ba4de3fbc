//! The tasks that the daemon is made of, and the word that one of them has ended.
//!
//! None of them ends before the loop does. One that does all the same, by a defect, would leave a daemon that looks
//! alive and does half of its work: the loop then stops, so that the service manager starts everything anew.

use crate::priority::raise_priority;
use crate::progress::Progress;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};

/// A part of the daemon ended although nobody asked it to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{part} ended unasked ({reason}); stopping so that the service manager starts the agent anew")]
pub struct PartEnded {
    /// Which one.
    pub part: &'static str,
    /// What is known about why.
    pub reason: String,
}

impl PartEnded {
    /// A part that is known to be gone because it says nothing any more.
    pub(super) fn silent(part: &'static str) -> Self {
        Self { part, reason: "it has nothing more to say".to_owned() }
    }
}

/// The running tasks. Dropping this ends them.
#[derive(Debug, Default)]
pub(super) struct Parts {
    progress: Progress,
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    pub(super) fn start(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.progress.of(name, task);
        self.spawn(name, task);
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// What shows whether they make progress, and takes others in.
    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// The same on a thread of its own, in the network namespace of the calling thread: for whoever waits within system calls, where
    /// the kernel's lock of links (RTNL) can keep him for a large part of a second. The daemon's threads are few, and go on.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start_apart(
        &mut self,
        name: &'static str,
        thread: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        self.start_on_thread(name, thread, runtime, || {}, task)
    }

    /// The same, for whoever has to act at once, and may use sockets: it waits with a real-time priority, and does with an ordinary one what takes long
    /// ([`crate::priority`]).
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start_prompt(
        &mut self,
        name: &'static str,
        thread: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        self.start_on_thread(name, thread, runtime, || raise_priority(Duration::ZERO), task)
    }

    fn start_on_thread(
        &mut self,
        name: &'static str,
        thread: &'static str,
        runtime: Runtime,
        prepare: impl FnOnce() + Send + 'static,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let task = self.progress.of(name, task);
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let (ended_in, ended) = oneshot::channel();
        std::thread::Builder::new().name(thread.into()).spawn(move || {
            let until_stopped = async {
                tokio::select! {
                    () = task => {}
                    _ = stopped => {}
                }
            };
            let run = || {
                prepare();
                runtime.block_on(until_stopped);
            };
            let result = catch_unwind(AssertUnwindSafe(run));
            // Nobody waits for it while the daemon stops.
            let _: Result<(), _> = ended_in.send(result);
        })?;
        self.spawn(name, async move {
            // Dropped with this task, which ends the thread as soon as it comes back from the kernel.
            let _stop = stop;
            if let Ok(Err(panic)) = ended.await {
                resume_unwind(panic);
            }
        });
        Ok(())
    }

    /// Waits until one of them ends. Cancelling loses nothing.
    pub(super) async fn ended(&mut self) -> PartEnded {
        let (id, reason) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, "it returned".to_owned()),
            Some(Err(error)) => (error.id(), error.to_string()),
            None => std::future::pending().await,
        };
        PartEnded { part: self.names.get(&id).copied().unwrap_or("a task"), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn first_end(parts: &mut Parts) -> PartEnded {
        tokio::time::timeout(Duration::from_secs(10), parts.ended()).await.expect("a task has ended")
    }

    #[tokio::test]
    async fn a_task_that_panics_is_named_with_its_reason() {
        let mut parts = Parts::default();
        parts.start("the steady one", std::future::pending());
        parts.start("the broken one", async { panic!("out of luck") });
        let ended = first_end(&mut parts).await;
        assert_eq!(ended.part, "the broken one");
        assert!(ended.to_string().contains("out of luck"), "{ended}");
    }

    #[tokio::test]
    async fn a_thread_of_its_own_is_named_with_its_reason_and_ends_with_the_others() {
        let mut parts = Parts::default();
        let (held, dropped) = oneshot::channel::<Infallible>();
        let steady = async move {
            let _held = held;
            std::future::pending().await
        };
        parts.start_apart("the steady one", "steady", steady).unwrap();
        parts.start_apart("the broken one", "broken", async { panic!("out of luck") }).unwrap();
        let ended = first_end(&mut parts).await;
        assert_eq!(ended.part, "the broken one");
        assert!(ended.to_string().contains("out of luck"), "{ended}");
        drop(parts);
        let dropped = tokio::time::timeout(Duration::from_secs(10), dropped).await;
        assert!(dropped.expect("its thread has let it go").is_err());
    }

    #[tokio::test]
    async fn a_task_that_returns_is_named() {
        let mut parts = Parts::default();
        parts.start("the steady one", std::future::pending());
        parts.start("the hasty one", async {});
        assert_eq!(first_end(&mut parts).await.part, "the hasty one");
    }

    #[tokio::test]
    async fn nothing_ends_while_everything_runs() {
        let mut parts = Parts::default();
        let none = tokio::time::timeout(Duration::from_millis(1), parts.ended()).await;
        assert!(none.is_err(), "no task cannot end");
        parts.start("the steady one", std::future::pending());
        assert!(tokio::time::timeout(Duration::from_millis(1), parts.ended()).await.is_err());
    }
}
