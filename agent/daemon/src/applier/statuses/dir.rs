//! Endpoint status of the directory datastore: `<CutoverRunDir>/status/<endpoint>.json`.
//!
//! Owns that directory. Writes what is left to write, each file atomically, removes files of endpoints that are not
//! wanted any more, and restores what somebody else took away. It decides no status. The agent runs it beside the
//! other appliers.

use super::plan::{Action, Observed, Planner, StatusWrite};
use super::{Outcome, StatusCounts, parse, render};
use crate::applier::WantedReceiver;
use crate::retry::BackOff;
use crate::{atomic_file, clock};
use cutover_engine::model::EndpointKey;
use cutover_engine::{Fact, Wanted};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;

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

/// Keeps the status files as wanted until the sender of the wanted sets is gone. Tells the engine of writes that were due.
pub async fn run(
    run_dir: PathBuf,
    mut wanted: WantedReceiver,
    facts: mpsc::UnboundedSender<Fact>,
    counts: StatusCounts,
) {
    let mut files = Files::new(run_dir.join(DIRECTORY), counts);
    let mut back_off = BackOff::new();
    loop {
        let newest = wanted.borrow_and_update().clone();
        let pause = match newest.map(|wanted| files.reconcile(&wanted, &facts)) {
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

/// The file of an endpoint: `<name>.json`, or `<name>@<namespace>.json` in any other namespace than `openstack`. An
/// `@` in a name is doubled, so that no name ends like that by itself.
#[must_use]
pub fn file_name(endpoint: &EndpointKey) -> String {
    let name = endpoint.to_string().replace('@', "@@");
    match endpoint.workload.split_once('/') {
        Some((namespace, _)) if namespace != "openstack" => {
            format!("{name}@{}.json", namespace.replace('@', "@@"))
        }
        _ => format!("{name}.json"),
    }
}

/// The directory of status files.
struct Files {
    directory: PathBuf,
    planner: Planner,
    counts: StatusCounts,
}

impl Files {
    fn new(directory: PathBuf, counts: StatusCounts) -> Self {
        Self { directory, planner: Planner::new(file_name), counts }
    }

    /// Closes the difference between the files and what is wanted. Everything is attempted; the first failure is returned.
    fn reconcile(&mut self, wanted: &Wanted, facts: &mpsc::UnboundedSender<Fact>) -> Result<(), StatusError> {
        let refuse = |path: &Path, error| StatusError { path: path.to_owned(), error };
        let directory = &self.directory;
        // Whatever the umask: one that others may write to is refused at the next start.
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(|error| refuse(directory, error))?;
        let mut observed = observe(directory).map_err(|error| refuse(directory, error))?;
        let mut result = Ok(());
        self.planner.forget();
        self.planner.compare(wanted, &observed);
        let steps: Vec<StatusWrite> = self.planner.left().map(|left| left.to_step()).collect();
        for step in steps {
            let carried_out = carry_out(directory, &step);
            self.counts.note(&carried_out.as_ref().map(|()| Outcome::Done));
            match carried_out {
                Ok(()) => {
                    if let Some(fact) = self.planner.done(&step, clock::now(), &mut observed) {
                        // The agent is about to end if nobody listens.
                        let _: Result<(), _> = facts.send(fact);
                    }
                }
                Err(error) => result = result.and(Err(refuse(&directory.join(&step.name), error))),
            }
        }
        result
    }
}

/// File names with the status in them.
fn observe(directory: &Path) -> io::Result<Observed> {
    let mut observed = Observed::new();
    for entry in fs::read_dir(directory)? {
        // Names are made of endpoint names; whatever is not text is not ours, nor are hidden files.
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name.ends_with(".json") && !name.starts_with('.') {
            let status = fs::read(directory.join(&name)).ok().and_then(|bytes| parse(&bytes));
            observed.insert(name, status);
        }
    }
    Ok(observed)
}

fn carry_out(directory: &Path, step: &StatusWrite) -> io::Result<()> {
    let path = directory.join(&step.name);
    match step.action {
        Action::Write { status, .. } => {
            let hidden = directory.join(format!(".{}", step.name));
            // Neutron's agent is another user.
            atomic_file::replace(&path, &hidden, 0o644, render(status).as_ref())
        }
        Action::Remove => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::BootTime;
    use cutover_engine::wanted::{Status, WantedStatus};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use tokio::sync::watch;

    fn key(endpoint: &str) -> EndpointKey {
        EndpointKey {
            host: "host-1".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/vm1".into(),
            endpoint: endpoint.into(),
        }
    }

    fn wanted(statuses: &[(&str, Status)]) -> Arc<Wanted> {
        let statuses = statuses
            .iter()
            .map(|(endpoint, status)| (Arc::new(key(endpoint)), WantedStatus::of(*status)))
            .collect();
        Arc::new(Wanted { statuses, unknown_statuses_may_go: true, ..Wanted::default() })
    }

    fn reconcile(directory: &Path, wanted: &Wanted) -> Result<(), StatusError> {
        Files::new(directory.to_owned(), StatusCounts::default())
            .reconcile(wanted, &mpsc::unbounded_channel().0)
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
    fn every_endpoint_has_a_file_of_its_own() {
        let default = key("a");
        assert_eq!(file_name(&default), "host--1-openstack-vm1-a.json");
        let east = EndpointKey { workload: "openstack-region-east/vm1".into(), ..key("a") };
        assert_eq!(file_name(&east), "host--1-openstack-vm1-a@openstack-region-east.json");
        let odd = key("a@openstack-region-east");
        assert_eq!(file_name(&odd), "host--1-openstack-vm1-a@@openstack--region--east.json");
    }

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
    fn what_is_due_is_written_once_although_it_is_there() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().unwrap();
        let (sender, mut facts) = mpsc::unbounded_channel();
        let mut files = Files::new(root.path().to_owned(), StatusCounts::default());
        let path = root.path().join("host--1-openstack-vm1-a.json");
        let due_since = BootTime(7);
        let due = WantedStatus { due_since: Some(due_since), ..WantedStatus::of(Status::Up) };
        let due = Wanted { statuses: [(Arc::new(key("a")), due)].into(), ..Wanted::default() };
        files.reconcile(&wanted(&[("a", Status::Up)]), &sender).unwrap();
        assert!(facts.try_recv().is_err(), "nothing was due");
        let mut inodes = vec![fs::metadata(&path).unwrap().ino()];
        for _ in 0..2 {
            files.reconcile(&due, &sender).unwrap();
            inodes.push(fs::metadata(&path).unwrap().ino());
        }
        assert_ne!(inodes[0], inodes[1]);
        assert_eq!(inodes[1], inodes[2]);
        let told = facts.try_recv().unwrap();
        assert!(
            matches!(&told, Fact::StatusWritten { endpoint, due_since: since, .. } if *endpoint == key("a") && *since == due_since),
            "{told:?}"
        );
        assert!(facts.try_recv().is_err(), "told once");
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
        let publisher = tokio::spawn(run(
            root.path().to_owned(),
            receiver,
            mpsc::unbounded_channel().0,
            StatusCounts::default(),
        ));
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
