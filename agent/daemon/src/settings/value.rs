//! What the text of a setting may be: one small parser a kind of value, with the description of its range.
//!
//! Owns the value rules of Felix (bool words, Go integers, seconds with a fraction, `none`). Refuses to know
//! any setting by name; the table in `table.rs` says which setting is of which kind.

use super::go_number::{go_duration_s, go_integer};
use cutover_common::MacAddr;
use cutover_engine::InterfacePrefixes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A kind of value: how it is read, shown and described.
pub(super) trait Kind {
    /// What the text means.
    type Value;
    /// Whether FelixConfiguration resources write it as a Go duration.
    const IS_DURATION: bool = false;
    /// Whether nobody may be shown it.
    const IS_SECRET: bool = false;
    /// Reads the text; the error says what would be right.
    fn parse(&self, text: &str) -> Result<Self::Value, String>;
    /// What `none` means, if it means anything.
    fn none(&self) -> Option<Self::Value>;
    /// The canonical text, empty for nothing.
    fn show(&self, value: &Self::Value) -> String;
    /// What the text may be, for people.
    fn describe(&self) -> String;
}

/// Reads `text` as a value of `kind`, with `none` in any case standing for nothing.
pub(super) fn interpret<K: Kind>(kind: &K, may_be_none: bool, text: &str) -> Result<K::Value, String> {
    if !text.eq_ignore_ascii_case("none") {
        return kind.parse(text);
    }
    let refusal = || format!("it cannot be none, write {}", kind.describe());
    if may_be_none { kind.none().ok_or_else(refusal) } else { Err(refusal()) }
}

/// `true` and `false` and their synonyms.
pub(super) struct Bool;

/// The words that Felix takes as well.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Some(true),
        "false" | "0" | "no" | "n" | "f" => Some(false),
        _ => None,
    }
}

impl Kind for Bool {
    type Value = bool;

    fn parse(&self, text: &str) -> Result<bool, String> {
        parse_bool(text).ok_or_else(|| "write true or false".into())
    }

    fn none(&self) -> Option<bool> {
        Some(false)
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn describe(&self) -> String {
        "true or false".into()
    }
}

/// A whole number as Go writes it: decimal, 0x, 0o, 0b, or octal with a leading zero.
pub(super) struct Integer<T: 'static> {
    pub(super) min: T,
    pub(super) max: T,
    /// Numbers in the range that are somebody else's, and whose.
    pub(super) except: &'static [(T, &'static str)],
}

impl<T> Kind for Integer<T>
where
    T: Copy + PartialOrd + Display + TryFrom<i64> + Default,
{
    type Value = T;

    fn parse(&self, text: &str) -> Result<T, String> {
        let number = go_integer(text).ok_or_else(|| format!("write {}", self.describe()))?;
        let value = T::try_from(number).ok().filter(|value| (self.min..=self.max).contains(value));
        let value = value.ok_or_else(|| format!("it is out of range, write {}", self.describe()))?;
        match self.except.iter().find(|(number, _)| *number == value) {
            Some((number, owner)) => Err(format!("{number} is {owner}, choose another number")),
            None => Ok(value),
        }
    }

    // Zero is what `none` has always meant, but only where zero is in the range.
    fn none(&self) -> Option<T> {
        (self.min..=self.max).contains(&T::default()).then(T::default)
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }

    fn describe(&self) -> String {
        let mut text = format!("a whole number from {} to {}", self.min, self.max);
        for (number, owner) in self.except {
            text.push_str(&format!(", but not {number} ({owner})"));
        }
        text
    }
}

/// Seconds, with a fraction if need be.
pub(super) struct Seconds {
    pub(super) max_s: u32,
}

impl Kind for Seconds {
    type Value = Duration;
    const IS_DURATION: bool = true;

    fn parse(&self, text: &str) -> Result<Duration, String> {
        let refusal = || format!("write {}", self.describe());
        let seconds: f64 = text.trim().parse().map_err(|_| refusal())?;
        // Not-a-number fails the comparison, too.
        if !(0.0..=f64::from(self.max_s)).contains(&seconds) {
            return Err(refusal());
        }
        Duration::try_from_secs_f64(seconds).map_err(|_| refusal())
    }

    fn none(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn show(&self, value: &Duration) -> String {
        value.as_secs_f64().to_string()
    }

    fn describe(&self) -> String {
        format!("seconds from 0 to {}, such as 30 or 0.5", self.max_s)
    }
}

/// One of a few words, in any case.
pub(super) struct Choice<T: 'static> {
    pub(super) words: &'static [(&'static str, T)],
    pub(super) none: Option<T>,
}

impl<T: Copy + PartialEq> Kind for Choice<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Result<T, String> {
        let found = self.words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        found.map(|(_, value)| *value).ok_or_else(|| format!("write {}", self.describe()))
    }

    fn none(&self) -> Option<T> {
        self.none
    }

    fn show(&self, value: &T) -> String {
        let found = self.words.iter().find(|(_, candidate)| candidate == value);
        found.map_or_else(String::new, |(word, _)| (*word).into())
    }

    fn describe(&self) -> String {
        let mut words: Vec<&str> = self.words.iter().map(|(word, _)| *word).collect();
        if self.none.is_some() {
            words.push("none");
        }
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.concat(),
        }
    }
}

/// Text with a rule.
pub(super) struct Text {
    pub(super) rule: fn(&str) -> Result<String, &'static str>,
    pub(super) description: &'static str,
}

impl Kind for Text {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, String> {
        (self.rule)(text).map_err(Into::into)
    }

    fn none(&self) -> Option<String> {
        Some(String::new())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn describe(&self) -> String {
        self.description.into()
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "(hidden)" })
    }
}

/// Any text, kept to ourselves.
pub(super) struct SecretText;

impl Kind for SecretText {
    type Value = Secret;
    const IS_SECRET: bool = true;

    fn parse(&self, text: &str) -> Result<Secret, String> {
        Ok(Secret(text.to_owned()))
    }

    fn none(&self) -> Option<Secret> {
        Some(Secret::default())
    }

    fn show(&self, value: &Secret) -> String {
        if value.0.is_empty() { String::new() } else { "(hidden)".into() }
    }

    fn describe(&self) -> String {
        "any text; it is never shown".into()
    }
}

/// Texts with commas between them, each with the same rule.
pub(super) struct List {
    pub(super) item: Text,
}

impl Kind for List {
    type Value = Vec<String>;

    fn parse(&self, text: &str) -> Result<Vec<String>, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items = items
            .map(|item| self.item.parse(item).map_err(|reason| format!("{item:?}: {reason}")))
            .collect::<Result<Vec<_>, _>>()?;
        if items.is_empty() { Err(format!("it names nothing, write {}", self.describe())) } else { Ok(items) }
    }

    fn none(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }

    fn show(&self, value: &Vec<String>) -> String {
        value.join(",")
    }

    fn describe(&self) -> String {
        format!("{}; several with commas between them", self.item.description)
    }
}

/// Names with a time each, as Felix writes them: `name=90s,other=2m`.
pub(super) struct Timeouts;

impl Kind for Timeouts {
    type Value = BTreeMap<String, Duration>;

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let refusal = |item: &str| format!("{item:?}: write {}", self.describe());
        let read = |item: &str| {
            let (name, time) = item.split_once('=')?;
            let seconds = go_duration_s(time.trim())?;
            Some((name.trim().to_owned(), Duration::try_from_secs_f64(seconds).ok()?))
        };
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| read(item).ok_or_else(|| refusal(item))).collect()
    }

    fn none(&self) -> Option<Self::Value> {
        Some(BTreeMap::new())
    }

    fn show(&self, value: &Self::Value) -> String {
        let items: Vec<String> =
            value.iter().map(|(name, time)| format!("{name}={}s", time.as_secs_f64())).collect();
        items.join(",")
    }

    fn describe(&self) -> String {
        "name=time, with a time such as 90s or 1m30s; several with commas between them".to_owned()
    }
}

/// Beginnings of interface names.
pub(super) struct Prefixes;

impl Kind for Prefixes {
    type Value = InterfacePrefixes;

    fn parse(&self, text: &str) -> Result<InterfacePrefixes, String> {
        text.parse()
    }

    fn none(&self) -> Option<InterfacePrefixes> {
        Some(InterfacePrefixes::default())
    }

    fn show(&self, value: &InterfacePrefixes) -> String {
        value.to_string()
    }

    fn describe(&self) -> String {
        "the beginning of the names of workload interfaces; several with commas between them".to_owned()
    }
}

/// Names of interfaces, or none.
pub(super) struct Interfaces;

impl Kind for Interfaces {
    type Value = BTreeSet<String>;

    fn parse(&self, text: &str) -> Result<BTreeSet<String>, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let check = |name: &str| match name.parse::<InterfacePrefixes>() {
            Ok(_) if name != "." && name != ".." && !name.contains(':') => Ok(name.to_owned()),
            _ => Err(format!("{name:?} is not a name that an interface can have")),
        };
        names.map(check).collect()
    }

    fn none(&self) -> Option<BTreeSet<String>> {
        Some(BTreeSet::new())
    }

    fn show(&self, value: &BTreeSet<String>) -> String {
        Vec::from_iter(value.iter().map(String::as_str)).join(",")
    }

    fn describe(&self) -> String {
        "names of interfaces, with commas between them".to_owned()
    }
}

/// Something of the standard library that reads itself, or nothing.
pub(super) struct Optional<T> {
    pub(super) description: &'static str,
    pub(super) marker: std::marker::PhantomData<fn() -> T>,
}

impl<T: FromStr + Display> Kind for Optional<T> {
    type Value = Option<T>;

    fn parse(&self, text: &str) -> Result<Option<T>, String> {
        text.parse().map(Some).map_err(|_| format!("write {}", self.description))
    }

    fn none(&self) -> Option<Option<T>> {
        Some(None)
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or_else(String::new, ToString::to_string)
    }

    fn describe(&self) -> String {
        self.description.into()
    }
}

/// An IPv4 address or nothing.
pub(super) const IPV4: Optional<Ipv4Addr> =
    Optional { description: "an IPv4 address", marker: std::marker::PhantomData };
/// An IPv6 address or nothing.
pub(super) const IPV6: Optional<Ipv6Addr> =
    Optional { description: "an IPv6 address", marker: std::marker::PhantomData };
/// A hardware address or nothing.
pub(super) const MAC: Optional<MacAddr> =
    Optional { description: "a hardware address", marker: std::marker::PhantomData };
/// An address of either family or nothing.
pub(super) const ADDRESS: Optional<IpAddr> =
    Optional { description: "an IPv4 or IPv6 address", marker: std::marker::PhantomData };

/// An absolute path or nothing.
pub(super) struct Path;

impl Kind for Path {
    type Value = Option<PathBuf>;

    fn parse(&self, text: &str) -> Result<Option<PathBuf>, String> {
        let path = PathBuf::from(text);
        if path.is_absolute() && !text.contains('\0') {
            Ok(Some(path))
        } else {
            Err("write an absolute path, one that begins with /".into())
        }
    }

    fn none(&self) -> Option<Option<PathBuf>> {
        Some(None)
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        value.as_ref().map_or_else(String::new, |path| path.display().to_string())
    }

    fn describe(&self) -> String {
        "an absolute path".into()
    }
}

/// An absolute path that there has to be.
pub(super) struct RequiredPath;

impl Kind for RequiredPath {
    type Value = PathBuf;

    fn parse(&self, text: &str) -> Result<PathBuf, String> {
        Path.parse(text)?.ok_or_else(|| "write an absolute path".into())
    }

    fn none(&self) -> Option<PathBuf> {
        None
    }

    fn show(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }

    fn describe(&self) -> String {
        Path.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seconds_are_finite_not_negative_and_bounded() {
        let kind = Seconds { max_s: 3600 };
        assert_eq!(kind.parse("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(kind.parse("0"), Ok(Duration::ZERO));
        assert_eq!(kind.parse("1e3"), Ok(Duration::from_secs(1000)));
        assert_eq!(kind.parse("3600"), Ok(Duration::from_secs(3600)));
        for bad in ["-1", "-0.1", "nan", "inf", "-inf", "3600.1", "1e30", "30s", "", "1m"] {
            assert!(kind.parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bool_words() {
        for word in ["true", "TRUE", "1", "yes", "Y", "t"] {
            assert_eq!(Bool.parse(word), Ok(true), "{word}");
        }
        for word in ["false", "0", "No", "n", "F"] {
            assert_eq!(Bool.parse(word), Ok(false), "{word}");
        }
        for word in ["", "2", "on", "truee"] {
            assert!(Bool.parse(word).is_err(), "{word}");
        }
    }

    #[test]
    fn timeouts_have_a_name_and_a_time_each() {
        let read = Timeouts.parse("the loop=90s, InternalDataplaneMainLoop = 1m30s,").unwrap();
        assert_eq!(read["the loop"], Duration::from_secs(90));
        assert_eq!(read["InternalDataplaneMainLoop"], Duration::from_secs(90));
        assert_eq!(Timeouts.parse(&Timeouts.show(&read)), Ok(read));
        for bad in ["the loop", "the loop=90", "the loop=-1s", "a=1s,b"] {
            assert!(Timeouts.parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn none_is_the_zero_value_where_zero_is_allowed() {
        assert_eq!(interpret(&Integer { min: 0u16, max: 9, except: &[] }, true, "None"), Ok(0));
        assert!(interpret(&Integer { min: 1u16, max: 9, except: &[] }, true, "none").is_err());
        assert!(interpret(&Integer { min: 0u16, max: 9, except: &[] }, false, "none").is_err());
        assert_eq!(interpret(&IPV4, true, "NONE"), Ok(None));
        assert_eq!(interpret(&Seconds { max_s: 9 }, true, "none"), Ok(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = Seconds { max_s: 3600 }.parse(&text);
        }
    }
}
