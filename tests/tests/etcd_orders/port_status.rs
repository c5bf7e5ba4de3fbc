//! What Neutron makes of what the agents report (from recordings): any host's `up` puts a port into service, whichever
//! status is removed takes it out with an error, and so does the beginning and the end of a migration without one. Nova
//! waits for the target's `up` from the moment a migration begins.

use super::guest::Guest;
use super::orders::Step;
use super::stage::host_name;
use cutover_tests::etcd::Written;
use std::collections::{BTreeMap, BTreeSet};

/// What was written about one port, in the order of revisions.
pub(crate) type Told = Vec<Event>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A status; nothing if it was removed.
    Status { host: String, value: Option<String> },
    /// A LiveMigration; whether it is there afterwards.
    Migration { to: String, is_there: bool },
}

pub(crate) fn by_port(written: &[Written]) -> BTreeMap<String, Told> {
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    for write in written {
        if let Some((port, event)) = event(write) {
            told.entry(port).or_default().push(event);
        }
    }
    told
}

fn event(write: &Written) -> Option<(String, Event)> {
    let parts: Vec<&str> = write.key.split('/').collect();
    match parts.as_slice() {
        ["", "calico", "felix", "v2", _, "host", host, "workload", "openstack", _, "endpoint", port] => {
            let event = Event::Status { host: (*host).to_owned(), value: write.value.clone() };
            Some(((*port).to_owned(), event))
        }
        [.., "livemigrations", "openstack", name] => {
            let mut parts = name.split('-');
            let (to, port) = (parts.next()?.to_owned(), parts.next_back()?.to_owned());
            Some((port, Event::Migration { to, is_there: write.value.is_some() }))
        }
        _ => None,
    }
}

const UP: &str = "{\"status\":\"up\"}";
const DOWN: &str = "{\"status\":\"down\"}";

/// What a wait of Nova's came to.
struct Waiting {
    to: String,
    ready: bool,
}

/// Whether a migration is lost and found again in mid-migration. Nova does not begin to wait anew then.
fn is_repaired(guest: &Guest) -> bool {
    guest.script.phases.iter().map(|phase| phase.concat()).any(|phase| {
        let begins = |to| phase.iter().any(|step| matches!(step, Step::Begins { to: at, .. } if *at == to));
        phase.iter().any(|step| matches!(step, Step::Ends(to) if begins(*to)))
    })
}

pub(crate) fn judge(guest: &Guest, told: &Told) -> Result<(), String> {
    let home = guest.lives().map(|stay| host_name(stay.host));
    let moves_once = guest.stays.len() <= 2 && !is_repaired(guest);
    let mut in_service = false;
    let mut waiting: Option<Waiting> = None;
    let mut targets = BTreeSet::new();
    for event in told {
        match event {
            Event::Migration { to, is_there: true } => {
                targets.insert(to.clone());
                if waiting.as_ref().is_none_or(|waiting| waiting.to != *to) {
                    in_service = false;
                    waiting = Some(Waiting { to: to.clone(), ready: false });
                }
            }
            Event::Migration { to, is_there: false } => {
                targets.remove(to);
                if waiting.as_ref().is_some_and(|waiting| waiting.to == *to) {
                    in_service = false;
                    waiting = None;
                }
            }
            Event::Status { host, value: Some(value) } => {
                in_service = value == UP;
                if !in_service {
                    // Nothing is at the other end of the tap: the machine has stopped, or nobody has said yet that it is to come.
                    let last = guest.stays.last().filter(|stay| stay.to.is_some());
                    let stopped = last.is_some_and(|stay| host_name(stay.host) == *host);
                    let unaware = guest.unaware.iter().any(|(on, ..)| host_name(*on) == *host);
                    if (stopped || unaware) && value == DOWN {
                        continue;
                    }
                    return Err(format!("{host} reported {value}"));
                }
                if let Some(waiting) = &mut waiting {
                    waiting.ready |= *host == waiting.to;
                    // A machine that has moved on is reported where it is, whatever Nova waits for.
                    if !waiting.ready && moves_once && !targets.contains(host) {
                        return Err(format!("{host} ended Nova's wait for {}", waiting.to));
                    }
                }
            }
            Event::Status { host, value: None } => {
                in_service = false;
                if home.as_ref() == Some(host) && guest.stays.len() == 1 {
                    return Err(format!("{host} removed the status of a machine that stayed there"));
                }
                let aborts = waiting.as_ref().is_some_and(|waiting| !waiting.ready);
                if aborts && moves_once {
                    return Err(format!("{host} made Nova's wait fail"));
                }
            }
        }
    }
    if in_service != home.is_some() {
        return Err(format!("the port is in service: {in_service}, after {told:#?}"));
    }
    Ok(())
}
