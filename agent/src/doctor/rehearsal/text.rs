//! A light look at the text of a configuration, for what has to be there before a daemon starts and cannot be asked for: names of
//! interfaces, its own addresses, prefixes that its filters may look at, files that it writes.
//!
//! Refuses to know what anything in it does: a word that is taken for one of these and is none makes the stage richer, not the
//! verdict wrong.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What a configuration names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Named {
    /// Interfaces, or patterns of them.
    pub(super) interfaces: Vec<String>,
    /// Addresses that the daemon is to use itself.
    pub(super) locals: Vec<IpAddr>,
    /// Another one of this host's, probably.
    pub(super) router_id: Option<IpAddr>,
    /// Addresses that the daemon gives to an interface.
    pub(super) addresses: Vec<(String, IpNet)>,
    /// Networks.
    pub(super) prefixes: Vec<IpNet>,
    /// Files that it writes.
    pub(super) written: Vec<PathBuf>,
    /// Numbers that metrics of routes are compared with (FRR).
    pub(super) metrics: Vec<u32>,
    /// What peers have to know (TCP MD5).
    pub(super) passwords: Vec<String>,
    /// Whether bgpd keeps what it told while it restarts.
    pub(super) restarts_gracefully: bool,
    /// Programs of FRR that it has something for.
    pub(super) programs: Vec<&'static str>,
    /// Ranges of neighbours that only exist when they call.
    pub(super) dynamic: Vec<String>,
    /// Which interface a neighbour of FRR's is behind.
    pub(super) bound: BTreeMap<String, String>,
}

/// LIMIT: files of a site include each other a few times; a circle has to end.
const INCLUDES_MAX: usize = 100;

/// The same for BIRD.
pub(super) fn of_bird(file: &Path) -> Named {
    bird(&read(file).words)
}

/// Files of a configuration of BIRD's, the first one among them.
pub(super) fn files_of_bird(file: &Path) -> Vec<PathBuf> {
    read(file).files
}

/// Whether there is anything of BGP in a file of BIRD's or in what it includes.
pub(in crate::doctor) fn has_bgp(file: &Path) -> bool {
    read(file).words.windows(2).any(|pair| pair[0] == "protocol" && pair[1] == "bgp")
}

/// A file of BIRD's with everything that it includes.
#[derive(Default)]
struct Whole {
    /// What is included stands where it is included.
    words: Vec<String>,
    /// Those that are named, whether they can be read or not.
    files: Vec<PathBuf>,
}

fn read(file: &Path) -> Whole {
    let mut whole = Whole::default();
    whole.include(file);
    whole
}

impl Whole {
    fn include(&mut self, file: &Path) {
        self.files.push(file.to_owned());
        let Some(bytes) = content(file) else { return };
        let mut own = split(&String::from_utf8_lossy(&bytes)).into_iter().peekable();
        while let Some(word) = own.next() {
            let pattern = own.next_if(|next| {
                word == "include" && next.starts_with('"') && self.files.len() < INCLUDES_MAX
            });
            match pattern {
                Some(pattern) => {
                    let folder = file.parent().unwrap_or(Path::new("/"));
                    matching(&folder.join(&pattern[1..])).iter().for_each(|file| self.include(file));
                }
                None => self.words.push(word),
            }
        }
    }
}

/// What is in a file that can be read to its end.
fn content(file: &Path) -> Option<Vec<u8>> {
    if super::unreadable(file).is_some() { None } else { fs::read(file).ok() }
}

/// Files whose last part fits a pattern.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Vec::new() };
    let name = name.to_string_lossy();
    let Some((begin, end)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        path.file_name().is_some_and(|it| {
            let it = it.to_string_lossy();
            it.len() >= begin.len() + end.len() && it.starts_with(begin) && it.ends_with(end)
        })
    };
    let mut found: Vec<PathBuf> = entries.filter(fits).collect();
    found.sort();
    found
}

/// Words, texts (with the quotation mark that they begin with) and everything else, one character each; no comments.
fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_of_word = |it: char| it.is_alphanumeric() || "_.:/%-".contains(it);
        let length = if rest.starts_with('#') {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 1);
            words.push(rest[..end].to_owned());
            (end + 1).min(rest.len())
        } else if is_of_word(first) {
            let end = rest.find(|it| !is_of_word(it)).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            end
        } else {
            if !first.is_whitespace() {
                words.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    words
}

fn bird(words: &[String]) -> Named {
    let mut named = Named::default();
    let mut defined: BTreeMap<&str, &str> = BTreeMap::new();
    let word = |place: usize| words.get(place).map_or("", String::as_str);
    for (place, current) in words.iter().enumerate() {
        let next = word(place + 1);
        let address = |text: &str| {
            let text = defined.get(text).copied().unwrap_or(text);
            text.split('%').next().and_then(|text| text.parse::<IpAddr>().ok())
        };
        match current.as_str() {
            "define" if word(place + 2) == "=" => drop(defined.insert(next, word(place + 3))),
            "local" => named.locals.extend(address(next)),
            "source" if next == "address" => named.locals.extend(address(word(place + 2))),
            "router" if next == "id" => named.router_id = address(word(place + 2)).or(named.router_id),
            "password" => named.passwords.extend(next.strip_prefix('"').map(str::to_owned)),
            "interface" => {
                let until = words[place..].iter().position(|it| it == ";" || it == "{").unwrap_or(0);
                let list = &words[place + 1..place + until.max(1)];
                let mut before = "";
                for it in list {
                    if let Some(name) = it.strip_prefix('"')
                        && before != "-"
                    {
                        named.interfaces.push(name.to_owned());
                    }
                    before = it;
                }
            }
            "log" if next.starts_with("\"/") => named.written.push(PathBuf::from(&next[1..])),
            _ => {}
        }
        named.prefixes.extend(network(current));
    }
    named
}

fn network(word: &str) -> Option<IpNet> {
    let net: IpNet = word.parse().ok()?;
    (net.prefix_len() > 0 && net.prefix_len() < net.max_prefix_len()).then(|| net.trunc())
}

/// The same for FRR.
pub(super) fn of_frr(text: &str) -> Named {
    let mut named = Named::default();
    let mut interface = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["interface", name, ..] => {
                named.interfaces.push(name.to_owned());
                interface = Some(name.to_owned());
            }
            ["ip" | "ipv6", "address", address, ..] => {
                let address = address.parse().ok();
                named.addresses.extend(interface.clone().zip(address));
            }
            ["bgp", "router-id", id] => named.router_id = id.parse().ok(),
            ["bgp", "graceful-restart"] => named.restarts_gracefully = true,
            ["neighbor", neighbour, "update-source", source] => match source.parse() {
                Ok(address) => named.locals.push(address),
                Err(_) => {
                    named.interfaces.push(source.to_owned());
                    named.bound.insert(neighbour.to_owned(), source.to_owned());
                }
            },
            ["neighbor", neighbour, "interface", name] => {
                named.interfaces.push(name.to_owned());
                named.bound.insert(neighbour.to_owned(), name.to_owned());
            }
            ["neighbor", _, "password", password] => named.passwords.push(password.to_owned()),
            ["neighbor", _, "bfd", ..] => named.programs.push("bfdd"),
            ["bgp", "listen", "range", range, ..] => named.dynamic.push(range.to_owned()),
            ["ip" | "ipv6", "route", ..] => named.programs.push("staticd"),
            ["router", "ospf", ..] => named.programs.push("ospfd"),
            ["router", "ospf6", ..] => named.programs.push("ospf6d"),
            ["router", "isis", ..] => named.programs.push("isisd"),
            ["match", "metric", number] => named.metrics.extend(number.parse::<u32>()),
            ["log", "file", path, ..] => named.written.push(path.into()),
            _ => {}
        }
        if !line.starts_with(char::is_whitespace) && words.first() != Some(&"interface") {
            interface = None;
        }
        named.prefixes.extend(words.iter().filter_map(|word| network(word)));
    }
    named.programs.sort_unstable();
    named.programs.dedup();
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bird_needs_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bird.conf");
        fs::create_dir(folder.path().join("more")).unwrap();
        fs::write(folder.path().join("more/a.conf"), "protocol bgp b { local OWN as 1; password \"x\"; }")
            .unwrap();
        let text = "# router id 1.2.3.4;\nrouter id 192.0.2.11; /* interface \"no\"; */\ndefine OWN = 198.51.100.11;\n\
            log \"/var/log/b.log\" all;\nprotocol direct { interface \"uplink*\", -\"tap*\", \"eth?\"; }\n\
            function f() { if net ~ [10.65.0.0/16+, 0.0.0.0/0] then reject; }\ninclude \"more/*.conf\";\n\
            protocol bgp a { local fe80::1%eth0 as 1; source address 192.0.2.7; }";
        fs::write(&file, text).unwrap();
        let named = of_bird(&file);
        assert_eq!(named.interfaces, ["uplink*", "eth?"]);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(named.router_id, Some(address("192.0.2.11")));
        assert_eq!(named.locals, ["198.51.100.11", "fe80::1", "192.0.2.7"].map(address));
        assert_eq!(named.prefixes, ["10.65.0.0/16".parse::<IpNet>().unwrap()]);
        assert_eq!(named.written, [PathBuf::from("/var/log/b.log")]);
        assert_eq!(named.passwords, ["x"]);
    }

    #[test]
    fn what_frr_needs_is_found() {
        let text = "interface uplink1\n ip address 192.0.2.11/24\nrouter bgp 64601\n bgp router-id 192.0.2.11\n\
            neighbor 192.0.2.12 update-source 198.51.100.1\n neighbor 192.0.2.13 update-source lo1\n\
            ip prefix-list X permit 10.65.0.0/16\nroute-map L permit 10\n match metric 10\n";
        let named = of_frr(text);
        assert_eq!(named.interfaces, ["uplink1", "lo1"]);
        assert_eq!(named.addresses, [("uplink1".to_owned(), "192.0.2.11/24".parse().unwrap())]);
        assert_eq!((named.metrics, named.locals.len(), named.prefixes.len()), (vec![10], 1, 2));
    }
}
