//! From sources to settings: the first valid value of each wins, everything else is reported.

use super::resource::FelixConfiguration;
use super::sources::{Given, Origin, Sources, resource_values, setting};
use super::table::{Effect, Role, Setting, Settings, TABLE};
use std::collections::BTreeMap;
use std::fmt;

/// What others write: RTPROT_BOOT, which is ip(8)'s if it is not told another one, RTPROT_STATIC, RTPROT_RA and RTPROT_DHCP.
const COMMON_PROTOCOLS: [u8; 4] = [3, 4, 9, 16];

/// Whether routes of this protocol may be anybody's.
pub(super) fn is_common(protocol: u8) -> bool {
    COMMON_PROTOCOLS.contains(&protocol)
}

/// How bad a problem is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Good to know.
    Notice,
    /// Something that was asked for is not done.
    Warning,
    /// The agent does not start with it (exit 78); a running agent keeps the settings that it has.
    Fatal,
}

/// Something in the sources that the operator should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The setting, as the table spells it, or the unknown name.
    pub setting: String,
    /// Where it was found.
    pub origin: Origin,
    /// What is wrong and how to mend it.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.setting, self.text)
    }
}

/// The result of reading all sources.
#[derive(Clone, PartialEq, Debug)]
pub struct Loaded {
    /// What is in force.
    pub settings: Settings,
    /// Where each value comes from, by name.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What was wrong on the way, in the order of the table.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// The problems that forbid using these settings.
    pub fn fatal(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.severity == Severity::Fatal)
    }
}

/// Resolves every setting. Pure: with the same sources and resources the result is the same.
///
/// At start there are no resources yet; the agent calls it again whenever the datastore reports another set of them.
/// If the new result has [`Loaded::fatal`] problems, the settings before stay in force.
#[must_use]
pub fn load(sources: &Sources, configurations: &[FelixConfiguration]) -> Loaded {
    let mut loader = Loader {
        loaded: Loaded { settings: Settings::default(), origins: BTreeMap::new(), problems: Vec::new() },
        layers: [&sources.environment, &sources.file, &sources.client_environment]
            .map(|given| by_name(given))
            .into(),
    };
    loader.report_unusable(&sources.environment);
    loader.report_unusable(&sources.file);
    loader.report_unusable(&sources.client_environment);
    loader.resolve_hostname(sources);
    loader.add_resources(configurations);
    for setting in TABLE.iter().filter(|setting| setting.name != HOSTNAME) {
        loader.resolve(setting);
    }
    loader.check_priorities();
    loader.check_bridges();
    loader.loaded
}

const HOSTNAME: &str = "FelixHostname";

/// The last value of each name; the ones before it are reported by [`Loader::report_unusable`].
fn by_name(given: &[Given]) -> BTreeMap<&'static str, Given> {
    given.iter().filter_map(|given| Some((setting(&given.name)?.name, given.clone()))).collect()
}

struct Loader {
    loaded: Loaded,
    /// Highest first.
    layers: Vec<BTreeMap<&'static str, Given>>,
}

impl Loader {
    fn problem(&mut self, severity: Severity, setting: &str, origin: &Origin, text: String) {
        let problem = Problem { severity, setting: setting.to_owned(), origin: origin.clone(), text };
        self.loaded.problems.push(problem);
    }

    /// Names that are unknown or given twice in one source.
    fn report_unusable(&mut self, given: &[Given]) {
        let mut last: BTreeMap<&str, &Given> = BTreeMap::new();
        for given in given {
            let Some(setting) = setting(&given.name) else {
                let text = "no such setting here, it is ignored".to_owned();
                self.problem(Severity::Notice, &given.name, &given.origin, text);
                continue;
            };
            if let Some(earlier) =
                last.insert(setting.name, given).filter(|earlier| earlier.text != given.text)
            {
                let before = if setting.is_secret { "a value" } else { &format!("{:?}", earlier.text) };
                let text = format!("given again, which replaces {before} of {}", earlier.origin);
                self.problem(Severity::Warning, setting.name, &given.origin, text);
            }
        }
    }

    fn resolve_hostname(&mut self, sources: &Sources) {
        let row = setting(HOSTNAME).expect("FelixHostname is in the table");
        self.resolve(row);
        if self.loaded.settings.felix_hostname.is_empty() {
            self.loaded.settings.felix_hostname.clone_from(&sources.system_hostname);
            self.loaded.origins.insert(HOSTNAME, Origin::System);
        }
        if self.loaded.settings.felix_hostname.is_empty() {
            let text = "the system has no host name; set FelixHostname to what Nova calls this host";
            self.problem(Severity::Fatal, HOSTNAME, &Origin::System, text.to_owned());
        }
    }

    fn add_resources(&mut self, configurations: &[FelixConfiguration]) {
        let own = format!("node.{}", self.loaded.settings.felix_hostname);
        for configuration in configurations.iter().filter(|c| c.has_selector) {
            let origin = Origin::Resource(configuration.name.clone());
            let text = "it is for the hosts of a selector, which need Node resources that OpenStack does not have; it is ignored";
            self.problem(Severity::Notice, "nodeSelector", &origin, text.to_owned());
        }
        for name in [own.as_str(), "default"] {
            let found = configurations.iter().find(|c| c.name == name && !c.has_selector);
            let given = found.map(resource_values).unwrap_or_default();
            let layer = self.without_local(&given);
            self.layers.push(layer);
        }
    }

    /// What a resource may set; what concerns how the datastore is reached cannot come from it.
    fn without_local(&mut self, given: &[Given]) -> BTreeMap<&'static str, Given> {
        let mut layer = by_name(given);
        layer.retain(|name, given| {
            let local = setting(name).is_some_and(|setting| setting.rules.local);
            if local {
                let text =
                    "only the environment and the file of a host can set it, here it is ignored".to_owned();
                self.loaded.problems.push(Problem {
                    severity: Severity::Warning,
                    setting: (*name).to_owned(),
                    origin: given.origin.clone(),
                    text,
                });
            }
            !local
        });
        layer
    }

    fn resolve(&mut self, setting: &'static Setting) {
        let candidates: Vec<Given> =
            self.layers.iter().filter_map(|layer| layer.get(setting.name).cloned()).collect();
        for given in candidates {
            if given.text.is_empty() {
                self.problem(Severity::Notice, setting.name, &given.origin, "empty, it is ignored".into());
                continue;
            }
            match (setting.apply)(&mut self.loaded.settings, &given.text) {
                Ok(()) => {
                    if let Some(text) = self.for_felix(setting) {
                        self.problem(Severity::Notice, setting.name, &given.origin, text.to_owned());
                    } else if setting.effect == Effect::Never {
                        let is_missed = !given.text.eq_ignore_ascii_case(setting.default);
                        let severity = if is_missed { Severity::Warning } else { Severity::Notice };
                        let text = "it has no effect here (docs/configuration.md says why)";
                        self.problem(severity, setting.name, &given.origin, text.to_owned());
                    }
                    self.loaded.origins.insert(setting.name, given.origin);
                    return;
                }
                Err(reason) => self.report_invalid(setting, &given, &reason),
            }
        }
        self.loaded.origins.insert(setting.name, Origin::BuiltIn);
    }

    /// What is made of a value by which Felix leaves something to this agent, and which both read. The role is known by then: it
    /// comes earlier in the table.
    fn for_felix(&self, setting: &Setting) -> Option<&'static str> {
        let settings = &self.loaded.settings;
        if settings.cutover_role != Role::Routes {
            return None;
        }
        match setting.name {
            "RouteSyncDisabled" if settings.route_sync_disabled => Some(
                "taken as Felix's, which leaves routes to this agent (CutoverRole = routes); the routes are programmed",
            ),
            "EndpointReportingEnabled" if settings.endpoint_reporting_enabled => Some(
                "taken as this agent's; see that Felix has FELIX_ENDPOINTREPORTINGENABLED=false in its own environment, or both report",
            ),
            "EndpointReportingEnabled" => Some(
                "taken as Felix's, which leaves endpoint statuses to this agent (CutoverRole = routes); they are reported",
            ),
            _ => None,
        }
    }

    fn report_invalid(&mut self, setting: &Setting, given: &Given, reason: &str) {
        let (severity, consequence) = if setting.rules.fatal {
            (Severity::Fatal, "")
        } else {
            (Severity::Warning, "; until then the next source counts")
        };
        let text = format!("{:?} is not valid: {reason}{consequence}", given.text);
        self.problem(severity, setting.name, &given.origin, text);
    }

    /// On a bridge there may be an operator's routes: what has their protocol would be removed. Felix would route to the taps.
    fn check_bridges(&mut self) {
        let settings = &self.loaded.settings;
        if settings.cutover_bridges.is_empty() {
            return;
        }
        let (protocol, role) = (settings.device_route_protocol, settings.cutover_role);
        let origin = self.loaded.origins["CutoverBridges"].clone();
        if is_common(protocol) {
            let text = format!(
                "on a bridge, routes of DeviceRouteProtocol {protocol} may be anybody's; set DeviceRouteProtocol beside it, to 80 for example"
            );
            self.problem(Severity::Fatal, "CutoverBridges", &origin, text);
        }
        if role == Role::Routes {
            let text = "not beside Felix, which routes to taps in bridges as to any; take it or CutoverRole = routes out";
            self.problem(Severity::Fatal, "CutoverBridges", &origin, text.to_owned());
        }
    }

    /// Equal or exchanged metrics would send traffic to where the machine is not.
    fn check_priorities(&mut self) {
        let settings = &self.loaded.settings;
        let families = [
            (
                "IPv4ElevatedRoutePriority",
                settings.ipv4_elevated_route_priority,
                "IPv4NormalRoutePriority",
                settings.ipv4_normal_route_priority,
            ),
            (
                "IPv6ElevatedRoutePriority",
                settings.ipv6_elevated_route_priority,
                "IPv6NormalRoutePriority",
                settings.ipv6_normal_route_priority,
            ),
        ];
        for (elevated_name, elevated, normal_name, normal) in families {
            if elevated < normal {
                continue;
            }
            let elevated_origin = self.loaded.origins[elevated_name].clone();
            let normal_origin = &self.loaded.origins[normal_name];
            // Name the one that somebody set.
            let origin =
                if elevated_origin == Origin::BuiltIn { normal_origin.clone() } else { elevated_origin };
            let text = format!(
                "{elevated} is not lower than {normal_name} {normal} ({normal_origin}); the lower metric wins, so make {elevated_name} the lower one"
            );
            self.problem(Severity::Fatal, elevated_name, &origin, text);
        }
    }
}
