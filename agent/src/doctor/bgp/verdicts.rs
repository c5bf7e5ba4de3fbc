//! Configurations that were judged wrongly once, with variations of each. What is right was seen with BIRD 2.0.12 and 1.6.8 and FRR 8.4.4.
//!
//! Each is judged for IPv4 and, with its words exchanged, for IPv6.

mod bird;
mod frr;

use super::{Files, examine};
use crate::doctor::finding::{Finding, Level};
use cutover_daemon::processes::Processes;
use cutover_daemon::settings::{DatastoreType, Settings};

/// A file with a part or two exchanged.
struct Case {
    file: File,
    text: String,
}

/// Whose file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum File {
    Bird,
    Bird1,
    Frr,
}

/// What a check has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It is as it should be.
    Ok,
    /// Nothing, or that it is as it should be.
    Fine,
    /// It could not tell, and does not say that it is as it should be.
    Notice,
    Warning,
    Error,
}
use Verdict::{Error, Fine, Notice, Ok, Warning};

impl Case {
    #[track_caller]
    fn of((file, text): (File, &str), edits: &[(&str, &str)]) -> Self {
        let mut text = text.to_owned();
        for (from, to) in edits {
            assert!(text.contains(from), "{from:?} is not in {text}");
            text = text.replace(from, to);
        }
        Self { file, text }
    }

    fn text(&self, is_ipv6: bool) -> String {
        let mut text = self.text.clone();
        if !is_ipv6 {
            return text;
        }
        for (from, to) in [
            ("ipv4", "ipv6"),
            ("default ipv6-unicast", "default ipv4-unicast"),
            ("ip prefix-list", "ipv6 prefix-list"),
            ("access-list LIST", "ipv6 access-list LIST"),
            ("match ip ", "match ipv6 "),
            ("ip protocol", "ipv6 protocol"),
            ("ospf v2", "ospf v3"),
            ("protocol rip", "protocol rip ng"),
            ("master4", "master6"),
            ("/32 via", "/128 via"),
            ("0.0.0.0/0", "::/0"),
            (" 32", " 128"),
            ("= 32", "= 128"),
            ("192.0.2.", "2001:db8::"),
            ("198.51.100.", "2001:db8:1::"),
            ("203.0.113.0/24", "2001:db8:2::/48"),
            ("10.65.0.0/16", "2001:db8:65::/48"),
        ] {
            text = text.replace(from, to);
        }
        text
    }

    fn findings(&self, is_ipv6: bool) -> Vec<Finding> {
        let folder = tempfile::tempdir().unwrap();
        let name = match self.file {
            File::Bird1 if is_ipv6 => "bird6.conf",
            File::Bird | File::Bird1 => "bird.conf",
            File::Frr => "frr.conf",
        };
        let path = folder.path().join(name);
        std::fs::write(&path, self.text(is_ipv6)).unwrap();
        let (normal, elevated) = if self.file == File::Frr { (100_665_344, 10) } else { (1024, 512) };
        let settings = Settings {
            datastore_type: DatastoreType::Dir,
            interface_prefix: "tap".parse().unwrap(),
            ipv4_normal_route_priority: normal,
            ipv4_elevated_route_priority: elevated,
            ipv6_normal_route_priority: normal,
            ipv6_elevated_route_priority: elevated,
            ..Settings::default()
        };
        let files = match self.file {
            File::Frr => Files { frr: Some(path), ..Files::default() },
            File::Bird | File::Bird1 => Files { bird: vec![path], ..Files::default() },
        };
        let mut findings = examine(&files, &Processes::default(), &settings);
        // The other family has no peers.
        findings.retain(|finding| !finding.what.ends_with("announced to nobody"));
        findings
    }

    #[track_caller]
    fn judge(&self, check: &str, expected: Verdict) {
        for is_ipv6 in [false, true] {
            let findings = self.findings(is_ipv6);
            let of_check = findings.iter().filter(|finding| finding.check.name == check);
            let levels: Vec<Level> = of_check.map(|finding| finding.level).collect();
            let worst = levels.iter().max();
            let is_so = match expected {
                Ok => worst == Some(&Level::Ok),
                Fine => worst.is_none_or(|worst| *worst == Level::Ok),
                Notice => worst == Some(&Level::Notice) && !levels.contains(&Level::Ok),
                Warning => worst == Some(&Level::Warning),
                Error => worst == Some(&Level::Error),
            };
            assert!(is_so, "{check} is not {expected:?} in\n{}\n{findings:#?}", self.text(is_ipv6));
        }
    }

    /// No check has anything to say.
    #[track_caller]
    fn is_fine(&self) {
        for is_ipv6 in [false, true] {
            let findings = self.findings(is_ipv6);
            let bad: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).collect();
            assert!(bad.is_empty(), "{bad:#?} in\n{}", self.text(is_ipv6));
            assert!(findings.len() > 8, "{findings:#?}");
        }
    }
}
