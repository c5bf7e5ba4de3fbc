//! What is written to a cluster, with the time at which a client that watches hears of it.

use super::{Etcd, Written};
use cutover_daemon::clock;
use cutover_engine::BootTime;
use etcd_client::{Client, EventType, WatchOptions};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// A watch of one member, in a thread of its own. It ends with this value.
#[derive(Debug)]
pub struct Diary {
    heard: Arc<Mutex<Vec<(BootTime, Written)>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Etcd {
    /// Follows every write below `prefix` from now on. Needs a cluster without TLS.
    ///
    /// # Panics
    /// When the watch cannot be made.
    #[must_use]
    pub fn follow_writes(&self, prefix: &str) -> Diary {
        let (namespace, endpoint) = (self.members[0].host.namespace_shared(), self.endpoint());
        let (prefix, heard) = (prefix.to_owned(), Arc::default());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let heard = Arc::clone(&heard);
            move || {
                namespace.run(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    runtime.expect("a runtime").block_on(async {
                        tokio::select! {
                            () = follow(&endpoint, prefix, &heard, ready) => {}
                            _ = stopped => {}
                        }
                    });
                });
            }
        });
        is_ready.recv().expect("the watch is there");
        Diary { heard, stop: Some(stop), thread: Some(thread) }
    }
}

async fn follow(
    endpoint: &str,
    prefix: String,
    heard: &Mutex<Vec<(BootTime, Written)>>,
    ready: std::sync::mpsc::Sender<()>,
) {
    let mut client = Client::connect([endpoint], None).await.expect("a member");
    let options = WatchOptions::new().with_prefix();
    // It returns when the member has made the watch.
    let mut stream = client.watch(prefix, Some(options)).await.expect("a watch");
    ready.send(()).expect("somebody waits for it");
    while let Some(message) = stream.message().await.expect("the member is there") {
        let at = clock::now();
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let value = (event.event_type() == EventType::Put)
                .then(|| String::from_utf8_lossy(kv.value()).into_owned());
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            let written = Written { revision: kv.mod_revision(), key, value };
            heard.lock().expect("nobody panics with the lock").push((at, written));
        }
    }
}

impl Diary {
    /// Everything so far, in the order of revisions.
    ///
    /// # Panics
    /// When the watch has failed.
    #[must_use]
    pub fn heard(&self) -> Vec<(BootTime, Written)> {
        assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the watch has failed");
        self.heard.lock().expect("nobody panics with the lock").clone()
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        // A watch that has failed has ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
