//! The migrations of several hosts in one document: what the source and the target of each have seen, in the order of time.

use super::document::{document, section, table};
use super::html::{Html, counted};
use super::journey;
use crate::timeline::{Blackout, Departure, Migration, span};
use std::collections::BTreeMap;

/// LIMIT: migrations in one document; the newest are shown.
const MIGRATIONS_MAX: usize = 1000;

const COLUMNS: [&str; 6] = ["Time (UTC)", "Since the first", "Host", "Side", "Phase", "Meaning"];

/// What one host knows of migrations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The host, for people.
    pub host: String,
    /// By how many nanoseconds its wall clock may have been wrong when this was read, if that is known.
    pub clock_error_ns: Option<u64>,
    /// Migrations to it.
    pub migrations: Vec<Migration>,
    /// Migrations away from it.
    pub departures: Vec<Departure>,
    /// Running ones are among them.
    pub agent_answered: bool,
}

/// All that is known of the migration with one uid.
#[derive(Default)]
struct Matched<'a> {
    targets: Vec<(&'a Record, &'a Migration)>,
    sources: Vec<(&'a Record, &'a Departure)>,
}

/// Something that a host has seen, as a row of the table.
struct Sight<'a> {
    unix_ns: u64,
    is_exact: bool,
    host: &'a str,
    side: &'static str,
    name: &'static str,
    meaning: &'static str,
}

impl<'a> Matched<'a> {
    fn sights(&self) -> Vec<Sight<'a>> {
        let mut sights = Vec::new();
        for (record, migration) in &self.targets {
            let host = record.host.as_str();
            sights.extend(migration.steps().into_iter().map(|(phase, at)| Sight {
                unix_ns: migration.unix_ns(at),
                is_exact: migration.is_exact,
                host,
                side: "target",
                name: phase.name(migration.outcome),
                meaning: phase.meaning(migration.outcome),
            }));
        }
        for (record, departure) in &self.sources {
            let host = record.host.as_str();
            sights.extend(departure.steps.iter().map(|(step, unix_ns)| Sight {
                unix_ns: *unix_ns,
                is_exact: true,
                host,
                side: "source",
                name: step.name(),
                meaning: step.meaning(),
            }));
        }
        sights.sort_by_key(|sight| sight.unix_ns);
        sights
    }

    /// Of the last attempt. What the agents have said to each other is on one clock, and comes first.
    fn blackout(&self) -> Option<Blackout> {
        let &(target, migration) = self.targets.last()?;
        migration.blackout().or_else(|| {
            let &(source, departure) = self.sources.last()?;
            Blackout::recorded((migration, target.clock_error_ns), (departure, source.clock_error_ns))
        })
    }

    fn began(&self) -> u64 {
        self.sights().first().map_or(0, |sight| sight.unix_ns)
    }
}

/// The report, the newest migration first.
#[must_use]
pub fn report(records: &[Record]) -> String {
    let mut by_uid: BTreeMap<&str, Matched<'_>> = BTreeMap::new();
    for record in records {
        for migration in &record.migrations {
            by_uid.entry(&migration.uid).or_default().targets.push((record, migration));
        }
        for departure in &record.departures {
            by_uid.entry(&departure.uid).or_default().sources.push((record, departure));
        }
    }
    let mut matched: Vec<_> = by_uid.into_iter().collect();
    matched.sort_by_cached_key(|(_, it)| std::cmp::Reverse(it.began()));
    let count = counted(matched.len(), "migration", "migrations");
    let hosts = counted(records.len(), "host", "hosts");
    document(&format!("{count} of {hosts} – Cutover"), None, |html| {
        html.words("a", &[("class", "skip"), ("href", "#content")], "Skip to the content");
        html.element("header", &[], |html| html.words("h1", &[], "Live migrations"));
        html.element("main", &[("id", "content")], |html| {
            section(html, "records", &format!("Records of {hosts}"), |html| of_hosts(html, records));
            section(html, "migrations", &format!("Migrations ({})", matched.len()), |html| {
                html.words(
                    "p",
                    &[],
                    "The newest first. Source and target are matched by the migration's uid. Times are those of each host's own clock: between hosts, \
                     the order is as good as these agree.",
                );
                for (number, (uid, it)) in matched.iter().take(MIGRATIONS_MAX).enumerate() {
                    one(html, number, uid, it);
                }
                if matched.len() > MIGRATIONS_MAX {
                    html.words("p", &[], &format!("{} older ones are left out.", matched.len() - MIGRATIONS_MAX));
                }
            });
        });
    })
}

fn of_hosts(html: &mut Html, records: &[Record]) {
    let columns = ["Host", "Migrations to it", "Migrations away from it", "Those under way"];
    table(html, "records-table", "What each host has recorded", &columns, |html| {
        for record in records {
            html.element("tr", &[], |html| {
                html.words("th", &[("scope", "row")], &record.host);
                html.words("td", &[("class", "number")], &record.migrations.len().to_string());
                html.words("td", &[("class", "number")], &record.departures.len().to_string());
                let running =
                    if record.agent_answered { "among them" } else { "not known: no agent answered" };
                html.words("td", &[], running);
            });
            html.new_line();
        }
    });
}

fn one(html: &mut Html, number: usize, uid: &str, matched: &Matched<'_>) {
    let summary = |html: &mut Html| match (&matched.targets[..], &matched.sources[..]) {
        ([.., (_, migration)], _) => {
            journey::summary(html, migration, true);
        }
        ([], [.., (_, departure)]) => {
            html.words("strong", &[], &journey::port(&departure.endpoint));
            let (from, to) = (journey::host(&departure.endpoint), journey::host(&departure.to));
            html.text(&format!(" from {from} to {to}: the target's record is not among these. "));
            html.words("small", &[], &format!("Began {}", span::date(matched.began())));
        }
        ([], []) => html.text(uid),
    };
    journey::block(html, ("migration", number), false, summary, |html| {
        for (_, migration) in &matched.targets {
            journey::strips(html, migration);
        }
        if let Some(blackout) = matched.blackout() {
            html.element("p", &[], |html| {
                html.text(
                    "Blackout, from the last frame on the source's tap to the announcement on the target's: ",
                );
                html.words("strong", &[], &format!("{blackout}."));
            });
        }
        if matched.sources.is_empty() {
            html.words("p", &[], "The source's record is not among these.");
        }
        sights(html, number, &matched.sights());
        for (_, migration) in &matched.targets {
            journey::identity(html, migration);
        }
        if matched.targets.is_empty() {
            html.element("p", &[("class", "identity")], |html| {
                html.text("Migration ");
                html.words("code", &[], uid);
                html.text(".");
            });
        }
    });
}

fn sights(html: &mut Html, number: usize, sights: &[Sight<'_>]) {
    let id = format!("sights-{number}");
    table(html, &id, "What source and target have seen", &COLUMNS, |html| {
        let first = sights.first().map_or(0, |sight| sight.unix_ns);
        for sight in sights {
            let date =
                if sight.is_exact { span::exact_date(sight.unix_ns) } else { span::date(sight.unix_ns) };
            let since = std::time::Duration::from_nanos(sight.unix_ns - first);
            html.element("tr", &[("class", sight.side)], |html| {
                html.words("td", &[("class", "number")], &date);
                html.words("td", &[("class", "number")], &format!("+{}", span::text(since)));
                html.words("td", &[], sight.host);
                html.words("td", &[], sight.side);
                html.words("th", &[("scope", "row")], sight.name);
                html.words("td", &[], sight.meaning);
            });
            html.new_line();
        }
    });
}
