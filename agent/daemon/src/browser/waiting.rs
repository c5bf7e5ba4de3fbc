//! What an endpoint waits for: of Felix, of the virtual machine, of the kernel, or of time.

use crate::control::Status;
use crate::timeline::span;
use cutover_engine::BootTime;
use cutover_engine::machine::State;
use cutover_engine::roles::Role;
use cutover_engine::view::EndpointView;
use std::time::Duration;

/// Whether something goes on that people who look at the page are interested in first.
pub(super) fn is_moving(endpoint: &EndpointView) -> bool {
    endpoint.state != State::Base || endpoint.role != Role::None.to_string()
}

/// Each of them in words; none for an endpoint that is as it is to be.
pub(super) fn waits_for(endpoint: &EndpointView, status: &Status, now: BootTime) -> Vec<String> {
    let mut waits = Vec::new();
    if endpoint.from_memory {
        waits.push("the datastore, which has not been read since the agent was started".to_owned());
    }
    if let Some(felix) = endpoint.felix.as_ref().filter(|felix| !felix.missing.is_empty()) {
        let since = felix.for_ms.map(|ms| format!(", for {}", span::text(Duration::from_millis(ms))));
        waits.push(format!("Felix: {}{}", felix.missing.join(", "), since.unwrap_or_default()));
    }
    if endpoint.ifindex.is_none() {
        waits.push("its tap, which is not there".to_owned());
    } else if !endpoint.running {
        waits.push("a hypervisor that opens its tap".to_owned());
    }
    for (what, reasons) in
        [("its watch", &status.unarmed), ("its interface to be set up", &status.unprepared)]
    {
        if let Some(reason) = reasons.get(&endpoint.interface) {
            waits.push(format!("{what}: {reason}"));
        }
    }
    let phases = endpoint.migration.as_ref().map(|migration| migration.phases).unwrap_or_default();
    if endpoint.state == State::Target && phases.role_gone_at.is_none() {
        let (what, since) = match endpoint.watch {
            Some(_) => ("the announcement of its virtual machine", phases.armed_at),
            None => ("its watch to be armed", phases.targeted_at),
        };
        let since = since.map(|at| format!(", for {}", span::text(now.since(at))));
        waits.push(format!("{what}{}", since.unwrap_or_default()));
    }
    if let Some(what) = &endpoint.waits_for {
        waits.push(format!("{what}: the migration is over, and it is not known how"));
    }
    if endpoint.not_here {
        waits.push("a write of its endpoint: the migration to here has failed".to_owned());
    }
    if endpoint.held {
        waits.push("its return to the datastore; it is held".to_owned());
    }
    if endpoint.status_due {
        waits.push("its status to be written".to_owned());
    }
    if let Some(left) = endpoint.elevated_for_seconds.and_then(|it| Duration::try_from_secs_f64(it).ok()) {
        waits.push(format!("other routers: elevated for {} more", span::text(left)));
    }
    waits
}
