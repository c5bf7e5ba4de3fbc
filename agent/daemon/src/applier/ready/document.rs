//! What the ready command gets on standard input. Its fields are described in docs/configure.md.

use cutover_engine::EndpointKey;
use cutover_engine::wanted::WantedCheck;
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct Document<'a> {
    name: String,
    namespace: &'a str,
    host: &'a str,
    orchestrator: &'a str,
    workload: &'a str,
    endpoint: &'a str,
    interface: &'a str,
    ifindex: u32,
    mac: Option<String>,
    prefixes: BTreeSet<String>,
    role: String,
    migration_uid: &'a str,
}

/// One line of JSON.
pub(super) fn render(key: &EndpointKey, check: &WantedCheck) -> Vec<u8> {
    let question = &check.question;
    let document = Document {
        name: key.to_string(),
        namespace: key.workload.split_once('/').map_or("", |(namespace, _)| namespace),
        host: &key.host,
        orchestrator: &key.orchestrator,
        workload: &key.workload,
        endpoint: &key.endpoint,
        interface: &question.interface,
        ifindex: question.ifindex,
        mac: question.mac.map(|mac| mac.to_string()),
        prefixes: question.prefixes.iter().map(ToString::to_string).collect(),
        role: check.role.to_string(),
        migration_uid: &check.migration_uid,
    };
    // INVARIANT: text and numbers only, which always have a JSON form.
    let mut line = serde_json::to_vec(&document).unwrap_or_default();
    line.push(b'\n');
    line
}
