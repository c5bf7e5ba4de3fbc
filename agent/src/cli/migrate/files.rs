//! Resource files, read and changed one resource at a time; every change is a rename.

use super::stamp;
use crate::cli::Failure;
use crate::datastore::resource::Resource;
use crate::datastore::{Document, ResourceId, read_file, resource_files};
use cutover_engine::model::{EndpointKey, LiveMigration};
use serde_json::Value;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A directory datastore that can be written.
pub(super) struct Files {
    root: PathBuf,
}

/// What was found in it.
pub(super) struct Scan {
    files: Vec<(PathBuf, String, Vec<Document>)>,
}

impl Scan {
    /// Endpoints, each once.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &EndpointKey> {
        let mut seen = std::collections::BTreeSet::new();
        let keys = self.resources().filter_map(|(_, resource)| match resource {
            Resource::Endpoint(key, _) => Some(key),
            _ => None,
        });
        keys.filter(move |key| seen.insert(*key))
    }

    /// Migrations with their names, each once.
    pub(super) fn migrations(&self) -> impl Iterator<Item = (&Path, &str, &LiveMigration)> {
        let mut seen = std::collections::BTreeSet::new();
        let migrations = self.resources().filter_map(|(path, resource)| match resource {
            Resource::Migration(name, migration) => Some((path, name.as_str(), migration)),
            _ => None,
        });
        migrations.filter(move |(_, name, _)| seen.insert(*name))
    }

    /// The file that an endpoint is in.
    pub(super) fn endpoint_path(&self, key: &EndpointKey) -> Option<&Path> {
        let id = ResourceId::Endpoint(key.clone());
        self.find(&id).next().map(|(path, _, _, _)| path)
    }

    /// The document of an endpoint as it is written.
    pub(super) fn endpoint_value(&self, key: &EndpointKey) -> Result<Value, Failure> {
        let id = ResourceId::Endpoint(key.clone());
        let (path, text, _, document) =
            self.find(&id).next().ok_or_else(|| Failure::other(format!("{id} is in no file")))?;
        let body = &text[document.body.clone()];
        serde_norway::from_str(body).map_err(|error| refuse(path, "cannot be copied", error))
    }

    fn resources(&self) -> impl Iterator<Item = (&Path, &Resource)> {
        let documents =
            self.files.iter().flat_map(|(path, _, documents)| documents.iter().map(move |d| (path, d)));
        documents.map(|(path, document)| (path.as_path(), &document.parsed.resource))
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
pub(super) struct Held {
    hidden: PathBuf,
    path: PathBuf,
}

impl Held {
    pub(super) fn put_back(self) -> Result<(), Failure> {
        fs::rename(&self.hidden, &self.path)
            .map_err(|error| refuse_access(&self.path, "cannot be created", &error))
    }
}

impl Files {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Reads everything. What the agent would refuse is left out with a warning.
    pub(super) fn scan(&self) -> Result<Scan, Failure> {
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
    pub(super) fn create(&self, kind: &str, name: &str, document: &Value) -> Result<(), Failure> {
        let path = self.root.join(format!("{kind}-{name}.yaml"));
        if path.symlink_metadata().is_ok() {
            return Err(Failure::other(format!("{}: the file exists already; remove it", path.display())));
        }
        write(&path, &render(&path, document)?)
    }

    pub(super) fn remove_migration(&self, name: &str) -> Result<(), Failure> {
        self.remove(&ResourceId::Migration(name.to_owned()))
    }

    pub(super) fn remove_endpoint(&self, key: &EndpointKey) -> Result<(), Failure> {
        self.remove(&ResourceId::Endpoint(key.clone()))
    }

    /// Writes the file of an endpoint again, byte by byte.
    pub(super) fn rewrite_endpoint(&self, key: &EndpointKey) -> Result<(), Failure> {
        let scan = self.scan()?;
        match scan.find(&ResourceId::Endpoint(key.clone())).next() {
            Some((path, text, _, _)) => write(path, text),
            None => Err(Failure::other(format!("{}: WorkloadEndpoint {key} is gone", self.root.display()))),
        }
    }

    /// Removes an endpoint that will be created again with another uid.
    pub(super) fn take_away(&self, key: &EndpointKey) -> Result<Held, Failure> {
        let scan = self.scan()?;
        let mut document = scan.endpoint_value(key)?;
        stamp::renew(&mut document)?;
        let id = ResourceId::Endpoint(key.clone());
        let alone = scan.find(&id).next().filter(|(_, _, documents, _)| *documents == 1);
        let path = match alone {
            Some((path, _, _, _)) => path.to_owned(),
            None => self.root.join(format!("workloadendpoint-{key}.yaml")),
        };
        let hidden = write_hidden(&path, &render(&path, &document)?)?;
        self.remove(&id)?;
        Ok(Held { hidden, path })
    }

    /// Removes every definition of a resource, one file after the other.
    fn remove(&self, id: &ResourceId) -> Result<(), Failure> {
        loop {
            let scan = self.scan()?;
            let Some((path, text, documents, document)) = scan.find(id).next() else { return Ok(()) };
            if documents == 1 {
                fs::remove_file(path).map_err(|error| refuse_access(path, "cannot be removed", &error))?;
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
    let hidden = write_hidden(&target, text)?;
    fs::rename(&hidden, &target).map_err(|error| {
        let _ = fs::remove_file(&hidden);
        refuse_access(&target, "cannot be replaced", &error)
    })
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
