//! BIRD on the stage: the host's own program with the site's configuration. Starts it, asks it over its control socket, which is the
//! same in every version, and stops it as its unit does.

use super::Failed;
use super::answer::{Table, Told};
use super::confinement::{confined, terminate};
use super::observed::{Origin, Path as RoutePath, Session};
use super::speaker::Expected;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SOCKET: &str = "/run/cutover-stage.ctl";
/// LIMIT: it listens before it does anything else.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
/// LIMIT: an answer about a few hundred routes.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// LIMIT: for what it does when it is told to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// A running BIRD.
#[derive(Debug)]
pub(super) struct Bird {
    child: Child,
    version: String,
    generation: u32,
    is_bird_6: bool,
}

impl Bird {
    /// Starts it; the error is why that cannot be, in its own words if they are its own.
    pub(super) fn start(program: &Path, configuration: &Path, is_bird_6: bool) -> Result<Self, Failed> {
        let cannot = |error: io::Error| Failed::Absent(format!("{}: cannot run: {error}", program.display()));
        let mut check = Command::new(program);
        check.arg("-p").arg("-c").arg(configuration).stdin(Stdio::null());
        confined(&mut check, false);
        let check = check.output().map_err(cannot)?;
        if !check.status.success() {
            let said = String::from_utf8_lossy(&check.stderr);
            return Err(Failed::Refused(format!(
                "BIRD does not take it: {}",
                said.trim().replace('\n', "; ")
            )));
        }
        let mut command = Command::new(program);
        command.arg("-f").arg("-c").arg(configuration).args(["-s", SOCKET]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        confined(&mut command, false);
        let child = command.spawn().map_err(cannot)?;
        let mut bird = Self { child, version: String::new(), generation: 0, is_bird_6 };
        let deadline = Instant::now() + LISTENS_WITHIN;
        let hello = loop {
            match ask(None) {
                Ok(hello) => break hello,
                Err(error) if Instant::now() > deadline => {
                    return Err(Failed::Absent(format!("BIRD does not answer: {error}")));
                }
                Err(_) => {}
            }
            if let Ok(Some(status)) = bird.child.try_wait() {
                return Err(Failed::Refused(format!("BIRD ended with {status}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        bird.version = hello.trim().trim_end_matches(" ready.").to_owned();
        bird.generation =
            generation(&bird.version).ok_or_else(|| Failed::Absent(format!("BIRD says only {hello}")))?;
        Ok(bird)
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }

    /// What of the families it has.
    pub(super) const fn families(&self) -> [bool; 2] {
        if self.generation == 1 { [!self.is_bird_6, self.is_bird_6] } else { [true, true] }
    }

    pub(super) fn told(&self) -> io::Result<Told> {
        Ok(told(&ask(Some("show protocols all"))?))
    }

    pub(super) fn table(&self, sessions: &[Session]) -> io::Result<Table> {
        Ok(table(&ask(Some("show route all"))?, sessions))
    }

    /// As its unit does. Says whether it has ended.
    pub(super) fn stop(&mut self) -> bool {
        terminate(&mut self.child, ENDS_WITHIN)
    }
}

fn generation(version: &str) -> Option<u32> {
    version.strip_prefix("BIRD ")?.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// Asks a question, or waits for the greeting alone.
fn ask(question: Option<&str>) -> io::Result<String> {
    let stream = UnixStream::connect(PathBuf::from(SOCKET))?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    let mut lines = BufReader::new(&stream);
    let hello = answer(&mut lines)?;
    let Some(question) = question else { return Ok(hello) };
    (&stream).write_all(format!("{question}\n").as_bytes())?;
    answer(&mut lines)
}

/// Lines with a code and a dash, lines that go on with the same code after a blank, and a last one with a code and a blank.
fn answer(lines: &mut impl io::BufRead) -> io::Result<String> {
    let mut text = String::new();
    loop {
        let mut bytes = Vec::new();
        if lines.read_until(b'\n', &mut bytes)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8_lossy(&bytes).into_owned();
        let coded =
            line.split_at_checked(4).filter(|(code, _)| code.bytes().all(|byte| byte.is_ascii_digit()));
        match coded {
            Some((_, rest)) => {
                text.push_str(rest.get(1..).unwrap_or_default());
                if rest.starts_with(' ') {
                    return Ok(text);
                }
            }
            None => text.push_str(line.get(1..).unwrap_or_default()),
        }
    }
}

/// Its protocols: name, kind, table, state, since when; then what there is to say about it, further in.
fn told(text: &str) -> Told {
    let mut told = Told::default();
    for block in blocks(text) {
        let Some(row) = block.lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>()) else {
            continue;
        };
        let [name, kind, ..] = row[..] else { continue };
        let value = |of: &str| {
            let mut lines = block.lines().filter_map(|line| line.trim().split_once(':'));
            lines.find(|(name, _)| *name == of).map(|(_, value)| value.trim())
        };
        match kind {
            "BGP" => {
                if let Some(range) = value("Neighbor range") {
                    let trouble = format!("nobody knows which neighbours there are in {range}");
                    let session = Session { name: name.to_owned(), trouble, ..Session::default() };
                    told.sessions.push((session, Expected::External, false));
                    continue;
                }
                let (neighbour, interface) = value("Neighbor address").map_or((None, None), |text| {
                    let (address, interface) =
                        text.split_once('%').map_or((text, None), |(a, i)| (a, Some(i.trim().to_owned())));
                    (address.trim().parse().ok(), interface)
                });
                let number = value("Neighbor AS").and_then(|number| number.parse().ok()).unwrap_or(0);
                let session = Session { name: name.to_owned(), neighbour, interface, ..Session::default() };
                let is_shut = row.get(3) == Some(&"down");
                let expected = if number == 0 { Expected::External } else { Expected::Number(number) };
                told.sessions.push((session, expected, is_shut));
            }
            "OSPF" | "RIP" | "Babel" => told.others.push(format!("{kind} ({name})")),
            _ => {}
        }
    }
    told
}

/// Lines that begin at the margin with those after them that do not.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match blocks.last_mut() {
            Some(block) if line.starts_with(char::is_whitespace) => {
                block.push('\n');
                block.push_str(line);
            }
            _ => blocks.push(line.to_owned()),
        }
    }
    blocks
}

/// What its tables have, all together.
fn table(text: &str, sessions: &[Session]) -> Table {
    let mut table = BTreeMap::new();
    let mut destination: Option<IpNet> = None;
    for line in text.lines() {
        // Attributes are further in.
        if line.starts_with('\t') || line.starts_with("Table ") {
            continue;
        }
        if !line.starts_with(char::is_whitespace) {
            destination = line.split_whitespace().next().and_then(|word| word.parse().ok());
        }
        // 10.65.0.2/32  unicast [peer4_1 06:20:01.123] * (200) [i]
        let (Some(destination), Some((before, after))) = (destination, line.split_once('[')) else {
            continue;
        };
        let name = after.split([' ', ']']).next().unwrap_or_default();
        let is_best = after.split_once(']').is_some_and(|(_, rest)| rest.trim_start().starts_with('*'));
        let is_of_bgp = sessions.iter().any(|session| session.name == name);
        let path = RoutePath {
            origin: if is_of_bgp { Origin::Bgp } else { Origin::Kernel },
            is_best,
            is_unreachable: before.contains("unreachable"),
        };
        let entry: &mut (Vec<RoutePath>, Option<Origin>) = table.entry(destination).or_default();
        entry.0.push(path);
    }
    for (paths, chosen) in table.values_mut() {
        *chosen = paths.iter().find(|path| path.is_best).map(|path| path.origin);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end() {
        let mut text = io::Cursor::new(
            "0001 BIRD 2.0.12 ready.\n2002-Name Proto\n1002-device1 Device\n1006-  x\n   y\n0000 \n",
        );
        assert_eq!(answer(&mut text).unwrap(), "BIRD 2.0.12 ready.\n");
        assert_eq!(answer(&mut text).unwrap(), "Name Proto\ndevice1 Device\n  x\n  y\n\n");
        assert!(answer(&mut text).is_err());
        assert_eq!(generation("BIRD 2.0.12"), Some(2));
        assert_eq!(generation("BIRD v3.1.0"), Some(3));
    }

    /// BIRD 2.0.12.
    #[test]
    fn sessions_are_read() {
        let text = "Name       Proto      Table      State  Since         Info\ndevice1    Device     ---        up     03:27:04.266  \n\n\
            node_c     BGP        ---        start  03:27:04.266  Active        \n  BGP state:          Active\n\
            \x20   Neighbor address: fe80::21%tap7c1f\n    Neighbor AS:      64601\n  Channel ipv4\n    State:          DOWN\n\
            off        BGP        ---        down   03:27:04.266  \n    Neighbor address: 192.0.2.1\n    Neighbor AS:      1\n\
            range      BGP        ---        start  03:27:04.266  Passive\n    Neighbor range: 192.0.2.0/24\n\
            fabric     OSPF       master4    up     03:27:04.266  Alone\n";
        let told = told(text);
        let [(guest, Expected::Number(64_601), false), (off, _, true), (range, ..)] = &told.sessions[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!((guest.interface.as_deref(), guest.neighbour), (Some("tap7c1f"), "fe80::21".parse().ok()));
        assert_eq!(off.name, "off");
        assert_eq!((range.trouble.is_empty(), told.others.len()), (false, 1));
    }

    #[test]
    fn tables_of_every_version_are_read() {
        let session = Session { name: "p1".to_owned(), ..Session::default() };
        let text = "Table master4:\n10.65.0.2/32         unicast [p1 05:39:45.855] * (100) [i]\n\tvia 192.168.9.1 on eth0\n\
            \tType: BGP univ\n                     unicast [kernel1 05:39:48.358] (10)\n\tdev tap1\n\
            10.65.0.3/32       via 192.0.2.12 on uplink0 [p1 03:27:05 from x] * (240)\n\
            10.65.0.4/32         unreachable [p1 05:39:45.855] * (100/-) [i]\n";
        let table = table(text, &[session]);
        let of = |net: &str| table.get(&net.parse().unwrap()).unwrap();
        let path = |origin, is_best, is_unreachable| RoutePath { origin, is_best, is_unreachable };
        assert_eq!(
            of("10.65.0.2/32").0,
            [path(Origin::Bgp, true, false), path(Origin::Kernel, false, false)]
        );
        assert_eq!(*of("10.65.0.3/32"), (vec![path(Origin::Bgp, true, false)], Some(Origin::Bgp)));
        assert_eq!(of("10.65.0.4/32").0, [path(Origin::Bgp, true, true)]);
    }
}
