//! Endpoint status of the directory datastore: `<CutoverRunDir>/status/<endpoint>.json`.
//!
//! Owns that directory. Writes what is wanted and differs from what is there, each file atomically, removes files of endpoints
//! that are not wanted any more, and restores what somebody else took away. It decides no status. The agent runs it beside the
//! other appliers; a datastore with another way of reporting gets its own publisher with the same input.

use super::{BackOff, WantedReceiver};
use cutover_engine::Wanted;
use cutover_engine::wanted::Status;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Sub-folder of the run directory.
pub const DIRECTORY: &str = "status";

/// LIMIT: how long a file that somebody removed or changed can stay wrong; nothing in the data plane depends on it.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// A status file could not be read, written or removed.
#[derive(Debug, Error)]
#[error("{path}: cannot bring the status up to date: {error}", path = path.display())]
pub struct StatusError {
    /// The file or the directory.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// The value that Neutron's driver understands.
#[derive(Serialize, Deserialize)]
struct Document {
    status: String,
}

/// Keeps the status files as wanted until the sender of the wanted sets is gone.
pub async fn run(run_dir: PathBuf, mut wanted: WantedReceiver) {
    let directory = run_dir.join(DIRECTORY);
    let mut back_off = BackOff::new();
    loop {
        let newest = wanted.borrow_and_update().clone();
        let pause = match newest.map(|wanted| reconcile(&directory, &wanted)) {
            None => None,
            Some(Ok(())) => {
                back_off.reset();
                Some(COMPARE_EVERY)
            }
            Some(Err(error)) => {
                tracing::warn!("{error}; it is tried again");
                Some(back_off.next_pause())
            }
        };
        let changed = match pause {
            None => wanted.changed().await,
            Some(pause) => tokio::time::timeout(pause, wanted.changed()).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Closes the difference between the files and what is wanted. Everything is attempted; the first failure is returned.
///
/// # Errors
/// When a file or the directory could not be read, written or removed.
pub fn reconcile(directory: &Path, wanted: &Arc<Wanted>) -> Result<(), StatusError> {
    let refuse = |path: &Path| {
        let path = path.to_owned();
        move |error| StatusError { path, error }
    };
    fs::create_dir_all(directory).map_err(refuse(directory))?;
    let observed = observe(directory).map_err(refuse(directory))?;
    let plan = plan(wanted, &observed);
    let mut result = Ok(());
    for (name, status) in &plan.write {
        let path = directory.join(name);
        result = result.and(write(directory, name, status).map_err(refuse(&path)));
    }
    for name in &plan.remove {
        let path = directory.join(name);
        result = result.and(remove(&path).map_err(refuse(&path)));
    }
    result
}

/// File names with the status in them; nothing for a file that holds something else.
type Observed = BTreeMap<String, Option<String>>;

#[derive(PartialEq, Eq, Debug, Default)]
struct Plan {
    write: BTreeMap<String, &'static str>,
    remove: BTreeSet<String>,
}

fn plan(wanted: &Wanted, observed: &Observed) -> Plan {
    let mut plan = Plan { write: BTreeMap::new(), remove: observed.keys().cloned().collect() };
    for (key, status) in &wanted.statuses {
        let name = format!("{key}.json");
        plan.remove.remove(&name);
        let text = match status {
            Status::Up => "up",
            Status::Down => "down",
            Status::AsReported => continue,
        };
        if observed.get(&name).and_then(Option::as_deref) != Some(text) {
            plan.write.insert(name, text);
        }
    }
    plan
}

fn observe(directory: &Path) -> io::Result<Observed> {
    let mut observed = Observed::new();
    for entry in fs::read_dir(directory)? {
        // Names are made of endpoint names; whatever is not text is not ours, nor are hidden files.
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name.ends_with(".json") && !name.starts_with('.') {
            let document = fs::read(directory.join(&name)).ok();
            let document = document.and_then(|bytes| serde_json::from_slice::<Document>(&bytes).ok());
            observed.insert(name, document.map(|document| document.status));
        }
    }
    Ok(observed)
}

fn write(directory: &Path, name: &str, status: &str) -> io::Result<()> {
    let hidden = directory.join(format!(".{name}"));
    let text = serde_json::to_string(&Document { status: status.to_owned() })?;
    fs::write(&hidden, text)?;
    fs::rename(&hidden, directory.join(name))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::model::EndpointKey;
    use tokio::sync::watch;

    fn wanted(statuses: &[(&str, Status)]) -> Arc<Wanted> {
        let key = |endpoint: &str| EndpointKey {
            host: "host-1".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/vm1".into(),
            endpoint: endpoint.into(),
        };
        let statuses = statuses.iter().map(|(endpoint, status)| (key(endpoint), *status)).collect();
        Arc::new(Wanted { statuses, ..Wanted::default() })
    }

    fn contents(directory: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(&path).unwrap())
            })
            .collect()
    }

    fn expected(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    const UP: &str = r#"{"status":"up"}"#;
    const DOWN: &str = r#"{"status":"down"}"#;

    #[test]
    fn files_become_what_is_wanted() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(DIRECTORY);
        reconcile(&directory, &wanted(&[("a", Status::Up), ("b", Status::Down), ("c", Status::AsReported)]))
            .unwrap();
        let name = |endpoint: &str| format!("host--1-openstack-vm1-{endpoint}.json");
        assert_eq!(contents(&directory), expected(&[(&name("a"), UP), (&name("b"), DOWN)]));

        // Somebody removes one, damages another and leaves one that belongs to nobody.
        fs::remove_file(directory.join(name("a"))).unwrap();
        fs::write(directory.join(name("b")), "half").unwrap();
        fs::write(directory.join("other.json"), UP).unwrap();
        fs::write(directory.join("README"), "not ours").unwrap();
        reconcile(&directory, &wanted(&[("a", Status::Up), ("b", Status::Up)])).unwrap();
        let all = [(name("a"), UP), (name("b"), UP), ("README".to_owned(), "not ours")];
        let all: Vec<_> = all.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        assert_eq!(contents(&directory), expected(&all));

        // What was reported stays while the engine does not want to say anything new.
        reconcile(&directory, &wanted(&[("a", Status::AsReported)])).unwrap();
        assert_eq!(contents(&directory), expected(&[(&name("a"), UP), ("README", "not ours")]));
    }

    #[test]
    fn what_is_right_is_not_written_again() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().unwrap();
        let wanted = wanted(&[("a", Status::Up)]);
        reconcile(root.path(), &wanted).unwrap();
        let path = root.path().join("host--1-openstack-vm1-a.json");
        let before = fs::metadata(&path).unwrap();
        reconcile(root.path(), &wanted).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    }

    #[test]
    fn one_failure_does_not_stop_the_others() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("host--1-openstack-vm1-a.json")).unwrap();
        let error = reconcile(root.path(), &wanted(&[("a", Status::Up), ("b", Status::Up)])).unwrap_err();
        assert!(error.to_string().contains("vm1-a.json"), "{error}");
        assert_eq!(fs::read_to_string(root.path().join("host--1-openstack-vm1-b.json")).unwrap(), UP);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_touched_before_there_is_something_wanted() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(DIRECTORY);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("left.json"), UP).unwrap();
        let (sender, receiver) = watch::channel(None);
        let publisher = tokio::spawn(run(root.path().to_owned(), receiver));
        tokio::time::sleep(COMPARE_EVERY * 2).await;
        assert_eq!(contents(&directory), expected(&[("left.json", UP)]));

        sender.send(Some(wanted(&[("a", Status::Up)]))).unwrap();
        let name = "host--1-openstack-vm1-a.json";
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(contents(&directory), expected(&[(name, UP)]));

        // Taken away by somebody else: back at the next comparison.
        fs::remove_file(directory.join(name)).unwrap();
        tokio::time::sleep(COMPARE_EVERY).await;
        assert_eq!(contents(&directory), expected(&[(name, UP)]));

        drop(sender);
        publisher.await.unwrap();
    }
}
