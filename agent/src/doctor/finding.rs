//! What a check says.

use std::fmt;

/// How bad something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know; also when something could not be judged.
    Notice,
    /// Works, but worse than it could, or not in every case.
    Warning,
    /// Migrations do not work as they should.
    Error,
}

impl Level {
    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a check is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Area {
    /// The agent's settings.
    Settings,
    /// What the kernel can do.
    Kernel,
    /// The agent itself, and what would get in its way.
    Agent,
    /// Where the resources are.
    Datastore,
    /// Forwarding and the interfaces of VMs.
    Network,
    /// What forwards what is sent to a VM while it moves.
    Hitless,
    /// The daemon that carries the routes to other hosts.
    Bgp,
    /// The time of day.
    Clock,
    /// Nova's configuration.
    Nova,
}

impl Area {
    /// The first part of the names of its checks.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Kernel => "kernel",
            Self::Agent => "agent",
            Self::Datastore => "datastore",
            Self::Network => "network",
            Self::Hitless => "hitless",
            Self::Bgp => "bgp",
            Self::Clock => "clock",
            Self::Nova => "nova",
        }
    }
}

/// One thing that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Check {
    /// What it is about.
    pub area: Area,
    /// Its name within the area. Names are for programs, and do not change.
    pub name: &'static str,
    /// What has to be so, in one line.
    pub wants: &'static str,
    /// Why it matters.
    pub why: &'static str,
}

impl Check {
    /// Its name in full.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}", self.area.word(), self.name)
    }

    pub(super) fn ok(&'static self, what: impl Into<String>) -> Finding {
        Finding { check: self, level: Level::Ok, what: what.into(), change: None }
    }

    pub(super) fn notice(&'static self, what: impl Into<String>, change: impl Into<String>) -> Finding {
        self.finding(Level::Notice, what, change)
    }

    pub(super) fn warning(&'static self, what: impl Into<String>, change: impl Into<String>) -> Finding {
        self.finding(Level::Warning, what, change)
    }

    pub(super) fn error(&'static self, what: impl Into<String>, change: impl Into<String>) -> Finding {
        self.finding(Level::Error, what, change)
    }

    /// What this process may not look at.
    pub(super) fn needs_root(&'static self, what: impl Into<String>) -> Finding {
        self.notice(what, NEEDS_ROOT)
    }

    pub(super) fn finding(
        &'static self,
        level: Level,
        what: impl Into<String>,
        change: impl Into<String>,
    ) -> Finding {
        Finding { check: self, level, what: what.into(), change: Some(change.into()) }
    }
}

const NEEDS_ROOT: &str = "run cutover doctor as root";

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which check.
    pub check: &'static Check,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub what: String,
    /// What to change, unless it is as it should be.
    pub change: Option<String>,
}

impl Finding {
    /// Whether it only says that this process may not look.
    #[must_use]
    pub fn is_for_lack_of_privilege(&self) -> bool {
        self.change.as_deref() == Some(NEEDS_ROOT)
    }
}
