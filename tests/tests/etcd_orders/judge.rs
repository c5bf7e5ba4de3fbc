//! What had to be the case at every moment, for each machine: its routes, and what Neutron was told of it.

use super::guest::{Arrival, Guest, Stay};
use super::orders::HostNumber;
use super::port_status;
use super::stage::{CONVERGENCE, FAR, Node, host_name};
use cutover_engine::BootTime;
use cutover_tests::etcd::Written;
use cutover_tests::route_history::{Change, History, Moment};
use cutover_tests::scene::ELEVATED;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::time::Duration;

/// LIMIT: how late an agent may be on a loaded machine.
const LATE: Duration = Duration::from_secs(8);

/// What happened on one host.
type Histories = BTreeMap<IpNet, History>;

/// Judges machines; says everything that is wrong at once.
pub(crate) fn all<'a>(
    guests: impl Iterator<Item = &'a Guest>,
    histories: &[Histories],
    written: &[Written],
    nodes: &[Node],
) {
    let mut told = port_status::by_port(written);
    let mut wrong = Vec::new();
    let mut judged = 0;
    for guest in guests {
        judged += 1;
        let told = told.remove(&guest.port.endpoint).unwrap_or_default();
        let result = routes(guest, histories, nodes).and_then(|()| port_status::judge(guest, &told));
        if let Err(what) = result {
            wrong.push(format!("{}: {what}\n{}", guest.script.scenario, story(guest, histories, nodes)));
        }
    }
    let first = &wrong[..wrong.len().min(3)];
    assert!(wrong.is_empty(), "{} of {judged} are wrong, such as\n{}", wrong.len(), first.join("\n\n"));
}

fn story(guest: &Guest, histories: &[Histories], nodes: &[Node]) -> String {
    let mut text = format!("{:#?}\n{:#?}\n", guest.script.phases, guest.stays);
    for (host, history) in histories.iter().enumerate() {
        for to in guest.port.routed() {
            let lives = history.get(&to).map(|history| {
                let brief = |moment: &Moment| {
                    (moment.since, moment.routes.iter().map(|route| route.metric).collect::<Vec<_>>())
                };
                history.moments(to).iter().map(brief).collect::<Vec<_>>()
            });
            text += &format!("{} {to}: {lives:?}\n", host_name(host));
        }
        for line in nodes[host].agent.log().matching(&[&guest.port.endpoint]) {
            text += &format!("{}: {}\n", host_name(host), line.text);
        }
    }
    text
}

/// The routes of one machine to one destination on every host.
struct Lives<'a> {
    guest: &'a Guest,
    /// By host: from when on which metrics.
    moments: Vec<Vec<(BootTime, Vec<u32>)>>,
}

fn routes(guest: &Guest, histories: &[Histories], nodes: &[Node]) -> Result<(), String> {
    let nothing = History::default();
    for to in guest.port.routed() {
        let moments_on = |history: &Histories| {
            let brief = |moment: &Moment| {
                let metrics = moment.routes.iter().map(|route| route.metric).collect();
                (moment.since.unwrap_or(BootTime(0)), metrics)
            };
            history.get(&to).unwrap_or(&nothing).moments(to).iter().map(brief).collect()
        };
        let lives = Lives { guest, moments: histories.iter().map(moments_on).collect() };
        lives.elevated_only_where_it_arrived()?;
        lives.never_absent()?;
        lives.elsewhere_only_unaware()?;
        lives.converged_in_time(nodes)?;
        lives.untouched_at_home(histories, to)?;
    }
    Ok(())
}

impl Lives<'_> {
    /// When a host first had a route from some moment on.
    fn routed_from(&self, host: HostNumber, from: BootTime, metric: Option<u32>) -> Option<BootTime> {
        let moments = &self.moments[host];
        let fits = |metrics: &[u32]| metric.map_or(!metrics.is_empty(), |metric| metrics.contains(&metric));
        let at_once =
            moments.iter().rev().find(|(since, _)| *since <= from).filter(|(_, metrics)| fits(metrics));
        let later = moments.iter().find(|(since, metrics)| *since > from && fits(metrics));
        at_once.map(|_| from).or(later.map(|(since, _)| *since))
    }

    /// No announcement, no elevated route; or, without one, the end of the migration.
    fn elevated_only_where_it_arrived(&self) -> Result<(), String> {
        for (host, moments) in self.moments.iter().enumerate() {
            for (since, metrics) in moments.iter().filter(|(_, metrics)| metrics.contains(&ELEVATED)) {
                let allows = |stay: &&Stay| match stay.how {
                    Arrival::Home => false,
                    Arrival::Announced => stay.host == host && stay.from <= *since,
                    Arrival::Silent => {
                        let ended_at = self.guest.ended_at.get(&host);
                        stay.host == host && ended_at.is_some_and(|ended_at| ended_at <= since)
                    }
                };
                if !self.guest.stays.iter().any(|stay| allows(&stay)) {
                    return Err(format!("{} was elevated at {since:?}: {metrics:?}", host_name(host)));
                }
            }
        }
        Ok(())
    }

    /// From when to when each host had to have a route: the next one takes over when it has its own.
    fn duties(&self) -> Vec<(HostNumber, BootTime, BootTime)> {
        let never = BootTime(u64::MAX);
        let stays = &self.guest.stays;
        let mut duties = Vec::new();
        for (position, stay) in stays.iter().enumerate().filter(|(_, stay)| stay.host != FAR) {
            let metric = (stay.how != Arrival::Home).then_some(ELEVATED);
            let from = self.routed_from(stay.host, stay.from, metric).unwrap_or(never);
            let to = match (stays.get(position + 1), stay.to) {
                (Some(next), _) if next.how == Arrival::Announced => {
                    self.routed_from(next.host, next.from, Some(ELEVATED)).unwrap_or(never)
                }
                (_, Some(to)) => to,
                (_, None) => never,
            };
            duties.push((stay.host, from, to));
        }
        duties
    }

    /// Where a machine lives, and until another host has taken over, there is a route at every moment.
    fn never_absent(&self) -> Result<(), String> {
        for (stay, (host, from, to)) in
            self.guest.stays.iter().filter(|stay| stay.host != FAR).zip(self.duties())
        {
            // Without an announcement an agent has to wait for what the driver writes.
            let expected_from = match stay.how {
                Arrival::Silent => {
                    self.guest.ended_at.get(&host).copied().unwrap_or(stay.from).max(stay.from)
                }
                _ => stay.from,
            };
            if from > expected_from + LATE {
                return Err(format!("{} had no route in time", host_name(host)));
            }
            let absent = self.moments[host]
                .iter()
                .find(|(since, metrics)| metrics.is_empty() && *since > from && *since < to);
            if let Some((since, _)) = absent {
                return Err(format!("{} had no route at {since:?}", host_name(host)));
            }
        }
        Ok(())
    }

    /// Where a machine neither lives nor lived there is no route, unless the driver has said too little.
    fn elsewhere_only_unaware(&self) -> Result<(), String> {
        for (host, moments) in self.moments.iter().enumerate() {
            for (since, _) in moments.iter().filter(|(_, metrics)| !metrics.is_empty()) {
                let has_been = self.guest.stays.iter().any(|stay| stay.host == host && stay.from <= *since);
                let unaware = self.guest.unaware.iter().any(|(on, from, to)| {
                    *on == host && from <= since && to.is_none_or(|to| *since <= to + LATE)
                });
                if !has_been && !unaware && self.guest.script.home != host {
                    return Err(format!("{} had a route at {since:?}", host_name(host)));
                }
            }
        }
        Ok(())
    }

    /// An elevated route stays for the convergence time after the migration.
    fn converged_in_time(&self, nodes: &[Node]) -> Result<(), String> {
        let Some(stay) = self.guest.lives().filter(|stay| stay.how != Arrival::Home) else { return Ok(()) };
        let ended_at = self.guest.ended_at.get(&stay.host).copied().unwrap_or(stay.from);
        let elevated_at = self.routed_from(stay.host, stay.from, Some(ELEVATED)).ok_or("never elevated")?;
        let began_at = ended_at.max(elevated_at);
        let normal = self.moments[stay.host]
            .iter()
            .find(|(since, metrics)| *since > elevated_at && !metrics.contains(&ELEVATED));
        let (at, _) = normal.ok_or("still elevated")?;
        let took = at.since(began_at);
        if took > CONVERGENCE + LATE {
            return Err(format!("elevated for {took:?}"));
        }
        // An agent counts from its decision, and the kernel can take its time with the route.
        match waited(&nodes[stay.host], &self.guest.port.endpoint) {
            Some(waited) if waited + Duration::from_millis(500) >= CONVERGENCE => Ok(()),
            waited => Err(format!("elevated for {took:?}, by the agent's log for {waited:?}")),
        }
    }

    /// Nothing is written to the routes of a machine that stays where it is.
    fn untouched_at_home(&self, histories: &[Histories], to: IpNet) -> Result<(), String> {
        let [stay] = self.guest.stays.as_slice() else { return Ok(()) };
        let Some(history) = histories.get(stay.host).and_then(|history| history.get(&to)) else {
            return Ok(());
        };
        let touched = history.events.iter().find(|event| {
            event.at > stay.from
                && stay.to.is_none_or(|to| event.at < to)
                && matches!(event.change, Change::Added { .. } | Change::Removed(_))
        });
        touched.map_or(Ok(()), |event| Err(format!("written at home: {event:?}")))
    }
}

/// From the decision that the machine has arrived until the priority was normal again, by the times in the agent's log.
fn waited(node: &Node, endpoint: &str) -> Option<Duration> {
    let lines = node.agent.log().matching(&["Live migration state transition", endpoint]);
    let began = lines.iter().rposition(|line| line.text.contains("to=TimeWait"))?;
    let ended = lines[began..].iter().find(|line| line.text.contains("from=TimeWait"))?;
    let (from, to) = (time_of_day(&lines[began].text)?, time_of_day(&ended.text)?);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    Some(if from <= to { to - from } else { to + DAY - from })
}

/// Of a line that begins with a time such as 2026-11-30T00:20:23.728880Z.
fn time_of_day(line: &str) -> Option<Duration> {
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let mut parts = time.splitn(3, ':');
    let mut number = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (number()?, number()?, number()?);
    Some(Duration::from_secs_f64((hours * 60.0 + minutes) * 60.0 + seconds))
}

#[test]
fn the_time_of_a_line_is_that_of_its_day() {
    let at = |line| time_of_day(line).map(|time| time.as_micros());
    assert_eq!(at("2026-11-30T01:02:03.000004Z  INFO something"), Some(3_723_000_004));
    assert_eq!(at("something"), None);
}
