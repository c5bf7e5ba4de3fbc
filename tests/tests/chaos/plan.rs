//! What happens in a run, as plain data: a list of steps that follows from a seed, that can be written down, read again, and cut down.
//! Every part of a list is a list that can be played: a step that makes no sense where it stands does nothing. Pure.

use crate::random::Random;
use std::collections::VecDeque;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// A host by number.
pub(crate) type HostNumber = usize;
/// A virtual machine by number.
pub(crate) type GuestNumber = usize;

pub(crate) const HOSTS: usize = 3;

/// LIMIT: so many that faults meet migrations in every state, and so few that three agents on a busy machine keep up.
const GUESTS: usize = 12;
/// So many each.
const MIGRATIONS_EACH: usize = 3;
pub(crate) const MIGRATIONS: usize = GUESTS * MIGRATIONS_EACH;

/// How many migrations are under way at once, at most.
const OPEN_AT_ONCE: usize = 6;
/// How many steps a fault lasts, at most.
const LONGEST_FAULT: usize = 8;

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The driver writes the migration and the endpoints of source and target; the target's tap is plugged.
    Begin { guest: GuestNumber, to: HostNumber },
    /// The virtual machine runs on the target from now on. Its hypervisor announces it, or nobody does.
    Move { guest: GuestNumber, is_announced: bool },
    /// The driver says that the migration has succeeded, creating the target's endpoint anew or only rewriting it.
    Succeed { guest: GuestNumber, is_recreated: bool },
    /// The driver says that it has failed; the virtual machine never moved.
    Cancel { guest: GuestNumber },
    /// Something breaks.
    Break(Fault),
    /// It is mended.
    Mend(Fault),
    /// Somebody does something that is over at once.
    Hit(Hit),
    /// Everything is mended, and agents bring about what the model says.
    Settle,
}

/// What lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The agent is killed, and when it is started again it finds its memory like this.
    Killed(HostNumber, Memory),
    /// The agent does nothing (SIGSTOP).
    Frozen(HostNumber),
    /// Nothing gets through between the host and etcd.
    Partitioned(HostNumber),
    /// Nothing gets through between this host's agent and others.
    Muted(HostNumber),
    /// etcd's process is dead.
    EtcdKilled,
    /// It does nothing.
    EtcdFrozen,
}

/// What an agent finds of `state.json`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Memory {
    Kept,
    Truncated,
    OfAnotherVersion,
    Gone,
}

/// What is over at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hit {
    /// Somebody deletes the routes of one family (`is_ipv6`) of the virtual machine where it runs.
    RoutesDeleted { guest: GuestNumber, is_ipv6: bool },
    /// Its permanent neighbours where it runs.
    NeighboursDeleted { guest: GuestNumber },
    /// Its tap where it runs goes down and up.
    TapFlapped { guest: GuestNumber },
    /// The rules of forwarding on a host are deleted.
    RulesDeleted(HostNumber),
    /// The tunnel's device on a host is deleted.
    TunnelDeleted(HostNumber),
    /// etcd is restored from a backup that was made a moment before, and its revisions go back.
    EtcdRestored,
    /// etcd forgets its history.
    EtcdCompacted,
    /// The agent does nothing while thousands of routes come and go, and misses some of that.
    Overrun(HostNumber),
    /// As [`Self::RoutesDeleted`], of both families, and the judge is not told. Only for showing that faults are found.
    DeletedUnreported { guest: GuestNumber },
}

/// A run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Where each virtual machine runs at first.
    pub(crate) homes: Vec<HostNumber>,
    pub(crate) steps: Vec<Step>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let homes: Vec<HostNumber> = (0..GUESTS).map(|_| random.below(HOSTS)).collect();
        let homes_of = homes.iter().enumerate();
        let journeys = homes_of.map(|(guest, home)| journey(&mut random, guest, *home)).collect();
        let migrations = interleaved(&mut random, journeys);
        let steps = with_faults(&mut random, migrations);
        Self { seed, homes, steps }
    }

    /// The same with other steps.
    pub(crate) fn with_steps(&self, steps: Vec<Step>) -> Self {
        Self { steps, ..self.clone() }
    }

    /// How many migrations are in it.
    pub(crate) fn migrations(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Begin { .. })).count()
    }
}

/// The migrations of one virtual machine, a list of steps each.
fn journey(random: &mut Random, guest: GuestNumber, mut home: HostNumber) -> VecDeque<Vec<Step>> {
    let migration = |_| {
        let to = (home + 1 + random.below(HOSTS - 1)) % HOSTS;
        let begin = Step::Begin { guest, to };
        if random.once_in(6) {
            return vec![begin, Step::Cancel { guest }];
        }
        home = to;
        let (is_announced, is_recreated) = (!random.once_in(8), !random.once_in(3));
        vec![begin, Step::Move { guest, is_announced }, Step::Succeed { guest, is_recreated }]
    };
    (0..MIGRATIONS_EACH).map(migration).collect()
}

/// Steps of one virtual machine keep their order; those of different ones are mixed.
fn interleaved(random: &mut Random, mut journeys: Vec<VecDeque<Vec<Step>>>) -> Vec<Step> {
    let mut open: Vec<(GuestNumber, VecDeque<Step>)> = Vec::new();
    let mut mixed = Vec::new();
    loop {
        let waiting: Vec<GuestNumber> = (0..journeys.len())
            .filter(|guest| !journeys[*guest].is_empty() && !open.iter().any(|(other, _)| other == guest))
            .collect();
        if !waiting.is_empty() && open.len() < OPEN_AT_ONCE {
            let guest = random.one_of(&waiting);
            open.push((guest, journeys[guest].pop_front().expect("not empty").into()));
        }
        if open.is_empty() {
            return mixed;
        }
        let position = random.below(open.len());
        mixed.extend(open[position].1.pop_front());
        open.retain(|(_, steps)| !steps.is_empty());
    }
}

/// A fault or a hit before about one of three steps, and now and then time to settle.
fn with_faults(random: &mut Random, migrations: Vec<Step>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lasting: Vec<(Fault, usize)> = Vec::new();
    for step in migrations {
        match random.below(12) {
            0 | 1 => {
                let fault = fault(random);
                if !lasting.iter().any(|(other, _)| other.excludes(fault)) {
                    steps.push(Step::Break(fault));
                    lasting.push((fault, 1 + random.below(LONGEST_FAULT)));
                }
            }
            2 | 3 => steps.push(Step::Hit(hit(random))),
            _ => {}
        }
        steps.push(step);
        for (fault, left) in &mut lasting {
            *left -= 1;
            if *left == 0 {
                steps.push(Step::Mend(*fault));
            }
        }
        lasting.retain(|(_, left)| *left > 0);
        if random.once_in(30) {
            lasting.clear();
            steps.push(Step::Settle);
        }
    }
    steps
}

fn fault(random: &mut Random) -> Fault {
    let host = random.below(HOSTS);
    match random.below(10) {
        0..4 => {
            let memories = [Memory::Kept, Memory::Kept, Memory::Kept];
            let lost = [Memory::Truncated, Memory::OfAnotherVersion, Memory::Gone];
            Fault::Killed(host, random.one_of(&[memories, lost].concat()))
        }
        4 => Fault::Frozen(host),
        5 => Fault::Partitioned(host),
        6 | 7 => Fault::Muted(host),
        8 => Fault::EtcdKilled,
        _ => Fault::EtcdFrozen,
    }
}

fn hit(random: &mut Random) -> Hit {
    let (guest, host) = (random.below(GUESTS), random.below(HOSTS));
    match random.below(14) {
        0..4 => Hit::RoutesDeleted { guest, is_ipv6: random.once_in(2) },
        4 | 5 => Hit::NeighboursDeleted { guest },
        6 | 7 => Hit::TapFlapped { guest },
        8 | 9 => Hit::RulesDeleted(host),
        10 => Hit::TunnelDeleted(host),
        11 => Hit::EtcdRestored,
        12 => Hit::EtcdCompacted,
        _ => Hit::Overrun(host),
    }
}

impl Fault {
    /// Whether both are about the same thing, which is broken once.
    pub(crate) fn excludes(self, other: Self) -> bool {
        let thing = |fault: Self| match fault {
            Self::Killed(host, _) | Self::Frozen(host) => (0, host),
            Self::Partitioned(host) => (1, host),
            Self::Muted(host) => (2, host),
            Self::EtcdKilled | Self::EtcdFrozen => (3, 0),
        };
        thing(self) == thing(other)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        let homes: Vec<String> = self.homes.iter().map(ToString::to_string).collect();
        writeln!(f, "homes {}", homes.join(" "))?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Begin { guest, to } => write!(f, "begin {guest} {to}"),
            Self::Move { guest, is_announced: true } => write!(f, "move {guest}"),
            Self::Move { guest, is_announced: false } => write!(f, "move-silently {guest}"),
            Self::Succeed { guest, is_recreated: true } => write!(f, "succeed {guest}"),
            Self::Succeed { guest, is_recreated: false } => write!(f, "succeed-extended {guest}"),
            Self::Cancel { guest } => write!(f, "cancel {guest}"),
            Self::Break(fault) => write!(f, "break {fault}"),
            Self::Mend(fault) => write!(f, "mend {fault}"),
            Self::Hit(hit) => write!(f, "{hit}"),
            Self::Settle => f.write_str("settle"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Killed(host, Memory::Kept) => write!(f, "killed {host}"),
            Self::Killed(host, Memory::Truncated) => write!(f, "killed-truncated {host}"),
            Self::Killed(host, Memory::OfAnotherVersion) => write!(f, "killed-other-version {host}"),
            Self::Killed(host, Memory::Gone) => write!(f, "killed-forgetful {host}"),
            Self::Frozen(host) => write!(f, "frozen {host}"),
            Self::Partitioned(host) => write!(f, "partitioned {host}"),
            Self::Muted(host) => write!(f, "muted {host}"),
            Self::EtcdKilled => f.write_str("etcd-killed"),
            Self::EtcdFrozen => f.write_str("etcd-frozen"),
        }
    }
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::RoutesDeleted { guest, is_ipv6: false } => write!(f, "delete-routes-4 {guest}"),
            Self::RoutesDeleted { guest, is_ipv6: true } => write!(f, "delete-routes-6 {guest}"),
            Self::NeighboursDeleted { guest } => write!(f, "delete-neighbours {guest}"),
            Self::TapFlapped { guest } => write!(f, "flap-tap {guest}"),
            Self::RulesDeleted(host) => write!(f, "delete-rules {host}"),
            Self::TunnelDeleted(host) => write!(f, "delete-tunnel {host}"),
            Self::EtcdRestored => f.write_str("restore-etcd"),
            Self::EtcdCompacted => f.write_str("compact-etcd"),
            Self::Overrun(host) => write!(f, "overrun {host}"),
            Self::DeletedUnreported { guest } => write!(f, "delete-unreported {guest}"),
        }
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut plan = Self { seed: 0, homes: Vec::new(), steps: Vec::new() };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let wrong = |error: &dyn fmt::Display| format!("{line}: {error}");
            if let Some(seed) = line.strip_prefix("seed ") {
                plan.seed = seed.parse().map_err(|error: ParseIntError| wrong(&error))?;
            } else if let Some(homes) = line.strip_prefix("homes ") {
                let homes: Result<_, _> = homes.split_whitespace().map(str::parse).collect();
                plan.homes = homes.map_err(|error: ParseIntError| wrong(&error))?;
                if plan.homes.iter().any(|home| *home >= HOSTS) {
                    return Err(wrong(&"no such host"));
                }
            } else {
                plan.steps.push(line.parse()?);
            }
        }
        let beyond =
            plan.steps.iter().filter_map(|step| step.guest()).find(|guest| *guest >= plan.homes.len());
        match beyond {
            Some(guest) => Err(format!("virtual machine {guest} has no home")),
            None => Ok(plan),
        }
    }
}

impl Step {
    /// The virtual machine that it is about.
    pub(crate) const fn guest(self) -> Option<GuestNumber> {
        match self {
            Self::Begin { guest, .. }
            | Self::Move { guest, .. }
            | Self::Succeed { guest, .. }
            | Self::Cancel { guest }
            | Self::Hit(
                Hit::RoutesDeleted { guest, .. }
                | Hit::NeighboursDeleted { guest }
                | Hit::TapFlapped { guest }
                | Hit::DeletedUnreported { guest },
            ) => Some(guest),
            Self::Break(_) | Self::Mend(_) | Self::Hit(_) | Self::Settle => None,
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unknown = || format!("no such step: {line}");
        let number = |position: usize| -> Result<usize, String> {
            words.get(position).and_then(|word| word.parse().ok()).ok_or_else(unknown)
        };
        let host =
            |position| number(position).and_then(|host| if host < HOSTS { Ok(host) } else { Err(unknown()) });
        Ok(match *words.first().ok_or_else(unknown)? {
            "begin" => Self::Begin { guest: number(1)?, to: host(2)? },
            "move" => Self::Move { guest: number(1)?, is_announced: true },
            "move-silently" => Self::Move { guest: number(1)?, is_announced: false },
            "succeed" => Self::Succeed { guest: number(1)?, is_recreated: true },
            "succeed-extended" => Self::Succeed { guest: number(1)?, is_recreated: false },
            "cancel" => Self::Cancel { guest: number(1)? },
            "settle" => Self::Settle,
            "delete-routes-4" => Self::Hit(Hit::RoutesDeleted { guest: number(1)?, is_ipv6: false }),
            "delete-routes-6" => Self::Hit(Hit::RoutesDeleted { guest: number(1)?, is_ipv6: true }),
            "delete-neighbours" => Self::Hit(Hit::NeighboursDeleted { guest: number(1)? }),
            "flap-tap" => Self::Hit(Hit::TapFlapped { guest: number(1)? }),
            "delete-rules" => Self::Hit(Hit::RulesDeleted(host(1)?)),
            "delete-tunnel" => Self::Hit(Hit::TunnelDeleted(host(1)?)),
            "restore-etcd" => Self::Hit(Hit::EtcdRestored),
            "compact-etcd" => Self::Hit(Hit::EtcdCompacted),
            "overrun" => Self::Hit(Hit::Overrun(host(1)?)),
            "delete-unreported" => Self::Hit(Hit::DeletedUnreported { guest: number(1)? }),
            verb @ ("break" | "mend") => {
                let fault = match *words.get(1).ok_or_else(unknown)? {
                    "killed" => Fault::Killed(host(2)?, Memory::Kept),
                    "killed-truncated" => Fault::Killed(host(2)?, Memory::Truncated),
                    "killed-other-version" => Fault::Killed(host(2)?, Memory::OfAnotherVersion),
                    "killed-forgetful" => Fault::Killed(host(2)?, Memory::Gone),
                    "frozen" => Fault::Frozen(host(2)?),
                    "partitioned" => Fault::Partitioned(host(2)?),
                    "muted" => Fault::Muted(host(2)?),
                    "etcd-killed" => Fault::EtcdKilled,
                    "etcd-frozen" => Fault::EtcdFrozen,
                    _ => return Err(unknown()),
                };
                if verb == "break" { Self::Break(fault) } else { Self::Mend(fault) }
            }
            _ => return Err(unknown()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_can_be_read_again() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let plan = Plan::of_seed(seed);
            assert_eq!(plan, Plan::of_seed(seed));
            assert_eq!(plan.migrations(), MIGRATIONS);
            let text = plan.to_string();
            assert_eq!(text.parse::<Plan>(), Ok(plan));
            kinds.extend(text.lines().skip(2).map(|line| {
                line.split_whitespace()
                    .filter(|word| word.parse::<u8>().is_err())
                    .collect::<Vec<_>>()
                    .join(" ")
            }));
        }
        // Six kinds of steps, nine faults that break and are mended, nine hits and a time to settle.
        assert_eq!(kinds.len(), 6 + 2 * 9 + 9 + 1, "{kinds:#?}");
    }

    #[test]
    fn nothing_is_broken_twice_at_once() {
        for seed in 0..200 {
            let mut broken: Vec<Fault> = Vec::new();
            for step in Plan::of_seed(seed).steps {
                match step {
                    Step::Break(fault) => {
                        assert!(!broken.iter().any(|other| other.excludes(fault)), "{seed}: {fault:?}");
                        broken.push(fault);
                    }
                    Step::Mend(fault) => broken.retain(|other| *other != fault),
                    Step::Settle => broken.clear(),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        for text in ["begin", "begin 1 7", "begin 0 1", "break what", "homes 0\nmove 1", "seed x"] {
            assert!(text.parse::<Plan>().is_err(), "{text}");
        }
    }
}
