//! Rules like Felix's on a host, and what TCP and they have counted. Made with nft; whoever makes a table in a namespace of the lab leaves
//! nothing behind.

use crate::host::Host;
use crate::namespace::Namespace;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

/// What the group of the VM lets in, and the only thing.
pub const OPEN_PORT: u16 = 2222;

/// What is established may pass, what is invalid may not; from the tap everything, to the tap [`OPEN_PORT`] only. Counts in `denied` and
/// `invalid` what it drops.
///
/// # Panics
/// Without root, or nftables.
pub fn filter(namespace: &Namespace, tap: &str) {
    load(
        namespace,
        &format!(
            "table inet rules {{
                counter denied {{}}
                counter invalid {{}}
                chain forward {{
                    type filter hook forward priority 0; policy accept;
                    ct state established,related accept
                    ct state invalid counter name invalid drop
                    iifname \"{tap}\" accept
                    oifname \"{tap}\" tcp dport {OPEN_PORT} accept
                    oifname \"{tap}\" counter name denied drop
                }}
            }}"
        ),
    );
}

/// What goes to a floating address goes to the fixed one.
///
/// # Panics
/// As [`filter`].
pub fn translate(namespace: &Namespace, floating: &[(IpAddr, IpAddr)]) {
    for (inside, outside) in floating {
        let family = if inside.is_ipv4() { "ip" } else { "ip6" };
        load(
            namespace,
            &format!(
                "table {family} floating {{
                    chain prerouting {{
                        type nat hook prerouting priority -100;
                        {family} daddr {outside} dnat to {inside}
                    }}
                }}"
            ),
        );
    }
}

/// Loads a script into the rules of a namespace.
///
/// # Panics
/// When nft does not take it.
pub fn load(namespace: &Namespace, script: &str) {
    let mut command = namespace.command("nft");
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nftables is installed");
    child.stdin.take().expect("it was piped").write_all(script.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{script}");
}

/// All rules of a namespace, as nft writes them.
///
/// # Panics
/// Without nftables.
#[must_use]
pub fn rules(namespace: &Namespace) -> String {
    let output = namespace.command("nft").args(["list", "ruleset"]).output().expect("nftables is installed");
    String::from_utf8(output.stdout).expect("text")
}

/// How many packets a counter of [`filter`] has seen.
///
/// # Panics
/// When there is no such counter.
#[must_use]
pub fn counted(host: &Host, counter: &str) -> u64 {
    let output = host.namespace().command("nft").args(["list", "counter", "inet", "rules", counter]).output();
    let text = String::from_utf8(output.expect("nftables is installed").stdout).expect("text");
    let mut words = text.split_ascii_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count in {text}"))
}

/// How often TCP of a namespace has waited in vain.
///
/// # Panics
/// When the kernel does not count that.
#[must_use]
pub fn retransmission_timeouts(namespace: &Namespace) -> u64 {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).expect("/proc");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
    let (_, value) = pairs.find(|(name, _)| *name == "TCPTimeouts").expect("it is counted");
    value.parse().expect("a number")
}
