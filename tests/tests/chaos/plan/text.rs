//! Plans as text: written with a failure, and read again. One step a line.

use super::{Fault, HOSTS, Hit, MEMBERS, Memory, Plan, Step};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        let homes: Vec<String> = self.homes.iter().map(ToString::to_string).collect();
        writeln!(f, "homes {}", homes.join(" "))?;
        writeln!(f, "members {}", self.members)?;
        if let Some(host) = self.beside_felix {
            writeln!(f, "felix {host}")?;
        }
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
            Self::Fail { guest } => write!(f, "fail {guest}"),
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
            Self::Unplugged(host) => write!(f, "unplugged {host}"),
            Self::DiskFull(host) => write!(f, "disk-full {host}"),
            Self::ChainsLate(host) => write!(f, "chains-late {host}"),
            Self::EtcdKilled => f.write_str("etcd-killed"),
            Self::EtcdFrozen => f.write_str("etcd-frozen"),
            Self::MemberKilled(member) => write!(f, "member-killed {member}"),
            Self::MemberFrozen(member) => write!(f, "member-frozen {member}"),
            Self::MemberCutOff(member) => write!(f, "member-cut-off {member}"),
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
            Self::PinsRemoved(host) => write!(f, "remove-pins {host}"),
            Self::ChainsDeleted { guest } => write!(f, "delete-chains {guest}"),
            Self::Flooded { guest } => write!(f, "flood {guest}"),
            Self::EtcdRestored => f.write_str("restore-etcd"),
            Self::EtcdCompacted => f.write_str("compact-etcd"),
            Self::Overrun(host) => write!(f, "overrun {host}"),
            Self::DeletedUnreported { guest } => write!(f, "delete-unreported {guest}"),
            Self::AnnouncedUnreported { guest } => write!(f, "announce-unreported {guest}"),
        }
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut plan = Self { seed: 0, homes: Vec::new(), members: 1, beside_felix: None, steps: Vec::new() };
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
            } else if let Some(members) = line.strip_prefix("members ") {
                plan.members = members.parse().map_err(|error: ParseIntError| wrong(&error))?;
                if ![1, MEMBERS].contains(&plan.members) {
                    return Err(wrong(&"one or three"));
                }
            } else if let Some(host) = line.strip_prefix("felix ") {
                let host = host.parse().map_err(|error: ParseIntError| wrong(&error))?;
                if host >= HOSTS {
                    return Err(wrong(&"no such host"));
                }
                plan.beside_felix = Some(host);
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

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unknown = || format!("no such step: {line}");
        let number = |position: usize| -> Result<usize, String> {
            words.get(position).and_then(|word| word.parse().ok()).ok_or_else(unknown)
        };
        let below = |most: usize, position: usize| {
            number(position).and_then(|number| if number < most { Ok(number) } else { Err(unknown()) })
        };
        let (host, member) = (|position| below(HOSTS, position), |position| below(MEMBERS, position));
        Ok(match *words.first().ok_or_else(unknown)? {
            "begin" => Self::Begin { guest: number(1)?, to: host(2)? },
            "move" => Self::Move { guest: number(1)?, is_announced: true },
            "move-silently" => Self::Move { guest: number(1)?, is_announced: false },
            "succeed" => Self::Succeed { guest: number(1)?, is_recreated: true },
            "succeed-extended" => Self::Succeed { guest: number(1)?, is_recreated: false },
            "cancel" => Self::Cancel { guest: number(1)? },
            "fail" => Self::Fail { guest: number(1)? },
            "settle" => Self::Settle,
            "delete-routes-4" => Self::Hit(Hit::RoutesDeleted { guest: number(1)?, is_ipv6: false }),
            "delete-routes-6" => Self::Hit(Hit::RoutesDeleted { guest: number(1)?, is_ipv6: true }),
            "delete-neighbours" => Self::Hit(Hit::NeighboursDeleted { guest: number(1)? }),
            "flap-tap" => Self::Hit(Hit::TapFlapped { guest: number(1)? }),
            "delete-rules" => Self::Hit(Hit::RulesDeleted(host(1)?)),
            "delete-tunnel" => Self::Hit(Hit::TunnelDeleted(host(1)?)),
            "remove-pins" => Self::Hit(Hit::PinsRemoved(host(1)?)),
            "delete-chains" => Self::Hit(Hit::ChainsDeleted { guest: number(1)? }),
            "flood" => Self::Hit(Hit::Flooded { guest: number(1)? }),
            "restore-etcd" => Self::Hit(Hit::EtcdRestored),
            "compact-etcd" => Self::Hit(Hit::EtcdCompacted),
            "overrun" => Self::Hit(Hit::Overrun(host(1)?)),
            "announce-unreported" => Self::Hit(Hit::AnnouncedUnreported { guest: number(1)? }),
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
                    "unplugged" => Fault::Unplugged(host(2)?),
                    "disk-full" => Fault::DiskFull(host(2)?),
                    "chains-late" => Fault::ChainsLate(host(2)?),
                    "etcd-killed" => Fault::EtcdKilled,
                    "etcd-frozen" => Fault::EtcdFrozen,
                    "member-killed" => Fault::MemberKilled(member(2)?),
                    "member-frozen" => Fault::MemberFrozen(member(2)?),
                    "member-cut-off" => Fault::MemberCutOff(member(2)?),
                    _ => return Err(unknown()),
                };
                if verb == "break" { Self::Break(fault) } else { Self::Mend(fault) }
            }
            _ => return Err(unknown()),
        })
    }
}
