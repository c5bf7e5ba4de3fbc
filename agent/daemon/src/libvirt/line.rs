//! What the helper says to the listener: one JSON object a line. Both are the same build of the same program, so nothing has to be
//! kept for older ones. Nothing that is written here is believed there without a look.

use super::What;
use cutover_engine::BootTime;
use serde::{Deserialize, Serialize};

/// LIMIT: the longest line holds an error message of libvirt's; the others are a hundred bytes.
pub(super) const BYTES_MAX: usize = 4096;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The library is not here. The last line.
    Missing(String),
    /// libvirt cannot be reached, or is not any more. The last line.
    Failed(String),
    /// Events are being collected; what there is follows.
    Connected {
        /// Version of the library.
        library: String,
        /// Version of the daemon.
        daemon: String,
    },
    /// What a domain was found to be.
    Found(Word),
    /// Every active domain has been told of; from now on there are events.
    Listed,
    /// What became of a domain.
    Told(Word),
    /// Nothing, but the helper lives.
    Alive,
}

/// A domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Word {
    pub(super) domain: String,
    pub(super) what: What,
    pub(super) at_ns: u64,
}

impl Line {
    /// What a line says.
    ///
    /// # Errors
    /// In words.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let line: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        match &line {
            Self::Found(word) | Self::Told(word) if !is_uuid(&word.domain) => {
                Err("a domain without a UUID".to_owned())
            }
            _ => Ok(line),
        }
    }

    /// As it is written, with the end of the line.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

impl Word {
    pub(super) fn at(&self) -> BootTime {
        BootTime(self.at_ns)
    }
}

/// As libvirt writes them: 8-4-4-4-12 digits, lower case.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a01";

    fn word(domain: &str) -> Word {
        Word { domain: domain.to_owned(), what: What::Stopped, at_ns: 7 }
    }

    #[test]
    fn a_line_reads_as_it_was_written() {
        for line in [
            Line::Missing("libvirt.so.0: no such file".into()),
            Line::Failed("two\nlines".into()),
            Line::Connected { library: "11.3.0".into(), daemon: "9.0.0".into() },
            Line::Found(word(UUID)),
            Line::Listed,
            Line::Told(word(UUID)),
            Line::Alive,
        ] {
            let text = line.text();
            let (end, rest) = text.split_last().unwrap();
            assert_eq!((*end, rest.contains(&b'\n')), (b'\n', false), "{line:?} is one line");
            assert_eq!(Line::parse(rest), Ok(line));
        }
    }

    #[test]
    fn only_a_uuid_is_a_domain() {
        for domain in ["", "instance-00000001", "0F4AC1D2-2B0E-4F69-9A3E-3F0C3D7F0A01", &UUID[1..]] {
            let text = Line::Told(word(domain)).text();
            assert!(Line::parse(&text).is_err(), "{domain}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_is_an_error_and_nothing_worse(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Line::parse(&text);
        }
    }
}
