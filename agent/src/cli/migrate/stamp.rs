//! What a datastore gives to a new resource: a uid and the time of its creation.

use crate::cli::Failure;
use crate::clock;
use serde_json::Value;
use std::time::UNIX_EPOCH;

/// The kernel makes a random UUID (version 4) each time this is read.
const UUID_SOURCE: &str = "/proc/sys/kernel/random/uuid";

pub(super) fn uid() -> Result<String, Failure> {
    let text = std::fs::read_to_string(UUID_SOURCE)
        .map_err(|error| Failure::other(format!("{UUID_SOURCE}: cannot make a uid: {error}; mount /proc")))?;
    Ok(text.trim().to_owned())
}

/// UTC, to the second.
pub(super) fn now() -> String {
    let seconds = clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    text(seconds)
}

/// Makes a document the document of a new resource.
pub(super) fn renew(document: &mut Value) -> Result<(), Failure> {
    document["metadata"]["uid"] = uid()?.into();
    document["metadata"]["creationTimestamp"] = now().into();
    Ok(())
}

/// RFC 3339 of seconds since 1970, every day of which has 86400 (POSIX time knows no leap seconds).
fn text(unix_s: u64) -> String {
    let (mut days, second_of_day) = (unix_s / 86_400, unix_s % 86_400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `date -u -d @<seconds>`.
    #[test]
    fn known_times() {
        for (unix_s, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(text(unix_s), expected);
        }
    }

    #[test]
    fn uids_are_random_uuids() {
        let (a, b) = (uid().unwrap(), uid().unwrap());
        assert_ne!(a, b);
        assert_eq!((a.len(), a.as_bytes()[14]), (36, b'4'));
    }
}
