//! What resources said about the settings, for the next life: an agent that cannot reach its datastore has to know which routes are
//! its own, and how urgent they are.
//!
//! Owns the selection and its form in a file. Only what takes effect in a running agent is kept: everything else that a resource
//! says has no effect on the one that reads it, and must not get one by a detour.

use super::resource::FelixConfiguration;
use super::sources::{ANNOTATION_PREFIX, resource_values, setting};
use super::table::Effect;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use std::collections::BTreeMap;

/// Values as text, by resource and setting.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Told(BTreeMap<String, BTreeMap<String, String>>);

impl Told {
    /// What counts for the host of this name.
    #[must_use]
    pub fn new(configurations: &[FelixConfiguration], hostname: &str) -> Self {
        let own = format!("node.{hostname}");
        let counts = |it: &&FelixConfiguration| !it.has_selector && (it.name == own || it.name == "default");
        let values = |it: &FelixConfiguration| {
            let given = resource_values(it).into_iter().filter_map(|given| {
                let setting = setting(&given.name)?;
                let is_used = setting.effect == Effect::Live && !setting.rules.local;
                is_used.then(|| (setting.name.to_owned(), given.text))
            });
            (it.name.clone(), given.collect())
        };
        Self(configurations.iter().filter(counts).map(values).collect())
    }

    /// The same as resources.
    #[must_use]
    pub fn configurations(&self) -> Vec<FelixConfiguration> {
        let raw = |(name, text): (&String, &String)| (format!("{ANNOTATION_PREFIX}{name}"), text.clone());
        let resource = |(name, values): (&String, &BTreeMap<String, String>)| FelixConfiguration {
            name: name.clone(),
            annotations: values.iter().map(raw).collect(),
            spec: Map::new(),
            has_selector: false,
        };
        self.0.iter().map(resource).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Attach, Sources, load};
    use serde_json::{Value, json};
    use std::path::Path;
    use std::time::Duration;

    fn configuration(name: &str, spec: Value) -> FelixConfiguration {
        let Value::Object(spec) = spec else { panic!("a spec is an object") };
        FelixConfiguration { name: name.into(), annotations: BTreeMap::new(), spec, has_selector: false }
    }

    fn sources(environment: &[(&str, &str)]) -> Sources {
        let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Sources::new(environment, Path::new("/f"), b"", "compute-7").unwrap()
    }

    #[test]
    fn the_next_life_has_the_same_settings() {
        let mut own = configuration("node.compute-7", json!({"deviceRouteProtocol": 81}));
        own.annotations.insert("config.projectcalico.org/cutoverTrigger".into(), "first-frame".into());
        let configurations = [
            own,
            configuration("node.compute-8", json!({"deviceRouteProtocol": 82})),
            configuration(
                "default",
                json!({
                    "deviceRouteProtocol": 80, "ipv4ElevatedRoutePriority": 100, "interfacePrefix": "vm,tap",
                    "liveMigrationRouteConvergenceTime": "1m30s", "ipv6ElevatedRoutePriority": 0, "unheardOf": [1],
                }),
            ),
        ];
        let told = Told::new(&configurations, "compute-7");
        let told: Told = serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap();
        let [before, after] = [&configurations[..], &told.configurations()[..]]
            .map(|resources| load(&sources(&[]), resources).settings.policy());
        assert_eq!(after, before);
        assert_eq!((after.route_protocol, after.ipv4.elevated), (81, 100));
        assert_eq!(after.convergence, Duration::from_secs(90));
        let environment = [("FELIX_DEVICEROUTEPROTOCOL", "90")];
        let changed = load(&sources(&environment), &told.configurations()).settings.policy();
        assert_eq!((changed.route_protocol, changed.ipv4.elevated), (90, 100), "this life's own come first");
    }

    #[test]
    fn what_a_running_agent_does_not_take_from_a_resource_is_not_kept() {
        let spec = json!({"cutoverAttach": "xdp", "felixHostname": "other", "deviceRouteProtocol": 80});
        let told = Told::new(&[configuration("default", spec)], "compute-7");
        let settings = load(&sources(&[]), &told.configurations()).settings;
        assert_eq!((settings.cutover_attach, settings.device_route_protocol), (Attach::Auto, 80));
        assert_eq!(settings.felix_hostname, "compute-7");
        assert_eq!(serde_json::to_value(&told).unwrap(), json!({"default": {"DeviceRouteProtocol": "80"}}));
    }
}
