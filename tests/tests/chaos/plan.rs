//! What happens in a run, as plain data: a list of steps that follows from a seed, that can be written down, read again, and cut down.
//! Every part of a list is a list that can be played: a step that makes no sense where it stands does nothing. Pure.

mod text;

use crate::random::Random;
use std::collections::VecDeque;

/// A host by number.
pub(crate) type HostNumber = usize;
/// A member of etcd by number.
pub(crate) type MemberNumber = usize;
/// A virtual machine by number.
pub(crate) type GuestNumber = usize;

pub(crate) const HOSTS: usize = 3;

/// Of an etcd that goes on without one of them.
pub(crate) const MEMBERS: usize = 3;

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
    /// It goes on at the source although it ran on the target, and the driver says that the migration has failed.
    Fail { guest: GuestNumber },
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
    /// The host's uplink is down.
    Unplugged(HostNumber),
    /// The disk with the agent's run directory is full.
    DiskFull(HostNumber),
    /// Felix makes no chains for taps that come to the host. Nothing without a Felix there.
    ChainsLate(HostNumber),
    /// etcd's processes are dead.
    EtcdKilled,
    /// They do nothing.
    EtcdFrozen,
    /// One of three members is dead. Nothing with an etcd of one; the same of the next two.
    MemberKilled(MemberNumber),
    /// It does nothing.
    MemberFrozen(MemberNumber),
    /// It is cut off from the other members, but not from its clients.
    MemberCutOff(MemberNumber),
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
    /// Every pin of a running agent is removed.
    PinsRemoved(HostNumber),
    /// Felix takes its chains for the virtual machine where it runs away and makes them again. Nothing without a Felix there.
    ChainsDeleted { guest: GuestNumber },
    /// The virtual machine sends announcements of every kind without end: as itself, if it has been heard, and as everybody else.
    Flooded { guest: GuestNumber },
    /// etcd is restored from a backup that was made a moment before, and its revisions go back. Nothing with an etcd of several members.
    EtcdRestored,
    /// etcd forgets its history.
    EtcdCompacted,
    /// The agent does nothing while thousands of routes come and go, and misses some of that.
    Overrun(HostNumber),
    /// As [`Self::RoutesDeleted`], of both families, and the judge is not told. Only for showing that faults are found.
    DeletedUnreported { guest: GuestNumber },
    /// A virtual machine that nobody should have heard is heard, and neither model nor judge is told. Only for the same.
    AnnouncedUnreported { guest: GuestNumber },
}

/// A run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Where each virtual machine runs at first.
    pub(crate) homes: Vec<HostNumber>,
    /// How many members etcd has.
    pub(crate) members: usize,
    /// The host whose agent works beside Felix.
    pub(crate) beside_felix: Option<HostNumber>,
    pub(crate) steps: Vec<Step>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of_seed(seed: u64) -> Self {
        Self::favouring(seed, None)
    }

    /// The plan of a seed in which every second thing that breaks is this one, by its name in the text of a plan.
    pub(crate) fn favouring(seed: u64, favoured: Option<&str>) -> Self {
        let mut random = Random::new(seed);
        let homes: Vec<HostNumber> = (0..GUESTS).map(|_| random.below(HOSTS)).collect();
        let needs = |part: &str| favoured.is_some_and(|name| name.contains(part));
        let members = if random.once_in(3) || needs("member-") { MEMBERS } else { 1 };
        let is_beside = random.once_in(2) || needs("chains");
        let beside_felix = is_beside.then(|| random.below(HOSTS));
        let homes_of = homes.iter().enumerate();
        let journeys = homes_of.map(|(guest, home)| journey(&mut random, guest, *home, favoured)).collect();
        let migrations = interleaved(&mut random, journeys);
        let steps = with_faults(&mut random, migrations, favoured);
        Self { seed, homes, members, beside_felix, steps }
    }

    /// Migrations of virtual machines that run there, and nothing breaks.
    pub(crate) fn undisturbed(seed: u64, homes: &[HostNumber]) -> Self {
        let mut random = Random::new(seed);
        let homes_of = homes.iter().enumerate();
        let journeys = homes_of.map(|(guest, home)| journey(&mut random, guest, *home, None)).collect();
        let steps = interleaved(&mut random, journeys);
        Self { seed, homes: homes.to_vec(), members: 1, beside_felix: None, steps }
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
fn journey(
    random: &mut Random,
    guest: GuestNumber,
    mut home: HostNumber,
    favoured: Option<&str>,
) -> VecDeque<Vec<Step>> {
    let one_fails_of = if favoured == Some("fail") { 2 } else { 8 };
    let migration = |_| {
        let to = (home + 1 + random.below(HOSTS - 1)) % HOSTS;
        let begin = Step::Begin { guest, to };
        if random.once_in(6) {
            return vec![begin, Step::Cancel { guest }];
        }
        if random.once_in(one_fails_of) {
            return vec![begin, Step::Move { guest, is_announced: true }, Step::Fail { guest }];
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
fn with_faults(random: &mut Random, migrations: Vec<Step>, favoured: Option<&str>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lasting: Vec<(Fault, usize)> = Vec::new();
    for step in migrations {
        match trouble(random, favoured) {
            Some(Step::Break(fault)) if lasting.iter().any(|(other, _)| other.excludes(fault)) => {}
            Some(Step::Break(fault)) => {
                steps.push(Step::Break(fault));
                lasting.push((fault, 1 + random.below(LONGEST_FAULT)));
            }
            hit => steps.extend(hit),
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

/// A fault or a hit in one of three cases.
fn trouble(random: &mut Random, favoured: Option<&str>) -> Option<Step> {
    /// LIMIT: the rarest one is one of some fifty.
    const DRAWS: usize = 10_000;
    let draw = |random: &mut Random| {
        if random.once_in(2) { Step::Break(fault(random)) } else { Step::Hit(hit(random)) }
    };
    if !random.once_in(3) {
        return None;
    }
    match favoured.filter(|_| random.once_in(2)) {
        // It is no fault that breaks but a journey that fails.
        None | Some("fail") => Some(draw(random)),
        Some(name) => {
            let found = (0..DRAWS).map(|_| draw(random)).find(|step| step.name() == name);
            Some(found.unwrap_or_else(|| panic!("nothing that breaks is called {name}")))
        }
    }
}

fn fault(random: &mut Random) -> Fault {
    let (host, member) = (random.below(HOSTS), random.below(MEMBERS));
    match random.below(16) {
        0..4 => {
            let memories = [Memory::Kept, Memory::Kept, Memory::Kept];
            let lost = [Memory::Truncated, Memory::OfAnotherVersion, Memory::Gone];
            Fault::Killed(host, random.one_of(&[memories, lost].concat()))
        }
        4 => Fault::Frozen(host),
        5 => Fault::Partitioned(host),
        6 | 7 => Fault::Muted(host),
        8 => Fault::Unplugged(host),
        9 | 10 => Fault::DiskFull(host),
        11 => Fault::ChainsLate(host),
        12 => Fault::EtcdKilled,
        13 => Fault::EtcdFrozen,
        14 => random.one_of(&[Fault::MemberKilled(member), Fault::MemberFrozen(member)]),
        _ => Fault::MemberCutOff(member),
    }
}

fn hit(random: &mut Random) -> Hit {
    let (guest, host) = (random.below(GUESTS), random.below(HOSTS));
    match random.below(20) {
        0..4 => Hit::RoutesDeleted { guest, is_ipv6: random.once_in(2) },
        4 | 5 => Hit::NeighboursDeleted { guest },
        6 | 7 => Hit::TapFlapped { guest },
        8 | 9 => Hit::RulesDeleted(host),
        10 => Hit::TunnelDeleted(host),
        11 => Hit::EtcdRestored,
        12 => Hit::EtcdCompacted,
        13..16 => Hit::PinsRemoved(host),
        16 => Hit::ChainsDeleted { guest },
        17 | 18 => Hit::Flooded { guest },
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
            Self::Unplugged(host) => (3, host),
            Self::DiskFull(host) => (4, host),
            Self::ChainsLate(host) => (5, host),
            // A majority is left, or nobody.
            Self::EtcdKilled
            | Self::EtcdFrozen
            | Self::MemberKilled(_)
            | Self::MemberFrozen(_)
            | Self::MemberCutOff(_) => (6, 0),
        };
        thing(self) == thing(other)
    }
}

impl Step {
    /// What it is called in the text of a plan, whatever it is done to.
    pub(crate) fn name(self) -> String {
        let text = self.to_string();
        let mut words = text.split_whitespace().filter(|word| !["break", "mend"].contains(word));
        words.next().unwrap_or_default().to_owned()
    }

    /// The virtual machine that it is about.
    pub(crate) const fn guest(self) -> Option<GuestNumber> {
        match self {
            Self::Begin { guest, .. }
            | Self::Move { guest, .. }
            | Self::Succeed { guest, .. }
            | Self::Cancel { guest }
            | Self::Fail { guest }
            | Self::Hit(
                Hit::RoutesDeleted { guest, .. }
                | Hit::NeighboursDeleted { guest }
                | Hit::TapFlapped { guest }
                | Hit::ChainsDeleted { guest }
                | Hit::Flooded { guest }
                | Hit::DeletedUnreported { guest }
                | Hit::AnnouncedUnreported { guest },
            ) => Some(guest),
            Self::Break(_) | Self::Mend(_) | Self::Hit(_) | Self::Settle => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_can_be_read_again() {
        let mut kinds = std::collections::BTreeSet::new();
        let is_step =
            |line: &&str| !["seed", "homes", "members", "felix"].iter().any(|word| line.starts_with(word));
        for seed in 0..200 {
            let plan = Plan::of_seed(seed);
            assert_eq!(plan, Plan::of_seed(seed));
            assert_eq!(plan.migrations(), MIGRATIONS);
            let text = plan.to_string();
            assert_eq!(text.parse::<Plan>(), Ok(plan));
            kinds.extend(text.lines().filter(is_step).map(|line| {
                line.split_whitespace()
                    .filter(|word| word.parse::<u8>().is_err())
                    .collect::<Vec<_>>()
                    .join(" ")
            }));
        }
        // Seven kinds of steps, 15 faults that break and are mended, twelve hits and a time to settle.
        assert_eq!(kinds.len(), 7 + 2 * 15 + 12 + 1, "{kinds:#?}");
    }

    #[test]
    fn what_is_favoured_is_frequent() {
        for name in ["fail", "disk-full", "remove-pins", "member-cut-off", "delete-chains"] {
            let plan = Plan::favouring(1, Some(name));
            assert_eq!(plan.migrations(), MIGRATIONS);
            let often =
                plan.steps.iter().filter(|step| !matches!(step, Step::Mend(_)) && step.name() == name);
            assert!(often.count() >= 9, "{name}:\n{plan}");
        }
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
        for text in [
            "begin",
            "begin 1 7",
            "begin 0 1",
            "break what",
            "homes 0\nmove 1",
            "seed x",
            "members 2",
            "felix 3",
        ] {
            assert!(text.parse::<Plan>().is_err(), "{text}");
        }
    }
}
