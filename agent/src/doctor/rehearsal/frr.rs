//! FRR on the stage: the host's own daemons with the site's configuration, read as `vtysh -b` reads it. Starts them, asks them and
//! stops them as their unit does.

use super::Failed;
use super::answer::{Table, Told};
use super::confinement::{confined, terminate};
use super::observed::{Origin, Path as RoutePath, Session};
use super::speaker::Expected;
use super::stage::empty;
use ipnet::IpNet;
use nix::unistd::{User, chown};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the daemons of a release have their sockets, whoever built it.
const FOLDERS: [&str; 2] = ["/run/frr", "/var/run/frr"];
const FOLDER: &str = "/run/frr";
/// Where they look for what they should do.
const CONFIGURATIONS: &str = "/etc/frr";
/// The release that has given configurations to a daemon of their own.
const FIRST_WITH_MGMTD: u32 = 9;
/// What mgmtd says while somebody else changes its configuration.
const LOCKED: &str = "locked by another session";
/// LIMIT: a daemon starts within a second; on a machine without a free processor it takes as long as it takes.
const STARTS_WITHIN: Duration = Duration::from_secs(40);
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Running daemons.
#[derive(Debug)]
pub(super) struct Frr {
    vtysh: PathBuf,
    children: Vec<(String, Child)>,
    version: String,
    /// What is not there.
    missing: Vec<String>,
    /// What it said to the configuration.
    complaints: Vec<String>,
}

impl Frr {
    /// Starts them; the error is why that cannot be.
    pub(super) fn start(
        folder: &Path,
        vtysh: &Path,
        programs: &[&str],
        configuration: &Path,
    ) -> Result<Self, Failed> {
        prepare().map_err(|error| Failed::Absent(format!("{FOLDER}: {error}")))?;
        let mut frr = Self {
            vtysh: vtysh.to_owned(),
            children: Vec::new(),
            version: String::new(),
            missing: Vec::new(),
            complaints: Vec::new(),
        };
        // ORDER: of FRR's own start. Everybody talks to zebra, and zebra of FRR 9 and newer is told its configuration by mgmtd.
        let names = [&["mgmtd", "zebra", "bgpd"][..], programs].concat();
        for name in names {
            let program = folder.join(name);
            let is_needed = ["zebra", "bgpd"].contains(&name);
            if !program.exists() && !is_needed {
                continue;
            }
            frr.spawn(&program, name).map_err(Failed::Absent)?;
        }
        frr.configure(configuration)?;
        let version = frr.ask(&["-c", "show version"]).unwrap_or_default();
        let name = version.split(" (").next().unwrap_or_default().lines().next().unwrap_or_default();
        frr.version = name.replace("FRRouting", "FRR");
        let number = frr.version.split([' ', '.']).find_map(|word| word.parse::<u32>().ok());
        let has_it = frr.children.iter().any(|(name, _)| name == "mgmtd");
        if number.is_some_and(|number| number >= FIRST_WITH_MGMTD) && !has_it {
            frr.missing.push(format!(
                "what only mgmtd reads of it, such as ip protocol: there is none in {}",
                folder.display()
            ));
        }
        Ok(frr)
    }

    fn spawn(&mut self, program: &Path, name: &str) -> Result<(), String> {
        let cannot = |error: io::Error| format!("{}: cannot run: {error}", program.display());
        let log = File::create(format!("/run/frr/{name}.log")).map_err(cannot)?;
        let mut command = Command::new(program);
        command.args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"]).stdin(Stdio::null());
        command.stderr(log.try_clone().map_err(cannot)?).stdout(log);
        confined(&mut command, true);
        let child = command.spawn().map_err(cannot)?;
        self.children.push((name.to_owned(), child));
        let socket = Path::new(FOLDER).join(format!("{name}.vty"));
        let deadline = Instant::now() + STARTS_WITHIN;
        while UnixStream::connect(&socket).is_err() {
            let ended = self.children.last_mut().and_then(|(_, child)| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(format!("/run/frr/{name}.log")).unwrap_or_default();
                let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                return Err(format!("{} does not start: {last}", program.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Lines that it does not take are left out, as at its own start.
    fn configure(&mut self, file: &Path) -> Result<(), Failed> {
        // mgmtd lets nobody change anything while it tells zebra of what there was, which has just connected. What was taken the first
        // time is taken again without a change. What was not counts, although it may be taken the second time: a name that comes later.
        let deadline = Instant::now() + STARTS_WITHIN;
        self.complaints = self.load(file)?;
        while self.complaints.iter().any(|it| it.contains(LOCKED)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            let again = self.load(file)?;
            self.complaints.retain(|it| !it.contains(LOCKED) && !again.contains(it));
            self.complaints.extend(again);
        }
        Ok(())
    }

    /// Returns what it said to the lines that it does not take.
    fn load(&self, file: &Path) -> Result<Vec<String>, Failed> {
        let output = self.vtysh().arg("-f").arg(file).output();
        let output = output
            .map_err(|error| Failed::Absent(format!("{}: cannot run: {error}", self.vtysh.display())))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines = said.lines().map(str::trim).filter(|it| it.contains('%') || it.starts_with("line "));
        Ok(lines.map(str::to_owned).collect())
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn told(&self) -> io::Result<Told> {
        let text = self.ask(&["-c", "show bgp neighbors json"])?;
        let mut told = told(&serde_json::from_str(&text).unwrap_or_default());
        told.missing.extend(self.missing.iter().cloned());
        told.complaints.clone_from(&self.complaints);
        Ok(told)
    }

    pub(super) fn table(&self) -> io::Result<Table> {
        let mut found = BTreeMap::new();
        for (bgp, zebra) in [
            ("show bgp ipv4 unicast json", "show ip route json"),
            ("show bgp ipv6 unicast json", "show ipv6 route json"),
        ] {
            let [bgp, zebra] = [bgp, zebra].map(|question| self.ask(&["-c", question]));
            let json = |text: String| serde_json::from_str::<Value>(&text).unwrap_or_default();
            table(&json(bgp?), &json(zebra?), &mut found);
        }
        Ok(found)
    }

    /// As its unit does: those that depend on others first.
    pub(super) fn stop(&mut self) -> bool {
        let mut is_over = true;
        for (_, child) in self.children.iter_mut().rev() {
            is_over &= terminate(child, ENDS_WITHIN);
        }
        is_over
    }

    /// Of whichever FRR it is: it is told where to look, and does not find the host's daemons.
    fn vtysh(&self) -> Command {
        let mut command = Command::new(&self.vtysh);
        command.args(["--vty_socket", FOLDER]).stdin(Stdio::null());
        confined(&mut command, true);
        command
    }

    fn ask(&self, arguments: &[&str]) -> io::Result<String> {
        let output = self.vtysh().args(arguments).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The folder of sockets, as the package makes it.
fn prepare() -> io::Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(folder)?;
    }
    let user = User::from_name("frr")?.ok_or_else(|| io::Error::other("there is no user frr"))?;
    chown(FOLDER, Some(user.uid), Some(user.gid))?;
    for folder in ["/var/lib/frr", "/var/tmp/frr", "/var/log/frr"] {
        // Not every release has each of them.
        if Path::new(folder).is_dir() {
            let _ = chown(folder, Some(user.uid), Some(user.gid));
        }
    }
    // KERNEL: a daemon that finds this file reads none of its own; mgmtd cannot be told another one.
    if Path::new(CONFIGURATIONS).is_dir() {
        empty(Path::new(CONFIGURATIONS))?;
        File::create(Path::new(CONFIGURATIONS).join("frr.conf"))?;
        File::create(Path::new(CONFIGURATIONS).join("vtysh.conf"))?;
    }
    Ok(())
}

fn told(json: &Value) -> Told {
    let mut told = Told::default();
    for (name, of) in json.as_object().into_iter().flatten() {
        if !of.is_object() {
            continue;
        }
        // An interface in the place of an address.
        let address = name.parse().ok();
        let local = &of["localAs"];
        let remote = of["remoteAs"].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        let is_internal =
            of["nbrInternalLink"] == true || (remote != 0 && local.as_u64() == Some(remote.into()));
        let expected = match (remote, is_internal) {
            (_, true) => Expected::Internal,
            (0, false) => Expected::External,
            (number, false) => Expected::Number(number),
        };
        let interface = of["updateSource"].as_str().map(str::to_owned);
        let session = Session {
            name: name.clone(),
            neighbour: address,
            interface: if address.is_none() { Some(name.clone()) } else { interface },
            ..Session::default()
        };
        let is_shut = of["adminShutDown"] == true;
        told.sessions.push((session, expected, is_shut));
    }
    told
}

fn table(bgp: &Value, zebra: &Value, found: &mut Table) {
    for (destination, paths) in bgp["routes"].as_object().into_iter().flatten() {
        let Ok(destination) = destination.parse::<IpNet>() else { continue };
        let paths = paths.as_array().into_iter().flatten().map(|path| RoutePath {
            origin: if path["peerId"] == "(unspec)" { Origin::Kernel } else { Origin::Bgp },
            is_best: path["bestpath"] == true || path["bestpath"]["overall"] == true,
            is_unreachable: path["valid"] != true,
        });
        found.entry(destination).or_default().0.extend(paths);
    }
    for (destination, routes) in zebra.as_object().into_iter().flatten() {
        let Ok(destination) = destination.parse::<IpNet>() else { continue };
        let chosen = routes.as_array().into_iter().flatten().find(|route| route["selected"] == true);
        let origin = chosen.map(|route| match route["protocol"].as_str() {
            Some("bgp") => Origin::Bgp,
            Some("kernel") => Origin::Kernel,
            _ => Origin::Other,
        });
        found.entry(destination).or_default().1 = origin;
    }
}
