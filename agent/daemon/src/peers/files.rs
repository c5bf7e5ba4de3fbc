//! Records in files: this agent's is written to its run directory, and whoever runs the hosts takes it to the others.
//!
//! Owns `peer.json` in the run directory and reads `<host>.json` in the folder of records. A file that somebody else than root can
//! change is not believed: who can change a record can be that host.

use super::book::{Book, RECORDS_MAX, Records};
use super::record::TEXT_MAX;
use super::report::PeersReport;
use crate::atomic_file;
use crate::ownership::Way;
use crate::retry::BackOff;
use nix::unistd::Uid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::{info, warn};

/// Name of this agent's record in the run directory.
pub const FILE: &str = "peer.json";

/// LIMIT: records change when agents are started again, and take longer than this to be carried to other hosts.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Writes this host's record and follows the others for ever.
pub(super) async fn run(folder: PathBuf, run_dir: PathBuf, text: String, book: Book, report: PeersReport) {
    let own = run_dir.join(FILE);
    let mut back_off = BackOff::new();
    while let Err(error) = atomic_file::replace_json(&own, text.as_bytes()) {
        let line = format!("cannot write {}: {error}", own.display());
        if report.is_bad("records", &line) {
            warn!(path = %own.display(), %error, "Cannot write this agent's record; it is tried again");
        }
        tokio::time::sleep(back_off.next_pause()).await;
    }
    let mut seen = None;
    loop {
        let (folder_again, before) = (folder.clone(), seen.clone());
        // A folder on a slow disk holds up nobody else.
        let look = tokio::task::spawn_blocking(move || look(&folder_again, before.as_ref()));
        match look.await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some((stamps, records)))) => {
                book.replace(&records);
                seen = Some(stamps);
                if report.is_good("records") {
                    info!(folder = %folder.display(), "Records of other hosts' agents are followed again");
                }
            }
            Ok(Err(error)) => {
                seen = None;
                let line = format!("cannot read {}: {error}", folder.display());
                if report.is_bad("records", &line) {
                    warn!(folder = %folder.display(), %error, "Cannot read the records of other hosts' agents (CutoverPeerDir); it is tried again");
                }
            }
            Err(error) => warn!(%error, "A look for the records of other hosts' agents ended by a defect"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What changes when a file does: device, inode, length, times of content and of owner and mode.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

type Stamps = BTreeMap<PathBuf, Stamp>;

/// Nothing if everything is as it was.
fn look(folder: &Path, before: Option<&Stamps>) -> io::Result<Option<(Stamps, Records)>> {
    let mut stamps = Stamps::new();
    stamps.insert(folder.to_owned(), stamp(folder)?);
    for entry in fs::read_dir(folder)?.take(RECORDS_MAX + 1) {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            // What is gone by now is not there.
            stamps.extend(stamp(&path).ok().map(|stamp| (path, stamp)));
        }
    }
    if before == Some(&stamps) {
        return Ok(None);
    }
    let mut records = Records::new();
    for path in stamps.keys().filter(|path| *path != folder) {
        let Some(host) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        records.insert(host.to_owned(), (path.display().to_string(), read(path)));
    }
    Ok(Some((stamps, records)))
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let it = fs::metadata(path)?;
    Ok((it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| error.to_string();
    Way::to(path).map_err(failed)?.judge(Uid::effective()).map_err(|refusal| refusal.what())?;
    if !path.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut text = Vec::new();
    // LIMIT: one byte more than a record may have, so that a longer one is refused as such.
    let most = u64::try_from(TEXT_MAX).unwrap_or(u64::MAX) + 1;
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut text)).map_err(failed)?;
    Ok(text)
}
