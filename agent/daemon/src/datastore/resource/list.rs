//! Documents that hold several resources: the lists that calicoctl and kubectl print and take, and plain sequences of resources.
//!
//! Owns which documents are such lists, and what an item inherits from its list. What an item says is read as if it stood by itself.

use super::{Content, Format, Head, KINDS, Parsed, Refusal, interpret, parse};
use serde::Deserialize;
use serde_json::Value;

/// One resource of a document.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// What it says.
    pub parsed: Parsed,
    /// It as it is written, with what it inherits, if it is an item of a list.
    pub item: Option<Value>,
}

#[derive(Deserialize)]
struct Items {
    #[serde(default)]
    items: Member,
}

/// A list without items is written as `items: null` as well; without the member it is not a list.
#[derive(Default)]
enum Member {
    #[default]
    Missing,
    There(Vec<Value>),
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Vec<Value>>::deserialize(deserializer).map(|items| Self::There(items.unwrap_or_default()))
    }
}

/// Reads one document and everything in it.
///
/// # Errors
/// When it, or an item of it, is not well formed or is one of the agent's kinds without the parts that it needs.
pub fn parse_all(text: &str, format: Format) -> Result<Vec<Entry>, Refusal> {
    let content = Content::Text(text, format);
    if is_sequence(text, format) {
        return entries(content.read()?, &Head::default());
    }
    let head: Head = content.read()?;
    match head.kind.as_deref() {
        Some(kind) if kind.ends_with("List") => list(content, kind, &head),
        _ => Ok(vec![Entry { parsed: parse(text, format)?, item: None }]),
    }
}

/// A mapping, which a resource is, begins with neither.
fn is_sequence(text: &str, format: Format) -> bool {
    let is_nothing = |line: &&str| {
        line.is_empty() || (format == Format::Yaml && (line.starts_with('#') || line.starts_with('%')))
    };
    let first = text.lines().map(str::trim).find(|line| !is_nothing(line)).unwrap_or_default();
    first.starts_with('[') || (format == Format::Yaml && (first == "-" || first.starts_with("- ")))
}

fn list(content: Content<'_>, kind: &str, head: &Head) -> Result<Vec<Entry>, Refusal> {
    let item_kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
    let is_ours = item_kind.is_none_or(|kind| KINDS.contains(&kind));
    // apiVersion v1 of a List is kubectl's, and no item's.
    let inherited = Head {
        kind: item_kind.map(str::to_owned),
        api_version: head.api_version.clone().filter(|_| item_kind.is_some()),
    };
    match content.read::<Items>().map(|list| list.items) {
        Ok(Member::There(items)) => entries(items, &inherited),
        Ok(Member::Missing) if is_ours => Err(Refusal::of(format!("it is a {kind} without items"))),
        Err(refusal) if is_ours => Err(refusal),
        // Whatever it is, no resource of ours is in it.
        Ok(Member::Missing) | Err(_) => Ok(Vec::new()),
    }
}

fn entries(items: Vec<Value>, inherited: &Head) -> Result<Vec<Entry>, Refusal> {
    let mut entries = Vec::with_capacity(items.len());
    for (index, mut item) in items.into_iter().enumerate() {
        let refuse =
            |refusal: Refusal| Refusal::of(format!("item {} of the list: {}", index + 1, refusal.reason));
        let members = item.as_object_mut().ok_or_else(|| refuse(Refusal::of("it is not a resource")))?;
        let parts = [("kind", &inherited.kind), ("apiVersion", &inherited.api_version)];
        for (member, value) in parts.into_iter().filter_map(|(member, value)| Some((member, value.clone()?)))
        {
            members.entry(member).or_insert(value.into());
        }
        let parsed = match members.get("kind").and_then(Value::as_str) {
            Some(kind) if kind.ends_with("List") => Err(Refusal::of(format!("it is a {kind} itself"))),
            _ => interpret(Content::Item(&item)),
        };
        entries.push(Entry { parsed: parsed.map_err(refuse)?, item: Some(item) });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
