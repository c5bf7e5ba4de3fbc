//! Times for people: as long as they need to be and no more exact than anybody reads.

use crate::clock;
use std::time::Duration;

/// Three digits and a unit; minutes and hours in full seconds.
#[must_use]
pub fn text(span: Duration) -> String {
    let ns = span.as_nanos();
    if ns < 1_000 {
        return format!("{ns} ns");
    }
    for (unit_ns, unit) in [(1_000_u64, "µs"), (1_000_000, "ms"), (1_000_000_000, "s")] {
        // The next unit begins where this one would be rounded to four digits.
        let limit = if unit == "s" { 59.95 } else { 999.5 };
        let value = span.as_secs_f64() * 1e9 / unit_ns as f64;
        if value < limit {
            let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            return format!("{value:.decimals$} {unit}");
        }
    }
    let seconds = span.as_secs() + u64::from(span.subsec_millis() >= 500);
    match seconds / 60 {
        minutes @ ..60 => format!("{minutes} min {:02} s", seconds % 60),
        minutes => format!("{} h {:02} min", minutes / 60, minutes % 60),
    }
}

/// A date with the time of day, UTC.
#[must_use]
pub fn date(unix_ns: u64) -> String {
    clock::rfc3339(unix_ns / 1_000_000_000)
}

/// The same with microseconds.
#[must_use]
pub fn exact_date(unix_ns: u64) -> String {
    let date = date(unix_ns);
    format!("{}.{:06}Z", date.trim_end_matches('Z'), unix_ns / 1_000 % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_in_the_unit_that_fits() {
        for (ns, expected) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (43_210, "43.2 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (5_675_000, "5.67 ms"),
            (9_996_000, "10.0 ms"),
            (2_022_774_000, "2.02 s"),
            (59_940_000_000, "59.9 s"),
            (59_960_000_000, "1 min 00 s"),
            (125_600_000_000, "2 min 06 s"),
            (3_599_600_000_000, "1 h 00 min"),
            (7_500_000_000_000, "2 h 05 min"),
        ] {
            assert_eq!(text(Duration::from_nanos(ns)), expected, "{ns} ns");
        }
    }

    #[test]
    fn dates_are_to_the_second_or_the_microsecond() {
        let unix_ns = 1_709_210_096_000_042_999;
        assert_eq!(date(unix_ns), "2024-02-29T12:34:56Z");
        assert_eq!(exact_date(unix_ns), "2024-02-29T12:34:56.000042Z");
    }
}
