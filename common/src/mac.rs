//! An Ethernet hardware address.

use core::fmt;

/// A 48-bit Ethernet hardware address (MAC), in transmission order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address of all zeros; no interface has it.
    pub const ZERO: Self = Self([0; 6]);

    /// The modified EUI-64 link-local address made from this hardware address (RFC 4291, appendix A).
    #[must_use]
    pub const fn link_local(self) -> [u8; 16] {
        let m = self.0;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 0x02, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six two-digit hexadecimal numbers separated by colons or dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMac;

impl fmt::Display for InvalidMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a hardware address; write it as six hexadecimal pairs, such as fa:16:3e:00:00:01")
    }
}

impl core::error::Error for InvalidMac {}

impl core::str::FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut pairs = text.split(separator);
        for octet in &mut octets {
            let pair = pairs.next().ok_or(InvalidMac)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(InvalidMac);
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| InvalidMac)?;
        }
        if pairs.next().is_some() {
            return Err(InvalidMac);
        }
        Ok(Self(octets))
    }
}

#[cfg(feature = "serde")]
mod text {
    use super::MacAddr;
    use core::fmt;
    use serde::de::{Error, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    impl Serialize for MacAddr {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    struct Text;

    impl Visitor<'_> for Text {
        type Value = MacAddr;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a hardware address such as fa:16:3e:00:00:01")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<MacAddr, E> {
            text.parse().map_err(E::custom)
        }
    }

    impl<'de> Deserialize<'de> for MacAddr {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_str(Text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_octets_agree() {
        let mac: MacAddr = "fa:16:3e:00:0a:01".parse().unwrap();
        assert_eq!(mac, MacAddr([0xfa, 0x16, 0x3e, 0, 0x0a, 1]));
        assert_eq!(mac.to_string(), "fa:16:3e:00:0a:01");
        assert_eq!("FA-16-3E-00-0A-01".parse(), Ok(mac));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "fa:16:3e:00:0a",
            "fa:16:3e:00:0a:01:02",
            "fa:16:3e:00:0a:1",
            "fa:16:3e:00:0a:+1",
            "fa16.3e00.0a01",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(InvalidMac), "{bad:?}");
        }
    }

    /// The example of RFC 4291, appendix A, as most systems show it.
    #[test]
    fn link_local_flips_the_universal_bit() {
        let mac = MacAddr([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(
            core::net::Ipv6Addr::from(mac.link_local()),
            "fe80::3656:78ff:fe9a:bcde".parse::<core::net::Ipv6Addr>().unwrap()
        );
    }
}
