//! FRR's zebra on this host: whether it runs, and how much it forgets.
//!
//! It is asked for its version as vtysh asks: a line that ends with a zero on its socket; the answer ends with three zeros and a status.

use crate::processes::{Processes, is_running};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What runs here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Zebra {
    /// None.
    #[default]
    Absent,
    /// One that keeps what it has learnt while other interfaces change, or of which nobody knows.
    Keeps,
    /// One that forgets the IPv4 routes on all interfaces without an IPv4 address whenever any interface changes.
    Forgets,
}

/// Where the package of FRR has its sockets.
const SOCKETS: &str = "/run/frr";
/// The first release that forgets (zebra's commit 506c9aa487).
const FIRST_THAT_FORGETS: (u32, u32) = (10, 7);
/// LIMIT: it answers at once, unless it has very much to do.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// LIMIT: of its version; more is another program's.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

impl Zebra {
    /// Looks for it. `proc` is where /proc is. May block.
    pub fn look(proc: &Path) -> Self {
        if !is_running(proc, "zebra") {
            return Self::Absent;
        }
        let version = version(proc).as_deref().ok().and_then(release);
        if version.is_some_and(|version| version >= FIRST_THAT_FORGETS) { Self::Forgets } else { Self::Keeps }
    }
}

/// What it says of its version, if it can be asked.
fn version(proc: &Path) -> io::Result<String> {
    let processes = Processes::of_this_namespace(proc);
    let zebra = processes.named(&["zebra"]).next().ok_or(io::ErrorKind::NotFound)?;
    let folder = zebra.values_of(&["--vty_socket"]).first().copied().unwrap_or(SOCKETS).to_owned();
    let space = zebra.values_of(&["-N", "--pathspace"]).first().copied().unwrap_or_default().to_owned();
    // In its own mount namespace: it may run in a container.
    let root = proc.join(zebra.pid.to_string()).join("root");
    let inside = Path::new(&folder).join(space).join("zebra.vty");
    ask(&root.join(inside.strip_prefix("/").unwrap_or(&inside)), "show version")
}

fn ask(socket: &Path, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    stream.write_all(&[line.as_bytes(), b"\0"].concat())?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !answer.windows(3).any(|bytes| bytes == [0; 3]) && answer.len() < ANSWER_BYTES_MAX {
        match stream.read(&mut part)? {
            0 => break,
            count => answer.extend_from_slice(&part[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Major and minor number, as in "FRRouting 10.7.1 (compute1) on Linux(6.18)."
fn release(text: &str) -> Option<(u32, u32)> {
    let version = text.split_once("FRRouting ")?.1;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn releases_are_read() {
        for (text, expected) in [
            ("FRRouting 10.7.1 (compute1) on Linux(6.18.44).\nCopyright", Some((10, 7))),
            ("FRRouting 8.4.4 (a.b) on Linux(6.1).", Some((8, 4))),
            ("FRRouting 10.8-dev (x)", Some((10, 8))),
            ("FRRouting", None),
            ("% Unknown command", None),
        ] {
            assert_eq!(release(text), expected, "{text}");
        }
        assert!((10, 10) > FIRST_THAT_FORGETS && (9, 9) < FIRST_THAT_FORGETS);
    }

    /// The answer comes in parts, and nobody closes the socket after it.
    #[test]
    fn an_answer_ends_with_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("zebra.vty");
        let listener = UnixListener::bind(&socket).unwrap();
        let zebra = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 13];
            stream.read_exact(&mut asked).unwrap();
            for part in [&b"FRRouting 10."[..], b"7.1 (x)\n\0\0", b"\0\0"] {
                stream.write_all(part).unwrap();
            }
            (asked, stream)
        });
        let answer = ask(&socket, "show version").unwrap();
        assert_eq!(release(&answer), Some((10, 7)));
        assert_eq!(&zebra.join().unwrap().0, b"show version\0");
    }
}
