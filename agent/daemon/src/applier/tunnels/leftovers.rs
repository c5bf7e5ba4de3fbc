//! What agents left of the tunnel, and its removal. Needs no applier.

use super::plan::{self, Policy};
use super::plane::Plane;
use super::{Settings, TunnelError};
use crate::netlink::policy::PolicyChange;
use crate::netlink::{RouteSocket, notrack};
use cutover_common::names::DEVICE_TUNNEL;
use std::io;

/// Removes everything of ours from the network namespace of the calling thread, and says what, one line each; with `dry_run` it only says so.
/// Nothing is forwarded any more first, and what keeps packets of the tunnel from going astray goes last.
///
/// # Errors
/// At the first thing that cannot be read or removed.
pub fn cleanup(settings: Settings, dry_run: bool) -> Result<Vec<String>, TunnelError> {
    let failed = |error| TunnelError::Netlink { step: "open a netlink socket", error };
    let socket = RouteSocket::open().map_err(|error| failed(io::Error::other(error)))?;
    let mut plane = Plane::new(settings, socket);
    let numbers = plane.numbers();
    let (policy, device) = (plane.policy()?, plane.device()?.ifindex);
    let nothing = Policy::default();
    let changes = plan::changes(&policy, &nothing, &nothing, false, numbers);
    let (first, last): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| match change {
        PolicyChange::AddRoute(route) | PolicyChange::RemoveRoute(route) => route.table == numbers.table,
        PolicyChange::AddRule(rule) | PolicyChange::RemoveRule(rule) => rule.from.is_none(),
    });
    let mut said = Vec::new();
    remove(&mut plane, &first, dry_run, &mut said)?;
    if let Some(ifindex) = device {
        said.push(format!("device {DEVICE_TUNNEL}"));
        if !dry_run {
            plane.remove(ifindex)?;
        }
    }
    if plane.is_untracked()? {
        said.push(format!("table inet {}", notrack::TABLE));
        if !dry_run {
            plane.track_again()?;
        }
    }
    remove(&mut plane, &last, dry_run, &mut said)?;
    Ok(said)
}

fn remove(
    plane: &mut Plane,
    changes: &[PolicyChange],
    dry_run: bool,
    said: &mut Vec<String>,
) -> Result<(), TunnelError> {
    said.extend(changes.iter().map(|change| match change {
        PolicyChange::AddRoute(route) | PolicyChange::RemoveRoute(route) => format!("route {route}"),
        PolicyChange::AddRule(rule) | PolicyChange::RemoveRule(rule) => format!("rule {rule}"),
    }));
    if dry_run || changes.is_empty() {
        return Ok(());
    }
    let outcome = plane.change(changes)?;
    match outcome.failed.first() {
        None => Ok(()),
        Some(failure) => Err(TunnelError::Refused {
            what: super::describe(&changes[failure.index]),
            error: io::Error::from_raw_os_error(failure.errno),
        }),
    }
}
