//! Versions of the BGP daemons: those that are installed, and those that `cargo xtask setup` has unpacked below the build
//! folder. Owns where their programs are; fetches nothing. What is not there is said so that nobody can miss it, and left
//! out by the test that wants it.

use crate::fabric::Daemon;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A version of a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// BIRD 1.6 of Debian 11.
    Bird16,
    /// The installed bird2: BIRD 2.0.12 of Debian 12.
    Bird2,
    /// BIRD 2.17 of Debian 13.
    Bird217,
    /// BIRD 3.1 of Debian 13.
    Bird3,
    /// BIRD 3.4 of Debian 14, which is not released yet.
    Bird34,
    /// The installed frr: FRR 8.4 of Debian 12.
    Frr8,
    /// FRR 10.3 of Debian 13.
    Frr10,
    /// FRR 10.7 of Debian 14, which is not released yet.
    Frr107,
}

impl Release {
    /// Every BIRD that reads the language of BIRD 2.
    pub const BIRDS: [Self; 4] = [Self::Bird2, Self::Bird217, Self::Bird3, Self::Bird34];
    /// Every FRR.
    pub const FRRS: [Self; 3] = [Self::Frr8, Self::Frr10, Self::Frr107];

    /// What it is a release of.
    #[must_use]
    pub const fn daemon(self) -> Daemon {
        match self {
            Self::Bird16 | Self::Bird2 | Self::Bird217 | Self::Bird3 | Self::Bird34 => Daemon::Bird,
            Self::Frr8 | Self::Frr10 | Self::Frr107 => Daemon::Frr,
        }
    }

    /// Whether its configuration is one for BIRD 3.
    #[must_use]
    pub const fn is_bird_3(self) -> bool {
        matches!(self, Self::Bird3 | Self::Bird34)
    }

    /// Its folder below `target/daemons`, unless it is installed.
    const fn folder(self) -> Option<&'static str> {
        match self {
            Self::Bird2 | Self::Frr8 => None,
            Self::Bird16 => Some("bird-1.6"),
            Self::Bird217 => Some("bird-2.17"),
            Self::Bird3 => Some("bird-3"),
            Self::Bird34 => Some("bird-3.4"),
            Self::Frr10 => Some("frr-10.3"),
            Self::Frr107 => Some("frr-10.7"),
        }
    }

    /// One of its programs, to be started.
    #[must_use]
    pub fn program(self, name: &str) -> PathBuf {
        match (self.folder(), name) {
            (Some(folder), _) => build_folder().join("daemons").join(folder).join(name),
            (None, "zebra" | "bgpd") => Path::new("/usr/lib/frr").join(name),
            (None, _) => PathBuf::from(name),
        }
    }

    /// Whether it can be run. If not, the tests' output says that `what` was not tried with it, captured or not.
    #[must_use]
    pub fn is_there(self, what: &str) -> bool {
        let Some(folder) = self.folder() else { return true };
        let is_there = build_folder().join("daemons").join(folder).is_dir();
        if !is_there {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(
                std::io::stderr(),
                "\nSKIPPED with {folder}: {what}. It is not unpacked; `cargo xtask setup` does that, or says why it cannot"
            );
        }
        is_there
    }
}

/// Where cargo builds: two folders above the one that this test is in.
pub(crate) fn build_folder() -> PathBuf {
    let own = std::env::current_exe().expect("a test is a program");
    own.ancestors().nth(3).expect("cargo puts tests into target/PROFILE/deps").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_where_setup_puts_them() {
        assert_eq!(Release::Bird2.program("bird"), Path::new("bird"));
        assert_eq!(Release::Frr8.program("zebra"), Path::new("/usr/lib/frr/zebra"));
        assert_eq!(Release::Frr8.program("vtysh"), Path::new("vtysh"));
        assert!(Release::Bird3.program("birdc").ends_with("daemons/bird-3/birdc"));
        assert!(build_folder().join("CACHEDIR.TAG").is_file(), "cargo's mark: {}", build_folder().display());
    }
}
