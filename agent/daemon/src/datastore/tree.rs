//! The files of a directory datastore: which ones count, and how they are read without being fooled.

use super::resource::Format;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// LIMIT: a resource is about a kilobyte; what is larger than this is no resource file.
const FILE_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// LIMIT: nobody sorts resources into more levels; a bind mount of a directory into itself ends here.
const DEPTH_MAX: usize = 16;

/// A directory that could not be listed.
#[derive(Debug, Error)]
#[error("{path}: cannot list the directory: {error}", path = path.display())]
pub struct ListError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// What a walk has found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Resource files, links to files included.
    pub(super) files: Vec<PathBuf>,
    /// Directories that were listed, the root first.
    pub(super) directories: Vec<PathBuf>,
    /// Directories that were not, with the reason. What was known of their files stays as it is.
    pub(super) unlisted: Vec<ListError>,
}

/// Lists everything below `root`; `before_listing` is called with each directory first, so that a watch is armed before
/// anything can be missed. Hidden names are left out, links to directories are not followed.
pub(super) fn walk(root: &Path, before_listing: &mut dyn FnMut(&Path) -> io::Result<()>) -> Listing {
    let mut found = Listing::default();
    let mut waiting = vec![(root.to_owned(), 0)];
    while let Some((path, depth)) = waiting.pop() {
        let subdirectories = before_listing(&path).and_then(|()| list(&path, &mut found.files));
        match subdirectories {
            Ok(names) if depth < DEPTH_MAX || names.is_empty() => {
                waiting.extend(names.into_iter().map(|name| (name, depth + 1)));
                found.directories.push(path);
            }
            Ok(_) => {
                let reason =
                    format!("it has directories more than {DEPTH_MAX} levels deep, which are left out");
                found.unlisted.push(ListError { path, error: io::Error::other(reason) });
            }
            // It was removed since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => {}
            Err(error) => found.unlisted.push(ListError { path, error }),
        }
    }
    found.files.sort();
    found
}

/// All resource files below `root`, in the order in which they take precedence.
///
/// # Errors
/// When a directory cannot be listed.
pub fn resource_files(root: &Path) -> Result<Vec<PathBuf>, ListError> {
    let mut found = walk(root, &mut |_| Ok(()));
    match found.unlisted.pop() {
        Some(error) => Err(error),
        None => Ok(found.files),
    }
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let mut subdirectories = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if is_hidden(&path) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            subdirectories.push(path);
        } else if Format::of(&path).is_some() {
            files.push(path);
        }
    }
    Ok(subdirectories)
}

/// Editors, package managers and our own atomic writes keep half-finished files under such names.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// What tells a written file from the one that was read before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Signature {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Signature {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Of the file that a path leads to.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::of(&metadata))
    }
}

/// Reads a resource file.
///
/// # Errors
/// When it cannot be read, is no regular file, is too large or is no UTF-8 text.
pub(super) fn read_regular(path: &Path) -> io::Result<String> {
    read_with_signature(path).map(|(text, _)| text)
}

pub(super) fn read_with_signature(path: &Path) -> io::Result<(String, Signature)> {
    // A FIFO must not block the datastore.
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    let refuse = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    if !metadata.is_file() {
        return Err(refuse("it is no regular file".to_owned()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.size().min(FILE_MAX_BYTES)).unwrap_or(0));
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(refuse(format!("it is larger than {FILE_MAX_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        refuse(format!("line {line}: it is not UTF-8 text"))
    })?;
    Ok((text, Signature::of(&metadata)))
}
