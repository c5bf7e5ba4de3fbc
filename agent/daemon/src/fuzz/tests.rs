use super::corpus::{folder, inputs};
use super::mutations::{Random, changed};
use super::{FORMATS, Format};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// LIMIT: all formats together take some seconds.
const CHANGES: usize = 2_000;

/// The entry, with the input in the message if it panics.
fn check(format: Format, bytes: &[u8], what: &str) {
    let checked = catch_unwind(AssertUnwindSafe(|| (format.check)(bytes)));
    assert!(
        checked.is_ok(),
        "{}: {what} fails, see above; it is {:?}. Put it into a file of {} and mend the parser",
        format.name,
        bytes.escape_ascii().to_string(),
        folder(format.name).display()
    );
}

#[test]
fn every_committed_input_is_treated_as_it_has_to_be() {
    for format in FORMATS {
        let inputs = inputs(format.name);
        assert!(!inputs.is_empty(), "{} is empty", folder(format.name).display());
        for (name, bytes) in inputs {
            assert!(bytes.len() <= 8192, "{name} of {} has {} bytes", format.name, bytes.len());
            check(format, &bytes, &name);
        }
    }
}

#[test]
fn changed_inputs_are_as_well() {
    for format in FORMATS {
        let inputs: Vec<Vec<u8>> = inputs(format.name).into_values().collect();
        let mut random = Random::new(0x00c0_ffee);
        for number in 0..CHANGES {
            let input = &inputs[random.below(inputs.len())];
            let other = &inputs[random.below(inputs.len())];
            let bytes = changed(&mut random, input, other);
            check(format, &bytes, &format!("change {number}"));
        }
    }
}

#[test]
fn nothing_and_the_same_byte_again_and_again_are_as_well() {
    for format in FORMATS {
        for byte in [0, b'-', b'[', b'{', b'"', b'`', b'\\', 0xff] {
            for length in [0, 1, 2, 3, 4, 5, 16, 512, 4096, 65_536] {
                check(format, &vec![byte; length], &format!("{length} times {byte:#04x}"));
            }
        }
    }
}
