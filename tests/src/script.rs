//! Scripts that are started: [`install`] writes one.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a script that can be started at once.
///
/// KERNEL: a file that anybody has open for writing cannot be started (ETXTBSY). If this process wrote it, a child that another thread
/// has just made would have it open as well, until that child starts a program. So a process of its own writes it.
///
/// # Panics
/// When the disk is full.
pub fn install(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut install = install.spawn().expect("coreutils");
    install.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    assert!(install.wait().expect("a child").success(), "{} cannot be written", path.display());
}
