//! LiveMigration documents.

use super::{Envelope, Refusal, Resource, name};
use cutover_engine::model::{EndpointKey, LiveMigration, MigrationSource, MigrationTarget};
use cutover_engine::selector::Selector;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MigrationSpec {
    source: Option<Side>,
    target: Option<Side>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    workload_endpoint: Option<Identifiers>,
    workload: Option<Identifiers>,
    selector: Option<String>,
}

#[derive(Deserialize)]
struct Identifiers {
    hostname: Option<String>,
    #[serde(rename = "orchestratorID")]
    orchestrator: Option<String>,
    #[serde(rename = "workloadID")]
    workload: Option<String>,
    #[serde(rename = "endpointID")]
    endpoint: Option<String>,
}

pub(super) fn interpret(
    envelope: Envelope<MigrationSpec>,
    notices: &mut Vec<String>,
) -> Result<Resource, Refusal> {
    let metadata = envelope.metadata.unwrap_or_default();
    let name = metadata.name.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Refusal::of("there is no metadata.name"))?;
    if name::unfit_for_a_line(&name).is_some() {
        return Err(Refusal::of(format!("metadata.name {name:?} contains a space or a control character")));
    }
    let mut notice = |text: String| notices.push(format!("LiveMigration {name}: {text}"));
    let uid = metadata.uid.unwrap_or_default();
    if let Some(bad) = name::unfit_for_a_line(&uid) {
        return Err(Refusal::of(format!("metadata.uid {uid:?} contains {bad:?}")));
    }
    if uid.is_empty() {
        // Nothing is made up: with a uid that is the same for each attempt, a second attempt would pass for the first.
        notice("it has no metadata.uid; its attempts cannot be told apart in the log".to_owned());
    }
    let spec = envelope.spec.unwrap_or(MigrationSpec { source: None, target: None });
    let source = spec.source.map_or(Err("it is missing".into()), source);
    let source = source.map_err(|reason| notice(format!("spec.source is left out: {reason}"))).ok();
    let target = spec.target.map_or(Err("it is missing".into()), target);
    let target = target.map_err(|reason| notice(format!("spec.target is left out: {reason}"))).ok();
    Ok(Resource::Migration(name, LiveMigration { uid, source, target }))
}

fn source(side: Side) -> Result<MigrationSource, String> {
    if let Some(identifiers) = side.workload_endpoint {
        return endpoint(identifiers).map(MigrationSource::Endpoint);
    }
    let identifiers = side.workload.ok_or("it has neither workloadEndpoint nor workload")?;
    Ok(MigrationSource::Workload {
        host: required("hostname", identifiers.hostname)?,
        orchestrator: required("orchestratorID", identifiers.orchestrator)?,
        workload: required("workloadID", identifiers.workload)?,
    })
}

fn target(side: Side) -> Result<MigrationTarget, String> {
    if let Some(identifiers) = side.workload_endpoint {
        return endpoint(identifiers).map(MigrationTarget::Endpoint);
    }
    // An empty selector would choose every endpoint of the host.
    let selector = side.selector.filter(|selector| !selector.trim().is_empty());
    let selector = selector.ok_or("it has neither workloadEndpoint nor selector")?;
    Selector::parse(&selector)
        .map(MigrationTarget::Selector)
        .map_err(|error| format!("{selector:?}: {error}"))
}

fn endpoint(identifiers: Identifiers) -> Result<EndpointKey, String> {
    let key = EndpointKey {
        host: required("hostname", identifiers.hostname)?,
        orchestrator: required("orchestratorID", identifiers.orchestrator)?,
        workload: required("workloadID", identifiers.workload)?,
        endpoint: required("endpointID", identifiers.endpoint)?,
    };
    name::check_key(&key).map_err(|refusal| refusal.reason)?;
    Ok(key)
}

fn required(member: &str, text: Option<String>) -> Result<String, String> {
    let text = text.filter(|text| !text.is_empty()).ok_or_else(|| format!("it has no {member}"))?;
    match name::unfit_for_a_line(&text) {
        Some(bad) => Err(format!("its {member} {text:?} contains {bad:?}")),
        None => Ok(text),
    }
}
