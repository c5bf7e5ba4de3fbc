//! Whether a host is fit for live migrations, and what to change: `cutover doctor`.
//!
//! Each area has a file, in which looking is kept apart from judging: what was seen is a value, and what it means is a pure
//! function of it, so that tests can feed it every kind of broken host. Nothing here changes the host. The command line calls
//! [`examine`] and prints the [`Report`].

mod agents;
mod beside_felix;
mod bgp;
mod bridges;
mod clock;
mod command;
mod datastore;
mod finding;
mod forwarding;
mod hitless;
mod interfaces;
mod kernel;
mod managers;
mod nova;
mod oslo;
mod privileges;
mod ready_command;
pub mod reference;
pub(crate) mod rehearsal;
mod report;
mod routes;
mod run_dir;
mod settings;
mod tap_mac;
mod units;

pub use bgp::Files;
pub use finding::{Area, Check, Finding, Level};
pub use report::Report;

use cutover_daemon::control;
use cutover_daemon::processes::Processes;
use cutover_daemon::settings::{Loaded, Role, Settings};
use std::path::{Path, PathBuf};

/// Every check, in the order of the areas.
#[must_use]
pub fn checks() -> Vec<&'static Check> {
    let areas: [&[&Check]; 19] = [
        settings::CHECKS,
        ready_command::CHECKS,
        kernel::CHECKS,
        privileges::CHECKS,
        agents::CHECKS,
        units::CHECKS,
        beside_felix::CHECKS,
        run_dir::CHECKS,
        datastore::CHECKS,
        forwarding::CHECKS,
        interfaces::CHECKS,
        managers::CHECKS,
        tap_mac::CHECKS,
        bridges::CHECKS,
        routes::CHECKS,
        hitless::CHECKS,
        bgp::CHECKS,
        clock::CHECKS,
        nova::CHECKS,
    ];
    areas.concat()
}

/// What to look at.
#[derive(Debug)]
pub struct Subject {
    /// The settings and what was wrong with reading them.
    pub configuration: Configuration,
    /// Nova's configuration files; empty to look for them.
    pub nova_conf: Vec<PathBuf>,
    /// Configuration files of the BGP daemon; empty to look for it.
    pub bgp: Files,
    /// Felix is meant to run beside the agent, whatever the settings say yet.
    pub beside_felix: bool,
}

/// The settings, as far as they could be read.
#[derive(Debug)]
pub enum Configuration {
    /// Everything was read.
    Read {
        /// What is in force.
        loaded: Box<Loaded>,
        /// Resources that could not be used.
        unusable_resources: Vec<String>,
    },
    /// The file could not, and what depends on it is left out.
    Unreadable {
        /// Why.
        reason: String,
    },
}

/// Looks at everything.
#[must_use]
pub fn examine(subject: &Subject) -> Report {
    let mut findings = Vec::new();
    let built_in = Settings::default();
    let (settings, readable) = match &subject.configuration {
        Configuration::Read { loaded, unusable_resources } => {
            findings.extend(settings::judge(loaded, unusable_resources));
            (&loaded.settings, true)
        }
        Configuration::Unreadable { reason } => {
            findings.push(settings::unreadable(reason));
            (&built_in, false)
        }
    };
    let ready_command = ready_command::ReadyCommandFile::look(settings);
    findings.extend(ready_command::judge(ready_command, settings.cutover_ready_command.as_deref()));
    let proc = Path::new("/proc");
    let processes = Processes::of_this_namespace(proc);
    let running = control::ask(&settings.cutover_run_dir);
    let status = running.as_ref().ok();
    findings.extend(kernel::judge(&kernel::KernelFeatures::look(settings)));
    findings.extend(privileges::judge(&privileges::Privileges::look(proc, status.map(|status| status.pid))));
    let is_beside = subject.beside_felix || settings.cutover_role == Role::Routes;
    findings.extend(agents::judge(&processes, &running, settings.felix_hostname.as_str(), is_beside));
    findings.extend(units::judge(&units::InstalledUnits::look(Path::new("/")), &processes, is_beside));
    if is_beside {
        findings.extend(beside_felix::examine(&processes, settings, status, readable));
    }
    findings.extend(run_dir::judge(&run_dir::RunDirOwners::look(&settings.cutover_run_dir)));
    if readable {
        findings.extend(datastore::examine(settings));
    }
    findings.extend(status.map(|status| datastore::judge_kept(&status.losses)).unwrap_or_default());
    let endpoints = status.map(forwarding::Endpoints::of);
    findings.extend(forwarding::judge(&forwarding::ForwardingState::look(proc, settings), endpoints));
    let interfaces = interfaces::GuestInterfaces::look(proc, settings);
    findings.extend(interfaces::judge(&interfaces, status));
    let workloads = interfaces.workloads.iter().map(|workload| (workload.name.as_str(), workload.ifindex));
    findings.extend(managers::examine(workloads, &interfaces.prefixes));
    findings.extend(tap_mac::judge(&interfaces.links, status));
    findings.extend(bridges::judge(&bridges::Bridges::look(settings), &interfaces.links, status));
    findings.extend(routes::judge(status));
    findings.extend(status.map(hitless::judge).unwrap_or_default());
    if readable {
        findings.extend(bgp::examine(&subject.bgp, &processes, settings));
    }
    findings.extend(clock::judge(&clock::WallClock::look(&processes)));
    findings.extend(nova::examine(&subject.nova_conf, &processes, settings));
    Report::new(&settings.felix_hostname, findings)
}
