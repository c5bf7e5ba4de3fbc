//! Everything about a migration, phase by phase, with what each phase means.

use crate::cli::status::align;
use cutover_daemon::logging::printable;
use cutover_daemon::timeline::{Migration, Phase, span};
use cutover_engine::BootTime;
use std::fmt::Write as _;

pub(super) fn text(migrations: &[Migration]) -> String {
    migrations.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(migration: &Migration) -> String {
    let announced = match migration.announcement() {
        Some(kind) => format!("announced by {kind}"),
        None => "not announced".to_owned(),
    };
    let uid = printable(&migration.uid);
    let mut text = format!("migration {uid}: {}, {announced}\n", migration.result());
    let _ = writeln!(text, "  to    {}", printable(&migration.endpoint));
    let _ = writeln!(text, "  from  {}", printable(migration.source.as_deref().unwrap_or("-")));
    if let Some(blackout) = migration.blackout() {
        let _ = writeln!(text, "  blackout: {blackout}");
    }
    if let Some(connections) = migration.phases.connections {
        let _ = writeln!(text, "  tracked connections taken over: {connections}");
    }
    if let Some(boot_id) = &migration.boot_id {
        let _ = writeln!(text, "  boot  {boot_id}");
    }
    let mut rows =
        vec![["TIME", "SINCE BEGIN", "SINCE BEFORE", "PHASE", "MEANING"].map(str::to_owned).to_vec()];
    rows.extend(came(migration));
    rows.extend(missing(migration));
    text.push_str(&align(&rows));
    text
}

fn came(migration: &Migration) -> Vec<Vec<String>> {
    let began = migration.began_at();
    let mut before = None;
    let mut rows = Vec::new();
    for (phase, at) in migration.steps() {
        let unix_ns = migration.unix_ns(at);
        rows.push(vec![
            if migration.is_exact { span::exact_date(unix_ns) } else { span::date(unix_ns) },
            since(began, at),
            before.map_or_else(|| "-".to_owned(), |before| since(before, at)),
            phase.name(migration.outcome).to_owned(),
            phase.meaning(migration.outcome).to_owned(),
        ]);
        before = Some(at);
    }
    rows
}

fn missing(migration: &Migration) -> impl Iterator<Item = Vec<String>> {
    let absent =
        Phase::ALL.into_iter().filter(|it| it.is_usual()).filter(|it| it.at(&migration.phases).is_none());
    let verdict = if migration.is_running() { "not yet" } else { "did not happen, or nobody saw it" };
    absent.map(|phase| {
        vec!["-".into(), "-".into(), "-".into(), phase.name(migration.outcome).into(), verdict.into()]
    })
}

fn since(from: BootTime, to: BootTime) -> String {
    if to >= from {
        format!("+{}", span::text(to.since(from)))
    } else {
        format!("-{}", span::text(from.since(to)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_daemon::timeline::samples::*;
    use cutover_engine::machine::Phases;
    use std::time::Duration;

    #[test]
    fn every_phase_has_its_line() {
        let text = text(&[migration("u1", phases())]);
        assert!(text.starts_with("migration u1: arrived, announced by RARP\n  to    compute--2-"), "{text}");
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("2024-02-29T12:3")).collect();
        assert_eq!(lines.len(), Phase::ALL.len(), "{text}");
        assert!(lines[8].starts_with("2024-02-29T12:35:00.006043Z  +4.01 s"), "{}", lines[8]);
        assert!(lines[8].contains("  +29.0 µs") && lines[8].contains("  routed  "), "{}", lines[8]);
        assert!(text.contains("\n  blackout: 3.50 ms ± 120 µs\n"), "{text}");
        assert!(lines[0].contains("  +0 ns") && lines[0].contains("  -  "), "{}", lines[0]);
    }

    #[test]
    fn phases_that_did_not_come_are_named() {
        let some = Phases { targeted_at: Some(BEGAN), ..Phases::default() };
        let text = text(&[running("u1", some, Duration::from_secs(1))]);
        assert_eq!(text.lines().filter(|line| line.ends_with("not yet")).count(), 7, "{text}");
        assert!(text.contains("running (Target), not announced"), "{text}");
    }
}
