//! One line for each migration: when it began, how it went, and how long each phase came after the one before.

use crate::cli::status::align;
use cutover_daemon::timeline::{Migration, Phase, span};

/// The phases with a column. The fast path's waking up is only in the full view.
const COLUMNS: [(Phase, &str); 6] = [
    (Phase::Armed, "ARMED"),
    (Phase::Reported, "REPORTED UP"),
    (Phase::Announced, "ANNOUNCED"),
    (Phase::Routed, "ROUTED"),
    (Phase::RoleGone, "OVER"),
    (Phase::Ended, "NORMAL AGAIN"),
];

pub(super) fn text(migrations: &[Migration]) -> String {
    if migrations.is_empty() {
        return "no migrations to this host are known\n".to_owned();
    }
    let mut header: Vec<_> =
        ["BEGAN", "ENDPOINT", "FROM", "RESULT", "ANNOUNCED BY"].map(str::to_owned).to_vec();
    header.extend(COLUMNS.map(|(_, name)| name.to_owned()));
    header.push("MIGRATION".to_owned());
    let rows: Vec<_> = std::iter::once(header).chain(migrations.iter().map(row)).collect();
    align(&rows)
}

fn row(migration: &Migration) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut cells = vec![
        span::date(migration.unix_ns(migration.began_at())),
        migration.endpoint.clone(),
        or_dash(migration.source_host()),
        migration.result(),
        or_dash(migration.announcement().map(str::to_owned)),
    ];
    cells.extend(COLUMNS.map(|(phase, _)| or_dash(since_the_one_before(migration, phase))));
    cells.push(migration.uid.clone());
    cells
}

/// How long after the phase with a column that came before it.
fn since_the_one_before(migration: &Migration, phase: Phase) -> Option<String> {
    let has_column = |other: &Phase| *other == Phase::Targeted || COLUMNS.iter().any(|(it, _)| it == other);
    let mut steps = migration.steps();
    steps.retain(|(other, _)| has_column(other));
    let position = steps.iter().position(|(other, _)| *other == phase)?;
    let before = position.checked_sub(1).map(|before| steps[before].1);
    // A watch that an earlier attempt left armed.
    Some(
        before.map_or_else(
            || "before".to_owned(),
            |at| format!("+{}", span::text(steps[position].1.since(at))),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_daemon::timeline::samples::*;
    use cutover_engine::BootTime;
    use cutover_engine::machine::Phases;
    use std::time::Duration;

    fn cells(migration: &Migration) -> Vec<String> {
        let text = text(std::slice::from_ref(migration));
        let (header, row) = text.split_once('\n').unwrap();
        let begins: Vec<_> = header
            .char_indices()
            .filter(|(at, it)| *it != ' ' && (*at == 0 || header[..*at].ends_with("  ")))
            .map(|(at, _)| at)
            .collect();
        let row: Vec<char> = row.trim_end().chars().collect();
        let ends = begins.iter().skip(1).copied().chain([row.len()]);
        begins
            .iter()
            .zip(ends)
            .map(|(from, to)| row[*from..to].iter().collect::<String>().trim().to_owned())
            .collect()
    }

    #[test]
    fn a_line_has_what_happened_between_the_phases() {
        assert_eq!(
            cells(&migration("u1", phases())),
            [
                "2024-02-29T12:34:56Z",
                "compute--2-openstack-vm1-port1",
                "compute-1",
                "arrived",
                "RARP",
                "+1.50 ms",
                "+4.50 ms",
                "+4.00 s",
                "+43.0 µs",
                "+494 ms",
                "+30.0 s",
                "u1"
            ]
        );
    }

    #[test]
    fn what_did_not_happen_or_not_in_order_is_told() {
        let waiting = Phases { targeted_at: Some(BEGAN), armed_at: Some(BEGAN), ..Phases::default() };
        let row = cells(&running("u1", waiting, Duration::from_secs(3)));
        assert_eq!(row[3..8], ["running (Target)", "-", "+0 ns", "-", "-"]);
        let kept = Phases { armed_at: Some(BootTime(BEGAN.0 - 1)), ..phases() };
        assert_eq!(cells(&migration("u1", kept))[5..7], ["before", "+6.00 ms"]);
        let late = Phases { role_gone_at: Some(BEGAN + Duration::from_secs(1)), ..phases() };
        assert_eq!(cells(&migration("u1", late))[7..11], ["+3.01 s", "+43.0 µs", "+994 ms", "+30.5 s"]);
    }

    /// A name and a uid are whatever somebody has written into the datastore.
    #[test]
    fn nothing_in_a_name_makes_another_line_or_moves_the_cursor() {
        let migration = migration("u1\n\u{1b}[2J", phases());
        for text in [text(std::slice::from_ref(&migration)), super::super::detail::text(&[migration])] {
            assert!(text.contains("u1\\n\\u{1b}[2J"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }
}
