//! A soak: migrations one after the other while nothing breaks. Whatever agents and kernels hold is counted whenever everything has come to
//! rest, and there is as much of it in the end as in the beginning. `cargo xtask soak` runs it for an hour.

mod plot;

use crate::guest::Guest;
use crate::plan::{HOSTS, Plan};
use crate::say;
use crate::stage::{Node, Stage};
use cutover_tests::footprint::{CONNECTIONS, Footprint, MEMORY, NAMES};
use cutover_tests::{firewall, frames, wait};
use ipnet::IpNet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Rounds of continuous integration; a long run has as many as there is time for.
const ROUNDS: usize = 3;

/// LIMIT: a thread for what blocks is kept for 10 s, a connection to another agent for the convergence time.
const QUIET: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// LIMIT: only failing runs wait this long.
const LONG: Duration = Duration::from_secs(120);

/// How long kernels keep a connection here that is over, or that nobody has answered.
const KEPT_S: &str = "5";
/// Connections of the hosts themselves, to etcd and to each other, come and go.
const CONNECTIONS_MORE: u64 = 16;
/// Destinations of each virtual machine in each round.
const DESTINATIONS: u8 = 8;

/// By how much the memory of three agents may grow at all, once each has had migrations. LIMIT: buffers and tables that are filled for the first time.
const MEMORY_AT_ALL_KIB: u64 = 12 * 1024;
/// Of fewer readings nobody can say whether memory goes on growing.
const READINGS_MIN: usize = 40;
/// By how much the memory of three agents may differ between the second quarter of a run and the last one.
const MEMORY_KIB: u64 = 2048;

/// What there was at one time, when everything was at rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reading {
    at: Duration,
    migrations: usize,
    footprint: Footprint,
}

#[test]
fn a_soak() {
    let minutes: Option<u64> =
        env::var("CUTOVER_SOAK_MINUTES").ok().map(|text| text.parse().expect("a number"));
    let limit = minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let mut soak = Soak::begin(1);
    let began_at = Instant::now();
    let mut rounds = 0;
    while limit.map_or(rounds < ROUNDS, |limit| began_at.elapsed() < limit) {
        soak.round();
        rounds += 1;
    }
    let wrong = soak.end();
    if let Ok(folder) = env::var("CUTOVER_SOAK_FOLDER") {
        write(Path::new(&folder), &soak.readings);
    }
    let (first, last) = (soak.readings[0], soak.readings[soak.readings.len() - 1]);
    say(format_args!("{} migrations in {:.0?}\n{}", last.migrations, last.at, table(&soak.readings)));
    assert!(wrong.is_empty(), "{wrong:#?}\nfrom {first:?} to {last:?}");
}

/// What is left has to be found.
#[test]
fn what_somebody_leaves_behind_is_found() {
    let mut soak = Soak::begin(2);
    soak.stage.nodes[1].host.namespace().ip("rule add pref 200 from 198.51.100.2 lookup 200");
    soak.patience = QUIET;
    let wrong = soak.end();
    let [left] = &wrong[..] else { panic!("{wrong:#?}") };
    assert!(left.starts_with("rules: "), "{left}");
}

struct Soak {
    stage: Stage,
    seed: u64,
    began_at: Instant,
    migrations: usize,
    readings: Vec<Reading>,
    patience: Duration,
}

impl Soak {
    /// Everything has been used once, and what goes by itself has gone.
    fn begin(seed: u64) -> Self {
        let homes: Vec<_> = Plan::of_seed(seed).homes;
        let plan = Plan { seed, homes, members: 1, beside_felix: None, steps: Vec::new() };
        let stage = Stage::new(&plan).unwrap_or_else(|failure| panic!("{}: {}", failure.what, failure.text));
        for node in &stage.nodes {
            track_connections(node);
            // Records of a long run take more.
            node.disk.enlarge(64);
        }
        let (began_at, readings) = (Instant::now(), Vec::new());
        let mut soak = Self { stage, seed, began_at, migrations: 0, readings, patience: LONG };
        soak.play();
        let mut before = soak.footprint();
        let mut since = Instant::now();
        wait::until(LONG, "nothing comes and goes any more", || {
            thread::sleep(LOOK_EVERY);
            let now = soak.footprint();
            if without_memory(now) != without_memory(before) {
                (before, since) = (now, Instant::now());
            }
            since.elapsed() >= QUIET
        });
        soak.read();
        soak
    }

    /// Every virtual machine is migrated some times, and how that ends differs.
    fn round(&mut self) {
        self.play();
        self.read();
    }

    fn play(&mut self) {
        self.seed += 1;
        let plan = Plan::undisturbed(self.seed, &self.stage.homes());
        for step in &plan.steps {
            let made = self.stage.make(*step);
            made.unwrap_or_else(|failure| panic!("{step}: {}: {}", failure.what, failure.text));
        }
        self.stage.guests.iter().for_each(|guest| speak(guest, self.seed));
        let settled = self.stage.settle();
        settled.unwrap_or_else(|failure| panic!("{}: {}", failure.what, failure.text));
        self.migrations += plan.migrations();
    }

    fn footprint(&self) -> Footprint {
        let of = |node: &Node| Footprint::of(&node.host, &node.agent);
        self.stage.nodes.iter().map(of).fold(Footprint::default(), |sum, it| sum + it)
    }

    fn read(&mut self) {
        let (at, migrations) = (self.began_at.elapsed(), self.migrations);
        self.readings.push(Reading { at, migrations, footprint: self.footprint() });
    }

    /// Waits until there is as much of everything as in the beginning, and says of what there is more.
    fn end(&mut self) -> Vec<String> {
        let first = self.readings[0].footprint;
        let in_time = wait::holds_within(self.patience, || {
            thread::sleep(LOOK_EVERY);
            left(first, self.footprint()).is_empty()
        });
        self.read();
        let mut wrong = if in_time { Vec::new() } else { left(first, self.footprint()) };
        wrong.extend(memory_grows(&self.readings));
        let judged = crate::judge::judge(&self.stage.nodes, &self.stage.guests, &[]);
        wrong.extend(judged.err().map(|failure| format!("{}: {}", failure.what, failure.text)));
        wrong
    }
}

/// Connections are tracked on the host, and forgotten soon.
fn track_connections(node: &Node) {
    let namespace = node.host.namespace();
    let chain = "chain forward { type filter hook forward priority 0; ct state established accept\n }";
    firewall::load(namespace, &format!("table inet tracking {{ {chain}\n }}"));
    let kept = ["udp_timeout", "udp_timeout_stream", "tcp_timeout_time_wait", "tcp_timeout_close"];
    for name in kept {
        namespace.set_sysctl(&format!("net/netfilter/nf_conntrack_{name}"), KEPT_S);
    }
}

/// A virtual machine sends to others, who do not answer: its host tracks that.
fn speak(guest: &Guest, round: u64) {
    let Some(tap) = &guest.open else { return };
    let addresses = guest.port.routed();
    let Some(source) = addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv4) else { return };
    for number in 0..DESTINATIONS {
        let [.., last] = (round * u64::from(DESTINATIONS) + u64::from(number)).to_be_bytes();
        let frame = frames::udp(guest.port.mac, source, [198, 51, 100, last].into(), b"soak");
        let mut bytes = frame.bytes().to_vec();
        // To the host, which routes it.
        bytes[..6].copy_from_slice(&guest.port.tap_mac().0);
        tap.send(&frames::Frame::raw(bytes));
    }
}

fn without_memory(footprint: Footprint) -> Footprint {
    let mut counts = *footprint.counts();
    counts[MEMORY] = 0;
    counts.into()
}

/// Of what there is more than in the beginning, or less.
fn left(first: Footprint, last: Footprint) -> Vec<String> {
    let both = first.counts().iter().zip(last.counts()).zip(NAMES).enumerate();
    let differs = |place: usize, before: u64, after: u64| match place {
        MEMORY => false,
        CONNECTIONS => after > before + CONNECTIONS_MORE,
        _ => after != before,
    };
    both.filter(|(place, ((before, after), _))| differs(*place, **before, **after))
        .map(|(_, ((before, after), name))| format!("{name}: {before} in the beginning, {after} in the end"))
        .collect()
}

/// Whether agents have much more memory in the end than in the beginning or, in a long run, more in the last quarter than in the second one.
fn memory_grows(readings: &[Reading]) -> Option<String> {
    let of = |reading: &Reading| reading.footprint.counts()[MEMORY];
    let (before, after) = (of(readings.first()?), of(readings.last()?));
    if after > before + MEMORY_AT_ALL_KIB {
        return Some(format!("private memory: {before} KiB in the beginning, {after} KiB in the end"));
    }
    let quarter = readings.len() / 4;
    if readings.len() < READINGS_MIN {
        return None;
    }
    let median = |readings: &[Reading]| {
        let mut kib: Vec<u64> = readings.iter().map(of).collect();
        kib.sort_unstable();
        kib[kib.len() / 2]
    };
    let (second, last) =
        (median(&readings[quarter..quarter * 2]), median(&readings[readings.len() - quarter..]));
    (last > second + MEMORY_KIB)
        .then(|| format!("private memory: {second} KiB in the second quarter, {last} KiB in the last one"))
}

/// The first reading, those of the quarters, and the last one, as a table of Markdown.
fn table(readings: &[Reading]) -> String {
    let end = readings.len() - 1;
    let shown: Vec<Reading> = [0, end / 4, end / 2, end * 3 / 4, end].map(|place| readings[place]).to_vec();
    let row = |name: &str, cells: Vec<String>| format!("| {name} | {} |\n", cells.join(" | "));
    let mut text = row("migrations", shown.iter().map(|it| it.migrations.to_string()).collect());
    text += &row("---", shown.iter().map(|_| "--:".to_owned()).collect());
    text += &row("minutes", shown.iter().map(|it| (it.at.as_secs() / 60).to_string()).collect());
    for (place, name) in NAMES.iter().enumerate() {
        text += &row(name, shown.iter().map(|it| it.footprint.counts()[place].to_string()).collect());
    }
    text
}

/// `soak.csv`, `soak.md` and `soak.svg`.
fn write(folder: &Path, readings: &[Reading]) {
    let mut csv = format!("seconds,migrations,{}\n", NAMES.join(","));
    for reading in readings {
        let counts: Vec<String> = reading.footprint.counts().iter().map(u64::to_string).collect();
        writeln!(csv, "{},{},{}", reading.at.as_secs(), reading.migrations, counts.join(","))
            .expect("memory");
    }
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    put("soak.csv", &csv);
    put("soak.md", &table(readings));
    put("soak.svg", &plot::draw(readings));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(number: usize, memory: u64) -> Reading {
        let mut counts = [7; NAMES.len()];
        counts[MEMORY] = memory;
        let at = Duration::from_secs(60 * u64::try_from(number).expect("64 bits"));
        Reading { at, migrations: number * 36, footprint: counts.into() }
    }

    fn run(memory: impl Fn(usize) -> u64) -> Vec<Reading> {
        (0..100).map(|number| reading(number, memory(number))).collect()
    }

    #[test]
    fn one_more_of_anything_is_named() {
        let first = reading(0, 9000).footprint;
        assert!(left(first, first).is_empty());
        for (place, name) in NAMES.iter().enumerate().filter(|(place, _)| *place != MEMORY) {
            let mut counts = *first.counts();
            counts[place] += if place == CONNECTIONS { CONNECTIONS_MORE + 1 } else { 1 };
            let wrong = left(first, counts.into());
            assert!(wrong.len() == 1 && wrong[0].starts_with(name), "{wrong:?}");
        }
    }

    #[test]
    fn memory_that_grows_all_the_time_is_found_and_what_grows_once_is_not() {
        assert_eq!(memory_grows(&run(|number| 9000 + 1000 * u64::from(number > 10))), None);
        assert_eq!(memory_grows(&run(|number| 9000 + if number % 7 == 3 { 30_000 } else { 0 })), None);
        // 50 KiB for 36 migrations: a little more than a kilobyte each.
        let grows = run(|number| 9000 + 50 * u64::try_from(number).expect("64 bits"));
        assert!(memory_grows(&grows).is_some());
        assert_eq!(memory_grows(&grows[..20]), None, "too short");
        let once = [reading(0, 20_000), reading(1, 80_000)];
        assert!(memory_grows(&once).is_some(), "what is kept of the first migration");
    }

    #[test]
    fn every_column_has_a_panel_and_a_row() {
        let readings = run(|_| 9000);
        let (text, drawn) = (table(&readings), plot::draw(&readings));
        for name in NAMES {
            assert!(text.contains(name) && drawn.contains(name), "{name}");
        }
        assert_eq!(HOSTS, 3, "the memory of three agents");
    }
}
