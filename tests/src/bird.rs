//! BIRD on a host of the lab: a release of Debian's daemon with the configuration that it is given. Starts, kills, stops and
//! questions it; knows no routes.
//!
//! Socket and log are in the lab's folder, so that nothing of the machine's own BIRD is touched.

use crate::host::Host;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::release::Release;
use crate::wait;
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// LIMIT: the shortest pause between attempts that BIRD knows is a second, and neighbours do not start together.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(120);
/// LIMIT: a daemon that hangs must not hang its test.
const ANSWERS_WITHIN_S: &str = "10";

/// BIRD of one host, running or not.
#[derive(Debug)]
pub struct Bird {
    release: Release,
    namespace: Arc<Namespace>,
    child: Option<Child>,
    /// Of the files, without their ends.
    path: PathBuf,
}

/// What a table says about the path that is used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Best {
    /// The protocol that it came from, as the configuration calls it.
    pub protocol: String,
    /// The metric in the kernel, of paths that came from there.
    pub kernel_metric: Option<u32>,
    /// LOCAL_PREF, of paths that came over BGP.
    pub local_pref: Option<u32>,
    /// Communities, as BIRD writes them: `(65000,100)`.
    pub communities: String,
    /// The AS path, empty inside of the AS.
    pub autonomous_systems: String,
}

impl Bird {
    /// Starts it.
    ///
    /// # Panics
    /// When the release is not there, or refuses the configuration.
    #[must_use]
    #[track_caller]
    pub fn start(lab: &Lab, host: &Host, configuration: &str, release: Release) -> Self {
        let path = lab.folder().join(format!("bird-{}", host.name()));
        let mut bird = Self { release, namespace: host.namespace_shared(), child: None, path };
        fs::write(bird.file("conf"), configuration).expect("space on the disk");
        let check = bird.command("bird").arg("-p").arg("-c").arg(bird.file("conf")).output();
        let check = check.expect("BIRD is there");
        let said = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "bird -p on {}: {said}\n{configuration}", host.name());
        bird.spawn(&[]);
        bird
    }

    /// Its process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("BIRD is running").id()
    }

    /// Starts it after its end, as a service manager that lets it recover (`-R`).
    ///
    /// # Panics
    /// When it runs.
    #[track_caller]
    pub fn recover(&mut self) {
        self.spawn(&["-R"]);
    }

    #[track_caller]
    fn spawn(&mut self, options: &[&str]) {
        assert!(self.child.is_none(), "BIRD is running");
        let log =
            File::options().create(true).append(true).open(self.file("log")).expect("space on the disk");
        let mut command = self.command("bird");
        command.arg("-f").arg("-c").arg(self.file("conf")).arg("-s").arg(self.file("ctl")).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("BIRD is there"));
    }

    /// Makes it go on with another configuration, which `change` makes of its own.
    ///
    /// # Panics
    /// When BIRD refuses it.
    #[track_caller]
    pub fn reconfigure(&self, change: impl FnOnce(&str) -> String) {
        let text = fs::read_to_string(self.file("conf")).expect("it was started with one");
        fs::write(self.file("conf"), change(&text)).expect("space on the disk");
        let said = self.ask(&["configure"]);
        assert!(said.contains("Reconfigur"), "BIRD said to its configuration: {said}");
    }

    /// SIGKILL: no chance to say good-bye.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        let _ = child.wait();
    }

    /// `birdc graceful restart`: it ends, and its peers wait for it to come back.
    ///
    /// # Panics
    /// When it goes on.
    #[track_caller]
    pub fn restart_gracefully(&mut self) {
        let said = self.ask(&["graceful", "restart"]);
        let mut child = self.child.take().expect("it is running");
        let ended = wait::holds_within(wait::SOON, || child.try_wait().is_ok_and(|status| status.is_some()));
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
        }
        assert!(ended, "BIRD goes on after {said}");
        self.recover();
    }

    /// Waits until this many sessions are established and it has recovered from its last end.
    ///
    /// # Panics
    /// When they are not; the message has what BIRD says.
    #[track_caller]
    pub fn wait_established(&self, sessions: usize) {
        let up = || {
            self.ask(&["show", "protocols"]).matches("Established").count() == sessions
                && !self.ask(&["show", "status"]).contains("Graceful restart recovery in progress")
        };
        if !wait::holds_within(ESTABLISHED_WITHIN, up) {
            let log = fs::read_to_string(self.file("log")).unwrap_or_default();
            let [status, protocols] = ["status", "protocols"].map(|what| self.ask(&["show", what]));
            panic!("not {sessions} sessions:\n{status}\n{protocols}\n{log}");
        }
    }

    /// The path to `destination` that it uses.
    #[must_use]
    pub fn best(&self, destination: IpNet) -> Option<Best> {
        parse(&self.ask(&["show", "route", &destination.to_string(), "primary", "all"]))
    }

    /// What birdc prints.
    ///
    /// # Panics
    /// When birdc is not there.
    #[must_use]
    pub fn ask(&self, question: &[&str]) -> String {
        let mut command = self.namespace.command("timeout");
        command.arg(ANSWERS_WITHIN_S).arg(self.release.program("birdc")).arg("-s").arg(self.file("ctl"));
        let output = command.args(question).stdin(Stdio::null()).output().expect("BIRD has birdc");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn command(&self, program: &str) -> Command {
        self.namespace.command(self.release.program(program))
    }

    fn file(&self, end: &str) -> PathBuf {
        Path::new(&self.path).with_extension(end)
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first route of `show route … all`.
fn parse(text: &str) -> Option<Best> {
    // 10.65.0.2/32  unicast [peer4_1 06:20:01.123] * (200) [i]
    let route = text.lines().find(|line| line.contains(" unicast ["))?;
    let protocol = route.split_once('[')?.1.split(' ').next()?;
    // BIRD 3 calls everything otherwise.
    let attribute = |names: [&str; 2]| {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once(':'));
        lines.find(|(name, _)| names.contains(name)).map(|(_, value)| value.trim().to_owned())
    };
    Some(Best {
        protocol: protocol.to_owned(),
        kernel_metric: attribute(["Kernel.metric", "krt_metric"]).and_then(|value| value.parse().ok()),
        local_pref: attribute(["BGP.local_pref", "bgp_local_pref"]).and_then(|value| value.parse().ok()),
        communities: attribute(["BGP.community", "bgp_community"]).unwrap_or_default(),
        autonomous_systems: attribute(["BGP.as_path", "bgp_path"]).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_route_is_the_best() {
        let text = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.65.0.2/32         unicast [peer4_1 06:20:01.123] * (200) [AS64513i]\n\
            \tvia 10.0.0.1 on eth0\n\tType: BGP univ\n\tBGP.origin: IGP\n\tBGP.as_path: 64512 64513\n\
            \tBGP.next_hop: 10.0.0.1\n\tBGP.local_pref: 100\n\tBGP.community: (65000,100)\n";
        let expected = Best {
            protocol: "peer4_1".to_owned(),
            kernel_metric: None,
            local_pref: Some(100),
            communities: "(65000,100)".to_owned(),
            autonomous_systems: "64512 64513".to_owned(),
        };
        assert_eq!(parse(text), Some(expected));
        let text = "BIRD 3.1.7 ready.\nTable master4:\n\
            10.65.0.2/32         unicast [kernel4 10:24:41.866] * (150)\n\tdev tapx\n\tpreference: 150\n\tsource: inherit\n\
            \tkrt_source: 3\n\tkrt_metric: 1024\n\tInternal route handling values: 1024L 3G 1S id 1\n";
        let expected = Best { protocol: "kernel4".to_owned(), kernel_metric: Some(1024), ..Best::default() };
        assert_eq!(parse(text), Some(expected));
        let own = "10.65.0.2/32         unicast [kernel4 06:20:01.123] * (210)\n\tdev tapport1\n\tType: inherit univ\n\
            \tKernel.source: 3\n\tKernel.metric: 1024\n\tKernel.scope: 253\n";
        let own = parse(own).unwrap();
        assert_eq!((own.protocol.as_str(), own.kernel_metric, own.local_pref), ("kernel4", Some(1024), None));
        assert_eq!(parse("BIRD 2.0.12 ready.\nNetwork not found\n"), None);
    }
}
