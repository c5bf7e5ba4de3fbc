//! FRR on a host of the lab: the real zebra and bgpd of a release of Debian's package, with a configuration that is read as
//! `vtysh -b` reads it. Starts, kills, stops and questions them; knows no routes.
//!
//! Sockets and files are in a folder of the lab, so that nothing of the machine's own FRR is touched.

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::release::Release;
use crate::wait;
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use serde_json::Value;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// As the head of a generated configuration asks for, and the size of the netlink buffer that Debian sets.
const ZEBRA_OPTIONS: [&str; 6] = ["-s", "90000000", "--v6-rr-semantics", "--retain", "-K", "60"];
/// LIMIT: sessions are tried again every second, but daemons that hardly get a processor have been seen to need more than 40 s. Only failing
/// tests wait this long.
const CONVERGENCE: Duration = Duration::from_secs(120);
/// LIMIT: a daemon that hangs must not hang its test.
const ANSWERS_WITHIN_S: &str = "10";

/// FRR of one host.
#[derive(Debug)]
pub struct Frr {
    release: Release,
    namespace: Arc<Namespace>,
    zebra: Option<Child>,
    bgpd: Option<Child>,
    configuration: PathBuf,
    zebra_options: Vec<String>,
    folder: TempDir,
}

/// What a BGP table says about the path that is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Best {
    /// LOCAL_PREF.
    pub preference: Option<u64>,
    /// Communities, in the order and the form of FRR.
    pub communities: String,
    /// The AS path, empty inside of the AS.
    pub autonomous_systems: String,
    /// Whether it begins on this host.
    pub is_own: bool,
}

impl Frr {
    /// Both daemons, configured.
    ///
    /// # Panics
    /// When the release is not there, or refuses the configuration.
    #[must_use]
    #[track_caller]
    pub fn start(lab: &Lab, namespace: Arc<Namespace>, configuration: &str, release: Release) -> Self {
        Self::start_with(lab, namespace, configuration, release, &ZEBRA_OPTIONS)
    }

    /// The same with other options of zebra's.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[must_use]
    #[track_caller]
    pub fn start_with(
        lab: &Lab,
        namespace: Arc<Namespace>,
        configuration: &str,
        release: Release,
        zebra_options: &[&str],
    ) -> Self {
        let folder = tempfile::Builder::new().prefix(lab.prefix()).tempdir().expect("a temporary folder");
        let user = User::from_name("frr").expect("a user database").expect("Debian's frr is installed");
        chown(folder.path(), Some(user.uid), Some(user.gid)).expect("it is ours");
        let path = folder.path().join("frr.conf");
        fs::write(&path, configuration).expect("the folder is new");
        let zebra_options = zebra_options.iter().map(|option| (*option).to_owned()).collect();
        let mut frr =
            Self { release, namespace, zebra: None, bgpd: None, configuration: path, zebra_options, folder };
        frr.start_again();
        frr
    }

    /// Both daemons after [`Self::kill`] or [`Self::terminate`].
    #[track_caller]
    pub fn start_again(&mut self) {
        let options: Vec<&str> = self.zebra_options.iter().map(String::as_str).collect();
        self.zebra = Some(self.spawn("zebra", &options));
        self.wait_socket("zebra.vty");
        self.start_bgpd();
    }

    /// bgpd after [`Self::kill_bgpd`].
    #[track_caller]
    pub fn start_bgpd(&mut self) {
        self.bgpd = Some(self.spawn("bgpd", &[]));
        self.wait_socket("bgpd.vty");
        let file = self.configuration.to_str().expect("a plain path").to_owned();
        let said = self.vtysh(&["-f", &file]);
        assert!(!said.contains('%'), "FRR said to its configuration: {said}");
    }

    /// zebra's process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn zebra_pid(&self) -> u32 {
        self.zebra.as_ref().expect("zebra is running").id()
    }

    /// SIGKILL to bgpd.
    pub fn kill_bgpd(&mut self) {
        end(self.bgpd.take(), Signal::SIGKILL);
    }

    /// SIGKILL to both.
    pub fn kill(&mut self) {
        end(self.zebra.take(), Signal::SIGKILL);
        self.kill_bgpd();
    }

    /// The way to stop FRR so that the kernel keeps its routes: bgpd would take them out, and zebra is told not to.
    pub fn stop_keeping_routes(&mut self) {
        self.kill_bgpd();
        end(self.zebra.take(), Signal::SIGTERM);
    }

    /// SIGTERM to bgpd and then to zebra, as Debian's service does.
    pub fn terminate(&mut self) {
        end(self.bgpd.take(), Signal::SIGTERM);
        end(self.zebra.take(), Signal::SIGTERM);
    }

    /// Waits until this many sessions are established.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn wait_established(&self, sessions: usize) {
        wait::until(CONVERGENCE, format_args!("{sessions} sessions in {}", self.namespace.name()), || {
            let summary = self.show("show bgp summary json");
            let families = ["ipv4Unicast", "ipv6Unicast"].map(|family| &summary[family]["peers"]);
            let peers = families.into_iter().filter_map(Value::as_object).flat_map(|peers| peers.values());
            peers.filter(|peer| peer["state"] == "Established").count() == sessions
        });
    }

    /// The path to `destination` that bgpd uses.
    #[must_use]
    pub fn best(&self, destination: IpNet) -> Option<Best> {
        let family = if destination.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let table = self.show(&format!("show bgp {family} unicast {destination} json"));
        let paths = table["paths"].as_array()?;
        let best = paths.iter().find(|path| path["bestpath"]["overall"] == true)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some(Best {
            preference: best["locPrf"].as_u64(),
            communities: text(&best["community"]["string"]),
            // "Local" is FRR's word for an empty path.
            autonomous_systems: text(&best["aspath"]["string"]).replace("Local", ""),
            is_own: best["sourced"] == true,
        })
    }

    /// The answer of a command that ends with `json`; null when the daemon has none.
    #[must_use]
    pub fn show(&self, command: &str) -> Value {
        serde_json::from_str(&self.vtysh(&["-c", command])).unwrap_or_default()
    }

    /// What vtysh prints.
    ///
    /// # Panics
    /// When vtysh is not installed.
    #[must_use]
    pub fn vtysh(&self, arguments: &[&str]) -> String {
        let output = Command::new("timeout")
            .arg(ANSWERS_WITHIN_S)
            .arg(self.release.program("vtysh"))
            .arg("--vty_socket")
            .arg(self.folder.path())
            .args(arguments)
            .output()
            .expect("Debian's frr is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn spawn(&self, daemon: &str, options: &[&str]) -> Child {
        let folder = self.folder.path();
        let log = File::create(folder.join(format!("{daemon}.out"))).expect("the folder is there");
        // A socket of the last life would look like that of the next one.
        let _ = fs::remove_file(folder.join(format!("{daemon}.vty")));
        self.namespace
            .command(self.release.program(daemon))
            .args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout", "-i"])
            .arg(folder.join(format!("{daemon}.pid")))
            .arg("-z")
            .arg(folder.join("zserv.api"))
            .arg("--vty_socket")
            .arg(folder)
            .args(options)
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("an open file"))
            .stdout(log)
            .spawn()
            .expect("Debian's frr is installed")
    }

    #[track_caller]
    fn wait_socket(&self, name: &str) {
        let path = self.folder.path().join(name);
        let answers = || std::os::unix::net::UnixStream::connect(&path).is_ok();
        wait::until(wait::SOON, format_args!("{}", path.display()), answers);
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        self.kill();
    }
}

fn end(daemon: Option<Child>, signal: Signal) {
    let Some(mut child) = daemon else { return };
    // It may have ended by itself, which the test finds out.
    let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
    let _ = child.wait();
}
