//! Felix's chains in the legacy backend of iptables, which tells nobody of its changes.
//!
//! Asks `iptables-legacy-save`, only where that table exists, and often only while an endpoint waits.

use super::backend::{Backend, Name};
use super::nf_tables::Filter;
use crate::applier::WantedReceiver;
use crate::clock;
use cutover_engine::Wanted;
use cutover_engine::chains::Chains;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// LIMIT: one process a family in this time while somebody waits. A large table takes longer to print, and is given ten times as long.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_FACTOR: u32 = 10;
/// LIMIT: a small table that takes long is printed on a busy host. An endpoint waits no longer than this for the next look.
const PAUSE_SMALL: Duration = Duration::from_secs(2);
/// Some 12,000 rules. Printing 10,000 took 10 ms of a processor (iptables 1.8.9).
const SMALL_BYTES: usize = 1024 * 1024;
/// Without anybody who waits, for `cutover status`; also how often it is looked whether there is such a table.
const PAUSE_IDLE: Duration = Duration::from_secs(30);
/// LIMIT: whoever prints for longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Each family: the file that lists its tables, and the program that prints one.
const FAMILIES: [(&str, &str); 2] = [
    ("/proc/thread-self/net/ip_tables_names", "iptables-legacy-save"),
    ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save"),
];

/// What interfaces have, by name; nothing if Felix does not use this backend.
pub(super) type ChainsByInterface = BTreeMap<String, Chains>;

/// What interfaces have now, if there is such a table.
pub(super) async fn look_once() -> Result<ChainsByInterface, String> {
    if is_used() { look().await.map(|(seen, _)| seen) } else { Ok(ChainsByInterface::new()) }
}

fn is_used() -> bool {
    FAMILIES.iter().any(|(list, _)| has_filter(Path::new(list)))
}

/// Looks for ever.
pub(super) async fn poll(
    mut wanted: WantedReceiver,
    mut tell: impl FnMut(Result<ChainsByInterface, String>),
) {
    let awaits = |it: &Option<Arc<Wanted>>| it.as_ref().is_some_and(|it| it.chains_awaited);
    loop {
        let begun_at = clock::now();
        let mut bytes = 0;
        if is_used() {
            let looked = look().await;
            // What cannot be printed may be large.
            bytes = looked.as_ref().map_or(usize::MAX, |(_, bytes)| *bytes);
            tell(looked.map(|(seen, _)| seen));
        }
        let took = clock::now().since(begun_at);
        let is_awaited = awaits(&wanted.borrow());
        if is_awaited {
            tokio::time::sleep(pause_after(took, bytes)).await;
        } else {
            // Somebody begins to wait, or the time is over. Once the agent stops, nobody does.
            let begins = async {
                if wanted.wait_for(awaits).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let _: Result<(), _> = timeout(PAUSE_IDLE, begins).await;
        }
    }
}

/// How long to wait for the next look, while somebody waits, after one that took so long and printed so much.
fn pause_after(took: Duration, bytes: usize) -> Duration {
    let pause = PAUSE.max(took * PAUSE_FACTOR);
    if bytes < SMALL_BYTES { pause.min(PAUSE_SMALL) } else { pause }
}

fn has_filter(list: &Path) -> bool {
    std::fs::read_to_string(list).is_ok_and(|text| text.lines().any(|table| table == "filter"))
}

/// What interfaces have, and how many bytes say so.
async fn look() -> Result<(ChainsByInterface, usize), String> {
    let (mut filters, mut bytes) = (Vec::new(), 0);
    for (list, program) in FAMILIES {
        let text = if has_filter(Path::new(list)) { save(program).await? } else { String::new() };
        bytes += text.len();
        filters.push(parse(&text));
    }
    let (ipv4, ipv6) = (&filters[0], &filters[1]);
    let interfaces = ipv4.interfaces().chain(ipv6.interfaces());
    let chains = |interface| Chains { ipv4: ipv4.pieces(interface), ipv6: ipv6.pieces(interface) };
    Ok((interfaces.map(|interface| (interface.to_owned(), chains(interface))).collect(), bytes))
}

async fn save(program: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(["-t", "filter"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .map_err(|_| format!("{program} does not end"))?
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} fails: {}", reason.trim().lines().last().unwrap_or_default()))
}

/// What a saved table has of Felix's.
fn parse(text: &str) -> Filter {
    let mut filter = Filter::new(Backend::Legacy);
    for (number, line) in text.lines().enumerate() {
        if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            if Backend::Legacy.name(chain).is_some() {
                filter.add_chain(chain.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let mut words = rule.split(' ');
            let chain = words.next().unwrap_or_default();
            let is_dispatch = matches!(Backend::Legacy.name(chain), Some(Name::Root(_) | Name::Branch(_)));
            let target = words.skip_while(|word| !matches!(*word, "-g" | "-j")).nth(1);
            if is_dispatch {
                filter.add_rule(chain.to_owned(), number as u64, target.map(str::to_owned));
            }
        }
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::chains::Pieces;

    /// As printed by iptables 1.8.9.
    const SAVED: &str = "\
*filter
:INPUT ACCEPT [0:0]
:cali-from-wl-dispatch - [0:0]
:cali-from-wl-dispatch-1 - [0:0]
:cali-fw-tap11 - [0:0]
:cali-fw-tap12 - [0:0]
:cali-to-wl-dispatch - [0:0]
:cali-tw-tap11 - [0:0]
-A cali-from-wl-dispatch -i tap1+ -m comment --comment \"cali:a\" -g cali-from-wl-dispatch-1
-A cali-from-wl-dispatch -m comment --comment \"cali:b\" -m comment --comment \"Unknown interface\" -j DROP
-A cali-from-wl-dispatch-1 -i tap11 -m comment --comment \"cali:c\" -g cali-fw-tap11
-A cali-to-wl-dispatch -o tap11 -m comment --comment \"cali:d\" -g cali-tw-tap11
COMMIT
";

    #[test]
    fn a_small_table_that_takes_long_is_not_waited_for_ten_times_as_long() {
        let after =
            |bytes| [1, 50, 1500].map(|took| pause_after(Duration::from_millis(took), bytes).as_millis());
        assert_eq!(after(1000), [200, 500, 2000]);
        assert_eq!(after(SMALL_BYTES), [200, 500, 15_000]);
    }

    #[test]
    fn a_saved_table_says_what_is_there() {
        let filter = parse(SAVED);
        assert_eq!(filter.pieces("tap11"), Pieces::ALL);
        assert_eq!(filter.pieces("tap12"), Pieces::default().with(cutover_engine::chains::Piece::FromChain));
        assert!(filter.pieces("tap13").is_empty());
        assert!(parse("# nothing\n*filter\nCOMMIT\n").is_empty());
    }
}
