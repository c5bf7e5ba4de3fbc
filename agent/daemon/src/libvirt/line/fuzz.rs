//! A line of libvirt's helper: what is understood is written on one line and understood as the same.

use super::*;

pub(crate) fn line(bytes: &[u8]) {
    let Ok(line) = Line::parse(bytes) else { return };
    let text = line.text();
    assert_eq!(text.iter().position(|byte| *byte == b'\n'), Some(text.len() - 1));
    assert_eq!(Line::parse(&text), Ok(line));
}
