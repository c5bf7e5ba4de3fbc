//! What comes from outside, changed at random. Whoever reads bytes of somebody else's has a test that runs over `corpus/FORMAT`, real things of that format, and
//! over changed copies of them, always the same ones: no reader panics, and what it says of good input holds for whatever it takes.
//!
//! An input that was a fault once becomes a file of the corpus. `CUTOVER_MUTATIONS=100000` looks for longer.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// LIMIT: a second or two for the slowest reader in an unoptimized build.
const MUTATIONS: u64 = 10_000;
/// Changes of one copy.
const CHANGES_MAX: u64 = 4;
/// LIMIT: copies that grow by being put together again and again.
const BYTES_MAX: usize = 64 * 1024;

/// Numbers and signs that readers take for the end of something, or for more than there is.
const TELLING: [&[u8]; 16] = [
    b"\0",
    b"\xff",
    b"\xff\xff",
    b"\x00\x80",
    b"\xff\xff\xff\xff",
    b"-1",
    b"0",
    b"4294967296",
    b"18446744073709551616",
    b"1e999",
    b"\"",
    b"{",
    b"[[",
    b"\\u0000",
    b"\n",
    b"\xe2\x80\xae",
];

/// Runs `check` over everything in the corpus of a format, over `more`, and over changed copies of both.
///
/// # Panics
/// When `check` does, with the input that it was; or when the corpus is empty.
pub(crate) fn each(format: &str, more: &[Vec<u8>], check: impl Fn(&[u8])) {
    let mut seeds = corpus(format);
    seeds.extend_from_slice(more);
    assert!(!seeds.is_empty(), "nothing is known of {format}");
    for seed in &seeds {
        run(format, seed, &check);
    }
    let count = std::env::var("CUTOVER_MUTATIONS").ok().map(|text| text.parse().expect("a number"));
    let mut random = Random(format.bytes().map(u64::from).sum());
    for _ in 0..count.unwrap_or(MUTATIONS) {
        run(format, &copy(&mut random, &seeds), &check);
    }
}

fn corpus(format: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format);
    let mut paths: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file of the corpus")).collect()
}

fn run(format: &str, input: &[u8], check: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
        let input: String = input.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        eprint_input(format, &input);
        resume_unwind(panic);
    }
}

#[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
fn eprint_input(format: &str, input: &str) {
    eprintln!("once it is mended, this belongs into corpus/{format}: printf '{input}'");
}

/// A changed copy of one of them.
fn copy(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.one_of(seeds).clone();
    for _ in 0..=random.below(CHANGES_MAX) {
        let place = random.place(bytes.len());
        let end = (place + random.place(16)).min(bytes.len());
        match random.below(8) {
            0 => {
                let bit = random.below(8);
                bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 1 << bit);
            }
            1 => bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte = random.below(256) as u8),
            2 => bytes.truncate(place),
            3 => _ = bytes.drain(place..end),
            4 => {
                let again: Vec<u8> = bytes[place..end].to_vec();
                _ = bytes.splice(place..place, again);
            }
            5 => {
                let other = random.one_of(seeds);
                let from = random.place(other.len());
                bytes.truncate(place);
                bytes.extend_from_slice(&other[from..]);
            }
            6 => _ = bytes.splice(place..place, TELLING[random.place(TELLING.len() - 1)].iter().copied()),
            _ => {
                let telling = TELLING[random.place(TELLING.len() - 1)];
                let end = (place + telling.len()).min(bytes.len());
                _ = bytes.splice(place..end, telling.iter().copied());
            }
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % count
    }

    /// One of 0 to `length`.
    fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(u64::try_from(length).expect("64 bits") + 1)).expect("it was one")
    }

    fn one_of<'a>(&mut self, all: &'a [Vec<u8>]) -> &'a Vec<u8> {
        &all[self.place(all.len() - 1)]
    }
}

/// A reader that trusts a length is found.
#[test]
fn a_reader_that_believes_what_it_reads_is_found() {
    let trusting = |bytes: &[u8]| {
        let Some((length, rest)) = bytes.split_first() else { return };
        assert!(rest.len() < 3 || usize::from(*length) <= rest.len(), "it would read beyond the end");
    };
    let seeds = [vec![3, 1, 2, 3], vec![0]];
    assert!(catch_unwind(|| each("none", &seeds, trusting)).is_err());
    each("none", &seeds, |_| {});
}
