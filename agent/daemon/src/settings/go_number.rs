//! Numbers and durations as Go writes them, because Felix is written in Go.
//!
//! Owns the notation and nothing else: no range, no setting. Called by the kinds of `value.rs` and, for FelixConfiguration
//! resources, by `sources.rs`.

/// An integer as Go's `ParseInt` with base 0 reads it.
pub(super) fn go_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits, prefixed) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest, true)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest, true)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest, true)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..], true)
    } else {
        (10, lower.as_str(), false)
    };
    let digits = without_underscores(digits, prefixed)?;
    // A second sign would be accepted by the standard library.
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }
    let magnitude = i128::from_str_radix(&digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// Go allows single underscores between digits, and after the prefix of the base; not in plain decimals.
fn without_underscores(digits: &str, prefixed: bool) -> Option<String> {
    if !digits.contains('_') {
        return Some(digits.to_owned());
    }
    let between_digits = !digits.ends_with('_') && !digits.contains("__");
    (between_digits && prefixed).then(|| digits.replace('_', ""))
}

/// A duration as Go writes it (`1m30s`, `1.5h`, `0`), in seconds with a fraction; negative ones are refused.
pub(super) fn go_duration_s(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("\u{b5}s", 1e-6),
        ("\u{3bc}s", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0.0);
    }
    let mut seconds = 0.0;
    let mut parts = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, factor) = UNITS.iter().find(|(unit, _)| *unit == &rest[..unit_end])?;
        seconds += number * factor;
        rest = &rest[unit_end..];
        parts += 1;
    }
    (parts > 0).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_are_read_as_go_reads_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("+7", Some(7)),
            ("-7", Some(-7)),
            ("0x10", Some(16)),
            ("0X1F", Some(31)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("0b101", Some(5)),
            ("0x_10", Some(16)),
            ("0_17", Some(15)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1_000", None),
            ("0x__1", None),
            ("0x1_", None),
            ("08", None),
            ("", None),
            ("-", None),
            ("0x", None),
            ("+-1", None),
            ("0x-1", None),
            ("1.5", None),
            ("ten", None),
            (" 1", None),
        ] {
            assert_eq!(go_integer(text), number, "{text:?}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in [
            ("30s", Some(30.0)),
            ("1m30s", Some(90.0)),
            ("1.5h", Some(5400.0)),
            ("250ms", Some(0.25)),
            ("2\u{b5}s", Some(2e-6)),
            ("2\u{3bc}s", Some(2e-6)),
            ("0", Some(0.0)),
            ("+5s", Some(5.0)),
            (".5s", Some(0.5)),
            ("30", None),
            ("-5s", None),
            ("s", None),
            ("", None),
            ("1d", None),
            ("1 s", None),
            ("1..5s", None),
        ] {
            assert_eq!(go_duration_s(text), seconds, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = go_integer(&text);
            let _ = go_duration_s(&text);
        }

        #[test]
        fn every_number_reads_back_in_every_base(number in any::<i64>()) {
            prop_assert_eq!(go_integer(&number.to_string()), Some(number));
            let (sign, magnitude) = if number < 0 { ("-", number.unsigned_abs()) } else { ("", number.unsigned_abs()) };
            prop_assert_eq!(go_integer(&format!("{sign}{magnitude:#x}")), Some(number));
            prop_assert_eq!(go_integer(&format!("{sign}{magnitude:#o}")), Some(number));
            prop_assert_eq!(go_integer(&format!("{sign}{magnitude:#b}")), Some(number));
        }

        #[test]
        fn whole_durations_read_back(h in 0u32..100, m in 0u32..60, s in 0u32..60) {
            let text = format!("{h}h{m}m{s}s");
            prop_assert_eq!(go_duration_s(&text), Some(f64::from(h * 3600 + m * 60 + s)));
        }
    }
}
