//! Which interfaces belong to VMs, by the beginnings of their names.

use std::fmt;
use std::str::FromStr;

/// How the names of workload interfaces begin (`InterfacePrefix`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InterfacePrefixes(Vec<String>);

impl InterfacePrefixes {
    /// What each of them has to be.
    pub const RIGHT: &str = "the beginning of interface names: 1 to 15 characters, no / and no white space";

    /// Whether an interface of this name is a workload's.
    #[must_use]
    pub fn cover(&self, name: &str) -> bool {
        self.iter().any(|prefix| name.starts_with(prefix))
    }

    /// These, and the names of certain interfaces.
    #[must_use]
    pub fn and<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Self {
        Self(self.0.iter().cloned().chain(names.into_iter().cloned()).collect())
    }

    /// All of them with `separator` between them.
    #[must_use]
    pub fn join(&self, separator: &str) -> String {
        self.0.join(separator)
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for InterfacePrefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.join(","))
    }
}

/// Reads a list with commas between its items.
impl FromStr for InterfacePrefixes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefixes = text.split(',').map(str::trim).filter(|prefix| !prefix.is_empty());
        let check = |prefix: &str| {
            if is_prefix(prefix) {
                Ok(prefix.to_owned())
            } else {
                Err(format!("{prefix:?}: write {}", Self::RIGHT))
            }
        };
        let prefixes = prefixes.map(check).collect::<Result<Vec<_>, _>>()?;
        if prefixes.is_empty() {
            return Err(format!("it names nothing, write {}", Self::RIGHT));
        }
        Ok(Self(prefixes))
    }
}

fn is_prefix(text: &str) -> bool {
    // LIMIT: IFNAMSIZ; a longer prefix matches no interface.
    let fits = !text.is_empty() && text.len() <= 15;
    fits && !text
        .contains(|character: char| character == '/' || character.is_whitespace() || character.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_covered_by_their_beginning() {
        let prefixes: InterfacePrefixes = " tap, cali,".parse().unwrap();
        assert_eq!(prefixes.to_string(), "tap,cali");
        assert!(prefixes.cover("tap1") && prefixes.cover("cali"));
        assert!(!prefixes.cover("eth0") && !prefixes.cover("ta") && !prefixes.cover("xtap"));
        assert!(!InterfacePrefixes::default().cover("tap1"));
    }

    #[test]
    fn what_no_interface_can_begin_with_is_refused() {
        for bad in ["", ",", "tap/", "t ap", "tap\u{7}", "tap,a234567890123456"] {
            assert!(bad.parse::<InterfacePrefixes>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "a/b".parse::<InterfacePrefixes>().unwrap_err(),
            format!("\"a/b\": write {}", InterfacePrefixes::RIGHT)
        );
    }
}
