//! Asking another program, but not for ever.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// LIMIT: a daemon that keeps its command line waiting for longer than this has other problems.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// LIMIT: a table of a million routes; more is not needed to judge a host.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a program prints, if it ends well and in time.
pub(super) fn answer(program: &str, arguments: &[&str]) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let pipe = child.stdout.take();
    let (sender, text) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |pipe| pipe.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes));
        // Nobody waits any more if it took too long.
        let _ = sender.send(read.map(|_| bytes));
    });
    let received = text.recv_timeout(ANSWER_WITHIN);
    if received.is_err() {
        // It may have ended in this moment.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let bytes = received.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if !status.success() {
        return Err(io::Error::other(format!("{program} ended with {status}")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_failures() {
        assert_eq!(answer("echo", &["a", "b"]).unwrap(), "a b\n");
        assert!(answer("false", &[]).is_err());
        assert_eq!(answer("/nowhere/program", &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
