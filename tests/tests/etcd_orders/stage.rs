//! Three compute hosts on one etcd, and many machines that go through their scripts side by side, one segment a round.
//!
//! A round ends when every agent has acted on everything in it, which a sentinel shows: an endpoint on each host that is
//! written last and whose tap is plugged last. Agents take etcd in the order of revisions, and links in that of the kernel.

mod picture;
mod queue;

pub(crate) use queue::Queue;

use super::guest::{Arrival, Guest, Stay};
use super::judge;
use super::orders::{HostNumber, Script, Segment, Step};
use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_tests::datastore;
use cutover_tests::etcd::Write;
use cutover_tests::{Agent, Etcd, Host, Lab, Port, RouteWatch, Tap, frames, wait};
use ipnet::IpNet;
use picture::{Picture, not_calm};
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

/// The host that the test plays.
pub(crate) const FAR: HostNumber = 9;

/// How long an elevated route stays after a migration.
pub(crate) const CONVERGENCE: Duration = Duration::from_secs(2);

/// How long an endpoint that is away is held. A driver's longest gap is 0.45 s; here one lasts as long as everything that
/// comes between, for hundreds of machines.
const GRACE: Duration = Duration::from_millis(2500);

/// LIMIT: a phase that took longer, because the machine had other things to do, may have let an agent give up waiting, which
/// is right then. Its scripts are played again, with fewer pauses. Together with the grace time it is less than the five seconds
/// after which a migration without evidence counts as a success.
const PHASE_MAX: Duration = Duration::from_millis(2300);

/// LIMIT: asking every agent costs a process each, on a machine that has something to do.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// LIMIT: only failing tests wait this long.
const LONG: Duration = Duration::from_secs(30);

pub(crate) fn host_name(host: HostNumber) -> String {
    format!("compute{}", host + 1)
}

/// A compute host.
pub(crate) struct Node {
    pub(crate) agent: Agent,
    pub(crate) watch: RouteWatch,
    sentinel: Option<Tap>,
    host: Host,
}

/// Everything. Fields go in this order, the lab last.
pub(crate) struct Stage {
    pub(crate) nodes: Vec<Node>,
    pub(crate) etcd: Etcd,
    next_number: u16,
    round: u16,
    _lab: Lab,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let etcd = Etcd::start(&lab);
        datastore::set_up(&etcd);
        let mut nodes: Vec<Node> = (0..3)
            .map(|number| {
                let host = lab.host(&host_name(number));
                let watch = RouteWatch::start(host.namespace());
                let mut agent = Agent::new(&lab, &host, &lab.directory()).on_etcd(&etcd);
                agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE.as_secs());
                agent.set("CutoverEndpointGrace", GRACE.as_secs_f64());
                agent.spawn();
                Node { agent, watch, sentinel: None, host }
            })
            .collect();
        for node in &mut nodes {
            node.agent.wait_answering();
        }
        let mut stage = Self { nodes, etcd, next_number: 1, round: 0, _lab: lab };
        stage.end_round(true);
        stage
    }

    /// Plays scripts from the queue and judges them, until there are none. Those that had to wait too long go back.
    pub(crate) fn play_all(&mut self, queue: &Queue) {
        loop {
            let scripts = queue.take();
            if scripts.is_empty() {
                return;
            }
            let played = scripts.len();
            let late = self.play(scripts);
            queue.put_back(played, late);
        }
    }

    /// Plays some scripts side by side. Returns those that say nothing because they took too long.
    fn play(&mut self, scripts: Vec<Script>) -> Vec<Script> {
        let first = self.next_number;
        let mut guests: Vec<Guest> =
            scripts.into_iter().zip(first..).map(|(script, number)| Guest::new(number, script)).collect();
        self.next_number += u16::try_from(guests.len()).expect("not so many");
        let marks: Vec<_> = self.nodes.iter().map(|node| node.watch.mark()).collect();
        // All that was written for the machines before these would take longer to read with each of them.
        let revision = self.etcd.revision();
        self.settle_in(&mut guests);
        let mut late = BTreeSet::new();
        let phases = guests.iter().map(|guest| guest.script.phases.len()).max().unwrap_or(0);
        for phase in 0..phases {
            late.extend(self.play_phase(&mut guests, phase));
            self.wait_calm(&guests);
        }
        self.wait_converged(&guests);
        self.wait_tidied(&guests);
        // Whoever has a machine makes up for what was removed.
        self.end_round(false);
        self.wait_converged(&guests);
        let written = self.etcd.written_after(revision, "/calico/");
        let histories: Vec<_> = self
            .nodes
            .iter()
            .zip(marks)
            .map(|(node, mark)| node.watch.since(mark).by_destination())
            .collect();
        let judged = guests.iter().filter(|guest| !late.contains(&guest.number));
        judge::all(judged, &histories, &written, &self.nodes);
        let again = guests.iter().filter(|guest| late.contains(&guest.number));
        let again = again.map(|guest| guest.script.in_fewer_rounds()).collect();
        self.clear(guests);
        again
    }

    /// Every machine runs at home and has its routes and its status there.
    fn settle_in(&mut self, guests: &mut [Guest]) {
        let homes: Vec<_> =
            guests.iter().enumerate().map(|(index, guest)| (index, guest.script.home)).collect();
        self.plug(guests, &homes.iter().copied().filter(|(_, home)| *home != FAR).collect::<Vec<_>>());
        let now = clock::now();
        let mut lists = Vec::new();
        for guest in guests.iter_mut() {
            let home = guest.script.home;
            let mut list = vec![guest.write(Step::Written(home), now)];
            if home == FAR {
                list.push(Write { key: guest.status_key(FAR), value: Some("{\"status\":\"up\"}".into()) });
            } else {
                guest.open = Some(guest.taps[&home].open());
            }
            guest.stays.push(Stay { host: home, from: now, how: Arrival::Home, to: None });
            lists.push(list);
        }
        self.etcd.write_lists(lists);
        self.wait_calm(guests);
        let now = clock::now();
        guests.iter_mut().for_each(|guest| guest.stays[0].from = now);
    }

    /// Plays one phase of all scripts, a segment a round. Returns the machines for which it took too long.
    fn play_phase(&mut self, guests: &mut [Guest], phase: usize) -> Vec<u16> {
        let segments = |guest: &Guest| guest.script.phases.get(phase).map_or(0, Vec::len);
        let rounds = guests.iter().map(segments).max().unwrap_or(0);
        let began_at = clock::now();
        let mut late = Vec::new();
        for round in 0..rounds {
            let due: Vec<(usize, Segment)> = guests
                .iter()
                .enumerate()
                .filter_map(|(index, guest)| {
                    Some((index, guest.script.phases.get(phase)?.get(round)?.clone()))
                })
                .collect();
            let moved = self.play_round(guests, &due);
            let in_removal = |guest: &Guest| segments(guest) > round && waits_for_more(guest, phase);
            let is_late = |guest: &Guest| clock::now().since(began_at) > PHASE_MAX && in_removal(guest);
            self.wait_routed(guests, &moved, is_late);
            self.end_round(due.iter().any(|(_, segment)| is_of_tap(segment)));
            late.extend(guests.iter().filter(|guest| is_late(guest)).map(|guest| guest.number));
        }
        late
    }

    /// Plays one segment of each. Returns the machines that have announced themselves, with their hosts.
    fn play_round(&mut self, guests: &mut [Guest], due: &[(usize, Segment)]) -> Vec<(usize, HostNumber)> {
        let now = clock::now();
        let (mut lists, mut plugged, mut unplugged) = (Vec::new(), Vec::new(), Vec::new());
        let mut moved = Vec::new();
        for (index, segment) in due {
            let guest = &mut guests[*index];
            if segment.iter().all(|step| step.is_write()) {
                lists.push(segment.iter().map(|step| guest.write(*step, now)).collect());
                continue;
            }
            match segment[0] {
                Step::Plugged(host) => plugged.push((*index, host)),
                Step::Unplugged(host) => {
                    let tap = guest.taps.remove(&host).expect("it is plugged");
                    unplugged.push((host, tap));
                }
                Step::Moves(host) => {
                    arrive(guest, host, Arrival::Announced);
                    moved.push((*index, host));
                }
                Step::MovesSilently(host) => arrive(guest, host, Arrival::Silent),
                Step::Stops => {
                    guest.leave();
                    guest.open = None;
                }
                write => panic!("{write:?} is a write"),
            }
        }
        plugged.retain(|(index, host)| !guests[*index].taps.contains_key(host));
        self.plug(guests, &plugged);
        for host in 0..self.nodes.len() {
            let (of_it, others) = unplugged.into_iter().partition(|(on, _)| *on == host);
            unplugged = others;
            let of_it: Vec<(HostNumber, Tap)> = of_it;
            Tap::remove_many(of_it.into_iter().map(|(_, tap)| tap).collect());
        }
        self.etcd.write_lists(lists);
        moved
    }

    fn plug(&self, guests: &mut [Guest], wanted: &[(usize, HostNumber)]) {
        for (host, node) in self.nodes.iter().enumerate() {
            let of_it: Vec<usize> =
                wanted.iter().filter(|(_, on)| *on == host).map(|(index, _)| *index).collect();
            let names: Vec<(String, MacAddr)> = of_it
                .iter()
                .map(|index| (guests[*index].port.interface.clone(), guests[*index].port.tap_mac()))
                .collect();
            if names.is_empty() {
                continue;
            }
            for (index, tap) in of_it.into_iter().zip(node.host.plug_many(&names)) {
                guests[index].taps.insert(host, tap);
            }
        }
    }

    /// One announcement is enough. Whether the routes were elevated is judged later, when they may not be so any more. Those of a
    /// machine that is late may be gone by now, because its agent has waited long enough for the endpoint.
    fn wait_routed(&self, guests: &[Guest], moved: &[(usize, HostNumber)], is_late: impl Fn(&Guest) -> bool) {
        for (index, host) in moved {
            let (guest, node) = (&guests[*index], &self.nodes[*host]);
            let routed = || guest.port.routed().iter().all(|to| !node.watch.metrics_to(*to).is_empty());
            if !wait::holds_within(LONG, || routed() || is_late(guest)) {
                let said = node.agent.log().matching(&[&guest.port.endpoint]);
                panic!(
                    "{} was not heard on {}: {:#?}\n{said:#?}",
                    guest.port.endpoint,
                    host_name(*host),
                    guest.script
                );
            }
        }
    }

    /// Waits until every agent has acted on everything so far, also on what happened to taps, if anything did.
    fn end_round(&mut self, of_taps: bool) {
        self.round += 1;
        let [high, low] = self.round.to_be_bytes();
        let address = IpNet::new([10, 67, high, low].into(), 32).expect("a full prefix");
        let mut port = Port::new(1);
        for (field, text) in [
            (&mut port.workload, "sentinel"),
            (&mut port.endpoint, "sentinel"),
            (&mut port.interface, "tapsentinel"),
        ] {
            text.clone_into(field);
        }
        port.addresses = vec![address];
        let mut lists = Vec::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if of_taps && let Some(tap) = node.sentinel.take() {
                tap.remove();
            }
            if node.sentinel.is_none() {
                node.sentinel = Some(node.host.plug(&port.interface, port.tap_mac()));
            }
            let name = host_name(number);
            let key = datastore::endpoint_key(&port, &name);
            lists.push(vec![Write { key, value: Some(port.endpoint_on(&name, "sentinel").to_string()) }]);
        }
        self.etcd.write_lists(lists);
        for node in &self.nodes {
            let ifindex = node.sentinel.as_ref().expect("just plugged").ifindex();
            let there = || node.watch.routes_to(address).iter().any(|route| route.ifindex == ifindex);
            assert!(wait::holds_within(LONG, there), "an agent hangs:\n{}", node.agent.log_text());
        }
    }

    /// Waits until nothing is left to do for anybody.
    fn wait_calm(&self, guests: &[Guest]) {
        let mut missing = Vec::new();
        let calm = wait::holds_within(LONG, || {
            thread::sleep(LOOK_EVERY);
            let pictures: Vec<Picture> = self.nodes.iter().map(Picture::of).collect();
            missing = guests.iter().filter_map(|guest| not_calm(guest, &pictures)).collect();
            missing.is_empty()
        });
        assert!(calm, "not calm: {}\n{:#?}", missing.len(), &missing[..missing.len().min(5)]);
    }

    /// Waits until every machine has its normal routes where it runs, and nobody else has any.
    fn wait_converged(&self, guests: &[Guest]) {
        let mut missing = Vec::new();
        let converged = wait::holds_within(LONG, || {
            thread::sleep(LOOK_EVERY);
            let pictures: Vec<Picture> = self.nodes.iter().map(Picture::of).collect();
            missing = guests
                .iter()
                .filter(|guest| {
                    pictures.iter().enumerate().any(|(host, picture)| {
                        let wanted: &[u32] = if guest.lives_on(host) { &[1024] } else { &[] };
                        let is_right = |to| picture.metrics(to) == wanted;
                        let due =
                            picture.of_guest(guest, host).is_some_and(|shown| shown["status_due"] == true);
                        due || !guest.port.routed().iter().all(is_right)
                    })
                })
                .map(|guest| format!("{} {:?} {:#?}", guest.number, guest.script, guest.stays))
                .collect();
            missing.is_empty()
        });
        assert!(
            converged,
            "not converged: {}\n{}",
            missing.len(),
            missing[..missing.len().min(3)].join("\n")
        );
    }

    /// Waits until there is a status where each machine runs, and none elsewhere. The host that the test plays reports nothing
    /// after a migration, so the statuses of a machine that went there stay for longer than anybody wants to wait.
    fn wait_tidied(&self, guests: &[Guest]) {
        let mut missing = Vec::new();
        let tidied = wait::holds_within(LONG, || {
            thread::sleep(LOOK_EVERY);
            let all: BTreeSet<String> =
                self.etcd.all("/calico/felix/").into_iter().map(|(key, _)| key).collect();
            let is_right =
                |guest: &Guest, host| all.contains(&guest.status_key(host)) == guest.lives_on(host);
            let wrong = guests.iter().filter(|guest| !guest.lives_on(FAR)).filter_map(|guest| {
                let host = (0..self.nodes.len()).find(|host| !is_right(guest, *host))?;
                Some(format!("{} on {}: {:#?}", guest.port.endpoint, host_name(host), guest.script))
            });
            missing = wrong.collect();
            missing.is_empty()
        });
        assert!(
            tidied,
            "a status is missing where a machine runs, or left elsewhere: {}\n{}",
            missing.len(),
            missing[..missing.len().min(3)].join("\n")
        );
    }

    /// Takes everything of these machines away.
    fn clear(&mut self, mut guests: Vec<Guest>) {
        let now = clock::now();
        let mut lists = Vec::new();
        let mut taps: BTreeMap<HostNumber, Vec<Tap>> = BTreeMap::new();
        for guest in &mut guests {
            guest.open = None;
            let mut list: Vec<Write> = Vec::new();
            for to in guest.migrations.clone().into_keys() {
                list.push(guest.write(Step::Ends(to), now));
            }
            for host in guest.endpoints.clone().into_keys() {
                list.push(guest.write(Step::Gone(host), now));
            }
            lists.push(list);
            for (host, tap) in std::mem::take(&mut guest.taps) {
                taps.entry(host).or_default().push(tap);
            }
        }
        self.etcd.write_lists(lists);
        taps.into_values().for_each(Tap::remove_many);
        self.end_round(true);
    }
}

/// The machine runs on a host from now on.
fn arrive(guest: &mut Guest, host: HostNumber, how: Arrival) {
    let qemu = guest.taps[&host].open();
    guest.leave();
    // The source's process goes when the target's has taken over.
    guest.open = None;
    guest.stays.push(Stay { host, from: clock::now(), how, to: None });
    if how == Arrival::Announced {
        qemu.send(&frames::rarp(guest.port.mac));
    }
    guest.open = Some(qemu);
}

/// Whether something waits in this phase for what comes next, because something is removed in it.
fn waits_for_more(guest: &Guest, phase: usize) -> bool {
    let steps = guest.script.phases[phase].concat();
    steps.iter().any(|step| matches!(step, Step::Gone(_) | Step::Ends(_)))
}

fn is_of_tap(segment: &Segment) -> bool {
    matches!(segment[0], Step::Plugged(_) | Step::Unplugged(_))
}
