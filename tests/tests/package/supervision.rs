//! What systemd hears from the agent: that it is ready, how it stands, that it lives; and what the journal takes from its lines.

use crate::site::{STARTED, UNIT, on_each_release};
use cutover_tests::wait;
use serde_json::Value;

#[test]
fn systemd_hears_that_it_is_ready_and_how_it_stands() {
    on_each_release("the word to systemd", |site| {
        site.debian.install(1);
        // With this type a unit is active only after READY=1.
        assert_eq!(site.debian.property(UNIT, "Type"), "notify");
        assert_eq!(site.state(UNIT), "active");
        let status = || site.debian.property(UNIT, "StatusText");
        wait::until(STARTED, format_args!("the line on how things stand, not {:?}", status()), || {
            status() == "datastore in sync; 1 endpoints, 0 migrating"
        });
    });
}

#[test]
fn the_journal_knows_how_bad_a_line_is() {
    on_each_release("priorities in the journal", |site| {
        site.debian.install(1);
        site.directory.put_text("broken.json", "{");
        wait::until(STARTED, "a line about what cannot be read", || site.journal().contains("broken.json"));
        let lines = site.debian.run("journalctl --quiet --output=json --unit cutover _COMM=cutover");
        let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let (mut worse, mut usual) = (0, 0);
        for line in &lines {
            let message = line["MESSAGE"].as_str().expect("text");
            assert!(!message.starts_with('<'), "the priority is still in the line: {message}");
            let expected = [(" ERROR ", "3"), (" WARN ", "4"), (" INFO ", "6")];
            let Some((_, priority)) = expected.iter().find(|(word, _)| message.contains(word)) else {
                continue;
            };
            assert_eq!(line["PRIORITY"], *priority, "{message}");
            if *priority == "6" { usual += 1 } else { worse += 1 }
        }
        assert!(worse > 0 && usual > 0, "{lines:#?}");
        let warnings = site.debian.run("journalctl --quiet --unit cutover --priority warning _COMM=cutover");
        assert!(warnings.contains("broken.json") && !warnings.contains(" INFO "), "{warnings}");
    });
}

/// LIMIT: two signs of life come in this time; what is tested is that systemd's clock and the agent's agree, and a busy machine may be slow.
const WATCHDOG: &str = "[Service]\nWatchdogSec=6s\n";

#[test]
fn an_agent_that_gives_no_sign_of_life_is_started_anew_without_a_change_of_a_route() {
    on_each_release("the watchdog", |site| {
        site.debian.install(1);
        site.debian.write("/run/systemd/system/cutover.service.d/watchdog.conf", WATCHDOG);
        site.debian.run("systemctl daemon-reload; systemctl restart cutover");
        let begun = site.settle();
        let agent = site.pid(UNIT);
        let sign = || site.debian.property(UNIT, "WatchdogTimestampMonotonic");
        for _ in 0..3 {
            let last = sign();
            wait::until(STARTED, "the next sign of life", || sign() != last);
        }
        assert_eq!(site.pid(UNIT), agent, "it lives");

        site.debian.run(&format!("kill -STOP {agent}"));
        wait::until(STARTED, "systemd starts it anew", || {
            let pid = site.pid(UNIT);
            pid != 0 && pid != agent && site.state(UNIT) == "active"
        });
        assert_eq!(site.debian.property(UNIT, "NRestarts"), "1");
        let journal = site.debian.run("journalctl --quiet --no-pager --unit cutover");
        assert!(journal.contains("Watchdog timeout"), "{journal}");
        let _ = site.settle();
        site.assert_untouched(begun);
    });
}
