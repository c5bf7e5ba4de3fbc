//! The system's log. libvirt throws away what a hook says unless the hook fails, and a hook of ours does not.

use cutover_daemon::logging::printable;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where syslog daemons and the journal listen.
const SOCKET: &str = "/dev/log";

/// `LOG_DAEMON`.
const FACILITY: u8 = 3 << 3;

/// `LOG_ERR`.
const ERROR: u8 = 3;

/// Writes what could not be done. Nobody waits for a log that is full or not there: the line is lost then.
pub(super) fn write(text: &str) {
    let _: io::Result<()> = write_to(Path::new(SOCKET), text);
}

fn write_to(socket: &Path, text: &str) -> io::Result<()> {
    let priority = FACILITY | ERROR;
    let line = format!("<{priority}>cutover-libvirt[{}]: {}", std::process::id(), printable(text));
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.send_to(line.as_bytes(), socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_priority_and_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(write_to(&path, "nobody listens").is_err());
        let log = UnixDatagram::bind(&path).unwrap();
        write_to(&path, "two\nlines").unwrap();
        let mut buffer = [0; 200];
        let length = log.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        assert!(text.starts_with("<27>cutover-libvirt[") && text.ends_with("]: two\\nlines"), "{text}");
    }

    #[test]
    fn a_log_that_is_full_keeps_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let _log = UnixDatagram::bind(&path).unwrap();
        let full = (0..100_000).find_map(|_| write_to(&path, "a line").err());
        assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }
}
