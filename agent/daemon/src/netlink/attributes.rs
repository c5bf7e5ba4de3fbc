//! Attributes of netlink messages, read where they lie and written in order. Pure; knows no subsystem.
//!
//! Who uses it names the attributes: [`crate::felix`] those of nf_tables, [`crate::conntrack`] those of connection tracking.

use netlink_packet_core::{NLA_F_NESTED, NlasIterator};

/// The value of the first attribute of one kind.
pub(crate) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    all(attributes, kind).next()
}

/// The values of all attributes of one kind, up to the first one that is malformed.
pub(crate) fn all(attributes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    each(attributes).filter(move |(of, _)| *of == kind).map(|(_, value)| value)
}

/// All attributes with their kinds, up to the first one that is malformed.
pub(crate) fn each(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(attributes).map_while(Result::ok).map(|attribute| {
        let kind = attribute.kind();
        let bytes = attribute.into_inner();
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        (kind, &bytes[4..length])
    })
}

/// Attributes that are being written.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// After the fixed header of a message, whose length is a multiple of four.
    pub(crate) fn after(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.0.extend(value);
        self.end(start);
    }

    /// An attribute that has others for its value.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let start = self.begin(kind | NLA_F_NESTED);
        inner(self);
        self.end(start);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        start
    }

    /// The length in the header is without the padding.
    fn end(&mut self, start: usize) {
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut attributes = Attributes::after(&[2, 0, 0, 0]);
        attributes.put(1, b"abc");
        attributes.nest(2, |inner| {
            inner.put(7, &[9]);
            inner.put(7, &[]);
        });
        let bytes = attributes.into_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let attributes = &bytes[4..];
        assert_eq!(find(attributes, 1), Some(&b"abc"[..]));
        let inner: Vec<&[u8]> = all(find(attributes, 2).unwrap(), 7).collect();
        assert_eq!(inner, [&[9][..], &[]]);
        assert_eq!(find(attributes, 3), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(each(&bytes).count() <= bytes.len());
        }
    }
}
