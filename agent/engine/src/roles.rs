//! Which part an endpoint plays in the migrations that exist. No memory: the same resources give the same
//! roles, whatever the order they came in.

use crate::model::{EndpointKey, LiveMigration, MigrationSource, MigrationTarget};
use core::fmt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The part that an endpoint of this host plays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Role {
    /// No migration concerns it.
    #[default]
    None,
    /// It is being left.
    Source,
    /// It is being moved to.
    Target,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "NO_ROLE",
            Self::Source => "SOURCE",
            Self::Target => "TARGET",
        })
    }
}

/// A role with the migration that justifies it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assignment {
    /// The role.
    pub role: Role,
    /// The greatest uid among the migrations that justify the role, empty without a role.
    pub uid: String,
    /// For a target: where that migration comes from, if it names one endpoint.
    pub source: Option<EndpointKey>,
    /// For a target: it is the source of another migration, too.
    pub leaves: bool,
}

/// The role of one endpoint, given all migrations. Target wins over source.
///
/// A migration whose source is its target moves nothing (a driver writes such a thing when `migrating_to` is
/// the current host): it confers no target role, or it would take the route from a running virtual machine.
pub fn assign<'a>(
    key: &EndpointKey,
    labels: &BTreeMap<String, String>,
    migrations: impl Iterator<Item = &'a LiveMigration>,
) -> Assignment {
    let mut best = Assignment::default();
    for migration in migrations {
        let is_source = is_source(migration, key);
        let role = if is_target(migration, key, labels) && !is_source {
            Role::Target
        } else if is_source {
            Role::Source
        } else {
            continue;
        };
        let leaves = best.leaves || (is_source && !is_target(migration, key, labels));
        let source = source_endpoint(migration, role);
        if (role, &migration.uid, &source) >= (best.role, &best.uid, &best.source) {
            best = Assignment { role, uid: migration.uid.clone(), source, leaves };
        }
        best.leaves = leaves;
    }
    best.leaves &= best.role == Role::Target;
    best
}

fn is_target(migration: &LiveMigration, key: &EndpointKey, labels: &BTreeMap<String, String>) -> bool {
    match &migration.target {
        Some(MigrationTarget::Endpoint(target)) => target == key,
        Some(MigrationTarget::Selector(selector)) => selector.matches(labels),
        None => false,
    }
}

fn is_source(migration: &LiveMigration, key: &EndpointKey) -> bool {
    match &migration.source {
        Some(MigrationSource::Endpoint(source)) => source == key,
        Some(MigrationSource::Workload { host, orchestrator, workload }) => {
            *host == key.host && *orchestrator == key.orchestrator && *workload == key.workload
        }
        None => false,
    }
}

fn source_endpoint(migration: &LiveMigration, role: Role) -> Option<EndpointKey> {
    match (&migration.source, role) {
        (Some(MigrationSource::Endpoint(source)), Role::Target) => Some(source.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
