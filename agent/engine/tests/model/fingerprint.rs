//! When two situations are the same.
//!
//! Everything that is kept counts, also what the engine keeps to itself: the text of `{:?}` is taken, in which points in time are
//! replaced by their order and by how far they are from now, in tenths of a second. What is only information for people makes situations
//! different that need not be; that costs time and hides nothing.

use core::fmt::{Debug, Write as _};
use core::hash::Hasher as _;
use cutover_engine::BootTime;
use std::collections::BTreeSet;
use std::hash::DefaultHasher;

/// Points in time, and generations of watches, which are made from them, are not smaller; nothing else is as great.
pub(crate) const START: BootTime = BootTime(1_000_000_000_000);

/// LIMIT: each step takes a millisecond, and no way is longer than some fifty.
const COARSE_NS: i64 = 100_000_000;

/// How far the lot has been drawn says nothing: whatever is drawn next has never been there before.
const LOTS: &[u8] = b"lots: ";

/// Of something that is looked at by one clock.
pub(crate) fn fingerprint(what: &impl Debug, now: BootTime) -> u128 {
    let mut text = String::new();
    write!(text, "{what:?}").expect("a string takes everything");
    let text = text.as_bytes();
    let times: BTreeSet<u64> = numbers(text).map(|it| it.value).filter(is_time).collect();
    let mut hash = Hash::default();
    let mut done = 0;
    for Number { from, to, value } in numbers(text) {
        let is_lot = text[..from].ends_with(LOTS);
        if !is_lot && !is_time(&value) {
            continue;
        }
        hash.add(&text[done..from]);
        done = to;
        if !is_lot {
            hash.add(&times.range(..value).count().to_le_bytes());
            hash.add(&distance(value, now).to_le_bytes());
        }
    }
    hash.add(&text[done..]);
    hash.finish()
}

/// How far a time is from now, roughly.
fn distance(time: u64, now: BootTime) -> i64 {
    let distance = i64::try_from(time).unwrap_or(i64::MAX).saturating_sub_unsigned(now.0);
    (distance + COARSE_NS / 2).div_euclid(COARSE_NS)
}

/// 128 bits: among some million situations no two are taken for the same by chance.
#[derive(Debug)]
struct Hash(DefaultHasher, DefaultHasher);

impl Default for Hash {
    fn default() -> Self {
        let mut other = DefaultHasher::new();
        other.write_u8(1);
        Self(DefaultHasher::new(), other)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }

    fn finish(&self) -> u128 {
        (u128::from(self.0.finish()) << 64) | u128::from(self.1.finish())
    }
}

fn is_time(value: &u64) -> bool {
    *value >= START.0
}

struct Number {
    from: usize,
    to: usize,
    value: u64,
}

/// All numbers of a text.
fn numbers(text: &[u8]) -> impl Iterator<Item = Number> + '_ {
    let mut at = 0;
    core::iter::from_fn(move || {
        let from = at + text[at..].iter().position(u8::is_ascii_digit)?;
        let mut value: u64 = 0;
        let mut to = from;
        while let Some(digit) = text.get(to).filter(|byte| byte.is_ascii_digit()) {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            to += 1;
        }
        at = to;
        Some(Number { from, to, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_does_not_count() {
        let at = |ms: u64| BootTime(START.0 + ms * 1_000_000);
        let situation = |first: u64, second: u64, now: u64| fingerprint(&(at(first), at(second)), at(now));
        assert_eq!(situation(1, 5_002, 6_000), situation(70_001, 75_003, 76_001));
        assert_ne!(situation(1, 5_002, 6_000), situation(5_002, 1, 6_000), "another order");
        assert_ne!(situation(1, 2, 3), situation(2, 1, 3), "another order at nearly the same time");
        assert_ne!(situation(1, 5_002, 6_000), situation(1, 5_002, 9_000), "longer ago");
        assert_ne!(fingerprint(&7, at(0)), fingerprint(&8, at(0)));
    }
}
