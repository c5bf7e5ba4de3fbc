//! The resource that settings are read from.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A FelixConfiguration. `default` is for all hosts, `node.<host name>` for one.
#[derive(Clone, PartialEq, Debug)]
pub struct FelixConfiguration {
    /// Its name.
    pub name: String,
    /// Raw values by `config.projectcalico.org/<name>`.
    pub annotations: BTreeMap<String, String>,
    /// The members as they are written.
    pub spec: Map<String, Value>,
    /// Whether it is for the hosts that a selector chooses.
    pub has_selector: bool,
}
