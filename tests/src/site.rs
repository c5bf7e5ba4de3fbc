//! Sites that had a configuration of their BGP daemon before there were VMs that move: services and a default route of their
//! own, filters and route-maps of their own, templates and peer groups. Puts into it what `cutover bgp --snippet` prints, as
//! its comments ask for; says nothing about VMs itself.
//!
//! The texts are of a host behind a ToR with eBGP. A place for an addition is its name in `@`.

use crate::fabric::Daemon;
use crate::release::Release;

/// What the ToR and the host are for a site.
#[derive(Clone, Debug)]
pub struct Seat {
    /// The host's number; its AS is 64512 and that, the ToR's is 64512.
    pub number: u8,
    /// What identifies the host.
    pub router_id: String,
    /// Of the ToR.
    pub ipv4: String,
    /// Of the ToR.
    pub ipv6: String,
}

/// The prefix of a service that runs on a host itself, which the site announced before.
#[must_use]
pub fn service(number: u8) -> ipnet::IpNet {
    format!("10.90.{number}.0/24").parse().expect("a prefix")
}

/// The configuration of a host with what was printed for it in its place.
///
/// # Panics
/// When additions and places do not fit: somebody who follows the comments would not know what to do either.
#[must_use]
#[track_caller]
pub fn with_snippet(release: Release, seat: &Seat, snippet: &str) -> String {
    let (text, places) = match (release, release.daemon()) {
        (Release::Bird16, _) => (include_str!("site/bird1.conf"), &BIRD1[..]),
        (_, Daemon::Bird) => (include_str!("site/bird.conf"), &BIRD[..]),
        (_, Daemon::Frr) => (include_str!("site/frr.conf"), &FRR[..]),
    };
    let (definitions, additions) = parts(snippet);
    assert_eq!(additions.len(), places.len(), "{places:?} are not the places of {additions:#?} in {snippet}");
    let autonomous_system = (64512 + u32::from(seat.number)).to_string();
    let known = [
        ("definitions", definitions),
        ("number", &seat.number.to_string()),
        ("as", &autonomous_system),
        ("id", &seat.router_id),
        ("tor4", &seat.ipv4),
        ("tor6", &seat.ipv6),
    ];
    // A daemon of one family has no peer of the other.
    let text =
        known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value));
    let needed = places.iter().zip(additions).filter(|(place, _)| !place.starts_with('-'));
    needed.fold(text, |text, (place, lines)| fill(&text, place, &lines))
}

/// The additions in the order in which they are printed. What a site has in another way begins with `-`.
const BIRD: [&str; 14] = [
    "kernel4",
    "learn4",
    "-install4",
    "kernel6",
    "learn6",
    "install6",
    "session",
    "channel4",
    "import4",
    "export4",
    "-session",
    "channel6",
    "import6",
    "export6",
];
const BIRD1: [&str; 7] = ["kernel4", "learn4", "-install4", "session", "channel4", "import4", "export4"];
/// Of IPv4 the site has route-maps of its own, which call the printed ones.
const FRR: [&str; 6] =
    ["general", "router", "-redistribute4", "-neighbours4", "redistribute6", "neighbours6"];

#[track_caller]
fn fill(text: &str, place: &str, value: &str) -> String {
    let mark = format!("@{place}@");
    assert!(text.contains(&mark), "no {mark} in {text}");
    text.replace(&mark, value)
}

/// What is defined, and the runs of indented lines in the comments after that.
fn parts(snippet: &str) -> (&str, Vec<String>) {
    let is_comment = |line: &str| line.is_empty() || line.starts_with(['#', '!']);
    let last = snippet.lines().rfind(|line| !is_comment(line)).unwrap_or_default();
    let (definitions, rest) = snippet.rsplit_once(&format!("\n{last}\n")).expect("something is defined");
    let definitions = &snippet[..definitions.len() + 1 + last.len() + 1];
    let mut additions = vec![String::new()];
    for line in rest.lines() {
        let addition = line.strip_prefix(['#', '!']).and_then(|line| line.strip_prefix("   "));
        match (addition, additions.last_mut()) {
            (Some(addition), Some(lines)) => lines.extend([addition, "\n"]),
            (None, Some(lines)) if !lines.is_empty() => additions.push(String::new()),
            _ => {}
        }
    }
    additions.retain(|lines| !lines.is_empty());
    (definitions, additions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_is_taken_apart() {
        let text = "# Head.\n#\n#   not an addition\n\nfunction f() {\n}\n\n# Put\n#\n#   one;\n#   two;\n#\n# and then\n#\n#   f();\n\n";
        let (definitions, additions) = parts(text);
        assert!(definitions.ends_with("function f() {\n}\n"), "{definitions}");
        assert_eq!(additions, ["one;\ntwo;\n", "f();\n"]);
    }
}
