//! Resource files, read and changed one resource at a time; every change is a rename.

use super::stamp;
use super::{NAMESPACE, Picture, Reported, Store, StoredMigration, goes_to};
use crate::cli::Failure;
use cutover_daemon::datastore::resource::Resource;
use cutover_daemon::datastore::{Document, ResourceId, read_file, resource_files};
use cutover_engine::model::{EndpointKey, LiveMigration};
use serde_json::Value;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A directory datastore that can be written.
pub(super) struct Files {
    root: PathBuf,
    /// Where the target's agent writes its status files.
    status_dir: PathBuf,
    held: Option<Held>,
}

/// What was found in it.
struct Scan {
    files: Vec<(PathBuf, String, Vec<Document>)>,
}

impl Scan {
    /// Endpoints, each once.
    fn endpoints(&self) -> impl Iterator<Item = &EndpointKey> {
        let mut seen = std::collections::BTreeSet::new();
        let keys = self.resources().filter_map(|(_, resource)| match resource {
            Resource::Endpoint(key, _) => Some(key),
            _ => None,
        });
        keys.filter(move |key| seen.insert(*key))
    }

    /// Migrations with their names, each once.
    fn migrations(&self) -> impl Iterator<Item = (&Path, &str, &LiveMigration)> {
        let mut seen = std::collections::BTreeSet::new();
        let migrations = self.resources().filter_map(|(path, resource)| match resource {
            Resource::Migration(name, migration) => Some((path, name.as_str(), migration)),
            _ => None,
        });
        migrations.filter(move |(_, name, _)| seen.insert(*name))
    }

    /// Those that are meant, for whoever asked.
    fn stored(&self, is_meant: impl Fn(&LiveMigration) -> bool) -> Vec<StoredMigration> {
        let migrations = self.migrations().filter(|(_, _, migration)| is_meant(migration));
        let migrations = migrations.map(|(path, name, migration)| StoredMigration {
            place: path.display().to_string(),
            name: name.to_owned(),
            migration: migration.clone(),
        });
        migrations.collect()
    }

    /// The file that an endpoint is in.
    fn endpoint_path(&self, key: &EndpointKey) -> Option<&Path> {
        let id = ResourceId::Endpoint(key.clone());
        self.find(&id).next().map(|(path, _, _, _)| path)
    }

    /// The document of an endpoint as it is written.
    fn endpoint_value(&self, key: &EndpointKey) -> Result<Value, Failure> {
        let id = ResourceId::Endpoint(key.clone());
        let (path, text, _, document) =
            self.find(&id).next().ok_or_else(|| Failure::other(format!("{id} is in no file")))?;
        if let Some(item) = &document.item {
            return Ok(item.clone());
        }
        let body = &text[document.body.clone()];
        serde_norway::from_str(body).map_err(|error| refuse(path, "cannot be copied", error))
    }

    fn resources(&self) -> impl Iterator<Item = (&Path, &Resource)> {
        let documents =
            self.files.iter().flat_map(|(path, _, documents)| documents.iter().map(move |d| (path, d)));
        documents.map(|(path, document)| (path.as_path(), &document.parsed.resource))
    }

    /// Only whole documents can be taken out of a file: to take an item out of a list is to write somebody's list anew.
    fn refuse_items(&self, id: &ResourceId) -> Result<(), Failure> {
        match self.find(id).find(|(_, _, _, document)| document.item.is_some()) {
            Some((path, ..)) => Err(Failure::other(format!(
                "{}: {id} is an item of a list and cannot be removed alone; put it into a document of its own",
                path.display()
            ))),
            None => Ok(()),
        }
    }

    /// Every definition of a resource.
    fn find(&self, id: &ResourceId) -> impl Iterator<Item = (&Path, &str, usize, &Document)> + use<'_> {
        let id = id.clone();
        let all = self.files.iter().flat_map(|(path, text, documents)| {
            documents.iter().map(move |document| (path.as_path(), text.as_str(), documents.len(), document))
        });
        all.filter(move |(_, _, _, document)| ResourceId::of(&document.parsed.resource).as_ref() == Some(&id))
    }
}

/// An endpoint that is away for a moment. Its document waits under a hidden name, so that it is not lost if this process is.
struct Held {
    hidden: PathBuf,
    path: PathBuf,
}

impl Store for Files {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn status_place(&self, endpoint: &EndpointKey) -> String {
        self.status_path(endpoint).display().to_string()
    }

    fn namespace(&self) -> String {
        NAMESPACE.to_owned()
    }

    /// A file that is written again belongs to whoever wrote it last.
    fn repeats(&self) -> bool {
        false
    }

    fn look(&mut self, port: &str) -> Result<Picture, Failure> {
        self.picture(|key| key.endpoint == port)
    }

    fn look_for_machine(&mut self, workload: &str) -> Result<Picture, Failure> {
        self.picture(|key| key.workload == workload)
    }

    fn migrations_to(&mut self, host: &str) -> Result<Vec<StoredMigration>, Failure> {
        Ok(self.scan()?.stored(|migration| goes_to(migration, host)))
    }

    fn endpoint(&mut self, key: &EndpointKey) -> Result<Value, Failure> {
        self.scan()?.endpoint_value(key)
    }

    fn create_migration(&mut self, name: &str, document: &Value) -> Result<(), Failure> {
        self.create("livemigration", name, document)
    }

    fn create_endpoint(&mut self, key: &EndpointKey, document: &Value) -> Result<(), Failure> {
        self.create("workloadendpoint", &key.to_string(), document)
    }

    fn put_endpoint(&mut self, key: &EndpointKey, document: &Value) -> Result<(), Failure> {
        let scan = self.scan()?;
        let id = ResourceId::Endpoint(key.clone());
        match scan.find(&id).next() {
            None => self.create("workloadendpoint", &key.to_string(), document),
            Some((path, _, 1, found)) if found.item.is_none() => write(path, &render(path, document)?),
            Some((path, ..)) => Err(Failure::other(format!(
                "{}: {id} shares the file with other resources and is left as it is; put it into a file of its own",
                path.display()
            ))),
        }
    }

    fn rewrite_migration(&mut self, name: &str) -> Result<(), Failure> {
        self.rewrite(&ResourceId::Migration(name.to_owned()))
    }

    fn rewrite_endpoint(&mut self, key: &EndpointKey) -> Result<(), Failure> {
        self.rewrite(&ResourceId::Endpoint(key.clone()))
    }

    fn remove_migration(&mut self, name: &str) -> Result<(), Failure> {
        self.remove(&ResourceId::Migration(name.to_owned()))
    }

    fn remove_endpoint(&mut self, key: &EndpointKey) -> Result<(), Failure> {
        self.remove(&ResourceId::Endpoint(key.clone()))
    }

    fn take_away(&mut self, key: &EndpointKey) -> Result<(), Failure> {
        let scan = self.scan()?;
        let mut document = scan.endpoint_value(key)?;
        stamp::renew(&mut document)?;
        let id = ResourceId::Endpoint(key.clone());
        scan.refuse_items(&id)?;
        let alone = scan.find(&id).next().filter(|(_, _, documents, _)| *documents == 1);
        let path = match alone {
            Some((path, _, _, _)) => path.to_owned(),
            None => self.root.join(format!("workloadendpoint-{key}.yaml")),
        };
        let hidden = write_hidden(&path, &render(&path, &document)?)?;
        self.held = Some(Held { hidden, path });
        self.remove(&id)
    }

    fn put_back(&mut self) -> Result<(), Failure> {
        let Some(Held { hidden, path }) = self.held.take() else { return Ok(()) };
        fs::rename(&hidden, &path).map_err(|error| refuse_access(&path, "cannot be created", &error))
    }

    fn reported(&mut self, migration: &str, target: &EndpointKey) -> Result<Reported, Failure> {
        let path = self.status_path(target);
        let read = || -> io::Result<(Vec<u8>, SystemTime)> {
            Ok((fs::read(&path)?, fs::metadata(&path)?.modified()?))
        };
        let (bytes, written_at) = match read() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!("{}: cannot read the status: {error}; use sudo", path.display());
                return Err(Failure::privilege(text));
            }
            Err(_) => return Ok(Reported::Nothing),
        };
        let document: Option<Value> = serde_json::from_slice(&bytes).ok();
        let status = document.and_then(|document| Some(document.get("status")?.as_str()?.to_owned()));
        let Some(status) = status else { return Ok(Reported::Nothing) };
        let since = self.migration_written_at(migration)?;
        Ok(if since <= written_at { Reported::Since(status) } else { Reported::Before(status) })
    }
}

impl Files {
    pub(super) fn new(root: PathBuf, status_dir: PathBuf) -> Self {
        Self { root, status_dir, held: None }
    }

    fn status_path(&self, endpoint: &EndpointKey) -> PathBuf {
        self.status_dir.join(cutover_daemon::applier::statuses::dir::file_name(endpoint))
    }

    fn picture(&self, is_meant: impl Fn(&EndpointKey) -> bool) -> Result<Picture, Failure> {
        let scan = self.scan()?;
        let path_of = |key| scan.endpoint_path(key).unwrap_or(&self.root).display().to_string();
        let endpoints = scan.endpoints().filter(|key| is_meant(key));
        let endpoints = endpoints.map(|key| (key.clone(), path_of(key))).collect();
        Ok(Picture { endpoints, migrations: scan.stored(|migration| migration.endpoints().any(&is_meant)) })
    }

    /// Reads everything. What the agent would refuse is left out with a warning.
    fn scan(&self) -> Result<Scan, Failure> {
        let paths = resource_files(&self.root).map_err(|error| {
            Failure::configuration(format!("{error}; create it, or name another one with --datastore-dir"))
        })?;
        let mut files = Vec::new();
        for path in paths {
            match read_file(&path) {
                Ok((text, documents)) => files.push((path, text, documents)),
                Err(refusal) => tracing::warn!(file = %path.display(), "resource file left out: {refusal}"),
            }
        }
        Ok(Scan { files })
    }

    /// Writes a resource into a new file of its own.
    fn create(&self, kind: &str, name: &str, document: &Value) -> Result<(), Failure> {
        let path = self.root.join(format!("{kind}-{name}.yaml"));
        if path.symlink_metadata().is_ok() {
            return Err(Failure::other(format!("{}: the file exists already; remove it", path.display())));
        }
        write(&path, &render(&path, document)?)
    }

    /// Writes the file of a resource again, byte by byte.
    fn rewrite(&self, id: &ResourceId) -> Result<(), Failure> {
        let scan = self.scan()?;
        match scan.find(id).next() {
            Some((path, text, _, _)) => write(path, text),
            None => Err(Failure::other(format!("{}: {id} is gone", self.root.display()))),
        }
    }

    /// When the file of a migration was written; long ago if it is gone.
    fn migration_written_at(&self, name: &str) -> Result<SystemTime, Failure> {
        let scan = self.scan()?;
        let id = ResourceId::Migration(name.to_owned());
        let Some((path, _, _, _)) = scan.find(&id).next() else { return Ok(SystemTime::UNIX_EPOCH) };
        fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .map_err(|error| refuse_access(path, "cannot be looked at", &error))
    }

    /// Removes every definition of a resource, one file after the other.
    fn remove(&self, id: &ResourceId) -> Result<(), Failure> {
        loop {
            let scan = self.scan()?;
            scan.refuse_items(id)?;
            let Some((path, text, documents, document)) = scan.find(id).next() else { return Ok(()) };
            if documents == 1 {
                match fs::remove_file(path) {
                    // Somebody else removes it as well: the source's hook and the target's service may.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(refuse_access(path, "cannot be removed", &error));
                    }
                    _ => {}
                }
            } else {
                let rest = [&text[..document.range.start], &text[document.range.end..]].concat();
                write(path, &rest)?;
            }
        }
    }
}

fn refuse(path: &Path, what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::other(format!("{}: {what}: {error}", path.display()))
}

fn refuse_access(path: &Path, what: &str, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Failure::privilege(format!("{}: {what}: {error}; use sudo", path.display()));
    }
    if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
        let folder = path.parent().unwrap_or(path).display();
        return Failure::configuration(format!(
            "{}: {what}: {error}; make it writable. If it is read-only for a service of systemd's alone, write \
             ReadWritePaths={folder} below [Service] in systemctl edit cutover-libvirt, and restart the service",
            path.display()
        ));
    }
    refuse(path, what, error)
}

fn render(path: &Path, document: &Value) -> Result<String, Failure> {
    if path.extension().is_some_and(|extension| extension == "json") {
        return Ok(format!("{document:#}\n"));
    }
    serde_norway::to_string(document).map_err(|error| refuse(path, "cannot be written as YAML", error))
}

/// Replaces a file as a whole; the agent sees the old text or the new one. A link stays a link.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    remove_leftovers(&target);
    let hidden = write_hidden(&target, text)?;
    fs::rename(&hidden, &target).map_err(|error| {
        let _ = fs::remove_file(&hidden);
        refuse_access(&target, "cannot be replaced", &error)
    })
}

/// Removes what a process that was ended in the middle of writing this file has left beside it. What cannot be removed is in nobody's way.
fn remove_leftovers(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let prefix = format!(".{}.", name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let hidden = entry.file_name();
        let writer: Option<u32> =
            hidden.to_str().and_then(|hidden| hidden.strip_prefix(&prefix)?.parse().ok());
        if writer.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a text under a name beside `path` that the agent does not look at, with the permissions of `path`.
fn write_hidden(path: &Path, text: &str) -> Result<PathBuf, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let attempt = || -> io::Result<()> {
        let mut file = fs::File::create(&hidden)?;
        if let Ok(metadata) = fs::metadata(path) {
            file.set_permissions(metadata.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    attempt().map_err(|error| {
        let _ = fs::remove_file(&hidden);
        refuse_access(&hidden, "cannot be written", &error)
    })?;
    Ok(hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_file_system_is_said_with_what_to_write_into_the_unit() {
        let error = io::Error::from_raw_os_error(libc::EROFS);
        let text = refuse_access(Path::new("/srv/ports/a.yaml"), "cannot be written", &error).to_string();
        assert!(text.starts_with("/srv/ports/a.yaml: cannot be written: "), "{text}");
        assert!(text.contains("ReadWritePaths=/srv/ports below [Service]"), "{text}");
    }

    #[test]
    fn what_a_writer_that_was_ended_has_left_is_removed_by_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // KERNEL: no process has such a number (PID_MAX_LIMIT is 4194304).
        let of_nobody = path(".a.yaml.4294967295");
        let of_somebody = path(&format!(".a.yaml.{}", std::os::unix::process::parent_id()));
        let (of_another_file, no_number) = (path(".b.yaml.4294967295"), path(".a.yaml.swp"));
        for file in [&of_nobody, &of_somebody, &of_another_file, &no_number] {
            fs::write(file, "half").unwrap();
        }
        write(&path("a.yaml"), "whole\n").unwrap();
        assert_eq!(fs::read_to_string(path("a.yaml")).unwrap(), "whole\n");
        assert!(!of_nobody.exists());
        assert!(of_somebody.exists() && of_another_file.exists() && no_number.exists());
    }
}
