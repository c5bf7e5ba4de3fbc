//! What a real orchestrator wrote, played to engines on every host. `tests/recordings/compact.py` has the format.

use super::fleet::{Announcements, Fleet, tap};
use super::host::*;
use crate::fact::Fact;
use crate::machine::State::{self, Base, Live, Target, TimeWait};
use crate::model::{Endpoint, LiveMigration, MigrationSource, MigrationTarget};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

enum Event {
    Written(Fact),
    Runs { host: String, port: String },
    Stopped { port: String },
}

struct Recording {
    events: Vec<(u64, Event)>,
    hosts: BTreeSet<String>,
    ports: BTreeSet<String>,
    /// How many times each endpoint was created so far.
    uids: BTreeMap<String, u32>,
}

impl Recording {
    fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
        let text = std::fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap();
        let mut recording = Self {
            events: Vec::new(),
            hosts: BTreeSet::new(),
            ports: BTreeSet::new(),
            uids: BTreeMap::new(),
        };
        for line in text.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let event = recording.event(&fields[1..]).unwrap_or_else(|| panic!("{name}: {line}"));
            recording.events.push((fields[0].parse().unwrap(), event));
        }
        recording
    }

    fn event(&mut self, fields: &[&str]) -> Option<Event> {
        Some(match *fields {
            ["VM", "-", port] => Event::Stopped { port: port.into() },
            ["VM", host, port] => Event::Runs { host: host.into(), port: port.into() },
            ["-", "WEP", host, port] => Event::Written(Fact::EndpointRemoved(named_port(host, port))),
            ["-", "LM", host, port] | [_, "LM", host, port, "?"] => {
                Event::Written(Fact::MigrationRemoved(named_port(host, port).to_string()))
            }
            [how, "WEP", host, port, prefixes] => {
                let uids = self.uids.entry(format!("{host} {port}")).or_default();
                *uids += u32::from(how == "+");
                let uid = format!("e{uids}").into();
                self.hosts.insert(host.into());
                self.ports.insert(port.into());
                let prefixes = prefixes.split(',').map(|prefix| prefix.parse().unwrap()).collect();
                let endpoint = Endpoint { prefixes, uid, ..endpoint_on(&tap(port)) };
                Event::Written(Fact::EndpointWritten(named_port(host, port), endpoint))
            }
            [_, "LM", host, port, uid, source, target] => {
                let migration = LiveMigration {
                    uid: uid.into(),
                    source: Some(MigrationSource::Endpoint(named_port(source, port))),
                    target: Some(MigrationTarget::Endpoint(named_port(target, port))),
                };
                Event::Written(Fact::MigrationWritten(named_port(host, port).to_string(), migration))
            }
            _ => return None,
        })
    }

    fn fleet(&self, announcements: Announcements) -> Fleet {
        let hosts: Vec<_> = self.hosts.iter().map(String::as_str).collect();
        let ports: Vec<_> = self.ports.iter().map(String::as_str).collect();
        Fleet::new(&hosts, &ports, announcements)
    }

    /// Plays everything and a minute more. Every agent is restarted after event `restart_after`.
    fn play(&self, announcements: Announcements, taps: Taps, restart_after: Option<usize>) -> Fleet {
        let hosts: Vec<_> = self.hosts.iter().map(String::as_str).collect();
        let ports: Vec<_> = self.ports.iter().map(String::as_str).collect();
        let plugged = if taps == Taps::Stay { &ports[..] } else { &[] };
        let mut fleet = Fleet::new(&hosts, plugged, announcements);
        let mut offset = 0;
        for (position, (at, event)) in self.events.iter().enumerate() {
            fleet.pass(ms(at - offset));
            offset = *at;
            match event {
                Event::Written(fact) if taps == Taps::ComeAndGo => tell_with_taps(&mut fleet, fact),
                Event::Written(fact) => fleet.tell(fact),
                Event::Runs { host, port } => fleet.move_to(host, port),
                Event::Stopped { port } => fleet.stop(port),
            }
            if restart_after == Some(position) {
                fleet.restart();
            }
        }
        fleet.pass(ms(60_000));
        for port in &self.ports {
            if let Some(host) = fleet.runs_on(port).map(str::to_owned) {
                assert_eq!(fleet.routes(port), [(host.as_str(), NORMAL)], "one normal route in the end");
            }
        }
        fleet
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taps {
    /// Every host has one for every port all the time.
    Stay,
    /// They come right before what the driver writes about them, and go as soon as nothing runs there any more.
    ComeAndGo,
}

fn tell_with_taps(fleet: &mut Fleet, fact: &Fact) {
    match fact {
        Fact::EndpointWritten(key, _)
        | Fact::MigrationWritten(_, LiveMigration { target: Some(MigrationTarget::Endpoint(key)), .. }) => {
            fleet.plug_again(&key.host, &key.endpoint);
        }
        _ => {}
    }
    fleet.tell(fact);
    if let Fact::EndpointRemoved(key) = fact
        && fleet.runs_on(&key.endpoint) != Some(&key.host)
    {
        fleet.unplug(&key.host, &key.endpoint);
    }
}

/// A row of `states`, which has one line for each endpoint that does not stay in Base: scenario, host, port, and the
/// states that the endpoint goes through.
struct Row {
    name: String,
    host: String,
    port: String,
    states: Vec<State>,
}

fn rows() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/states");
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let mut fields = line.split(' ').map(str::to_owned);
        let [name, host, port] = [(); 3].map(|()| fields.next().unwrap());
        Row { name, host, port, states: fields.map(|state| named(&state)).collect() }
    };
    text.lines().map(row).collect()
}

fn named(state: &str) -> State {
    *[Base, Target, Live, TimeWait].iter().find(|known| known.to_string() == state).expect("a state")
}

fn scenarios() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    texts.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// What the endpoint goes through if its announcement is lost: the same without Live.
fn unheard(states: &[State]) -> Vec<State> {
    states.iter().copied().filter(|state| *state != Live).collect()
}

fn expected(name: &str, host: &str, port: &str) -> Vec<State> {
    let mut rows = rows().into_iter();
    let row = rows.find(|row| (&*row.name, &*row.host, &*row.port) == (name, host, port));
    row.map_or_else(Vec::new, |row| row.states)
}

#[test]
fn all_thirty_are_here_and_every_row_belongs_to_one() {
    let names = scenarios();
    assert_eq!(names.len(), 30);
    for Row { name, host, port, .. } in rows() {
        let recording = Recording::read(&name);
        assert!(recording.hosts.contains(&host) && recording.ports.contains(&port), "{name} {host} {port}");
    }
}

#[test]
fn every_recording() {
    for name in scenarios() {
        let recording = Recording::read(&name);
        for taps in [Taps::Stay, Taps::ComeAndGo] {
            let mut fleet = recording.play(Announcements::Seen, taps, None);
            for host in &recording.hosts {
                for port in &recording.ports {
                    let states = fleet.states(host, port);
                    assert_eq!(
                        states,
                        expected(&name, host, port),
                        "{name}: {host}, port {port}, taps {taps:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_recording_without_a_single_announcement() {
    for name in scenarios() {
        let recording = Recording::read(&name);
        let mut fleet = recording.play(Announcements::Lost, Taps::Stay, None);
        for host in &recording.hosts {
            for port in &recording.ports {
                let states = fleet.states(host, port);
                assert_eq!(states, unheard(&expected(&name, host, port)), "{name}: {host}, port {port}");
            }
        }
    }
}

/// The driver's last write of a success decides it, where no virtual machine announced itself.
#[test]
fn every_success_without_an_announcement_is_one_with_the_last_write_of_the_driver() {
    let mut count = 0;
    for name in scenarios() {
        let recording = Recording::read(&name);
        let mut fleet = recording.fleet(Announcements::Lost);
        let mut over = BTreeMap::new();
        let mut offset = 0;
        for (at, event) in &recording.events {
            fleet.pass(ms(at - offset));
            offset = *at;
            match event {
                Event::Runs { host, port } => fleet.move_to(host, port),
                Event::Stopped { port } => fleet.stop(port),
                Event::Written(fact) => {
                    fleet.tell(fact);
                    match fact {
                        Fact::MigrationRemoved(name) => _ = over.insert(name.clone(), false),
                        Fact::MigrationWritten(name, _) => _ = over.remove(name),
                        Fact::EndpointRemoved(from) => over
                            .iter_mut()
                            .filter(|(name, _)| **name != from.to_string())
                            .for_each(|(_, source_gone)| *source_gone = true),
                        Fact::EndpointWritten(to, _) if over.remove(&to.to_string()) == Some(true) => {
                            count += 1;
                            let metric = fleet.metric(&to.host, &to.endpoint);
                            assert_eq!(metric, Some(ELEVATED), "{name}: {to} after {at} ms");
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    assert!(count > 10, "{count} successes");
}

#[test]
fn every_recording_with_a_restart_after_every_event() {
    for name in scenarios() {
        let recording = Recording::read(&name);
        let positions = (0..recording.events.len()).flat_map(|at| [(at, Taps::Stay), (at, Taps::ComeAndGo)]);
        for (position, taps) in positions {
            let mut fleet = recording.play(Announcements::Seen, taps, Some(position));
            for host in &recording.hosts {
                for port in &recording.ports {
                    let states = fleet.states(host, port);
                    let context = format!("{name}: {host}, port {port}, restarted after event {position}");
                    assert_eq!(states, expected(&name, host, port), "{context}");
                }
            }
        }
    }
}
