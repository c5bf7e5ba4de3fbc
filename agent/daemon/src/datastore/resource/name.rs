//! Names of endpoints: four segments with single dashes between them, dashes inside them doubled.

use super::{NAME_MAX_BYTES, Refusal};
use cutover_engine::model::EndpointKey;

/// The segments of a resource name, as libcalico's parser sees them: from the second character on, two dashes are
/// one literal dash and a single dash separates.
#[must_use]
pub fn segments_of(name: &str) -> Vec<String> {
    let mut segments = Vec::new();
    let mut current = String::new();
    let mut characters = name.chars().peekable();
    // The first character is never a separator.
    current.extend(characters.next());
    if current == "-" && characters.peek() == Some(&'-') {
        characters.next();
    }
    while let Some(character) = characters.next() {
        if character != '-' || characters.next_if_eq(&'-').is_some() {
            current.push(character);
        } else {
            segments.push(std::mem::take(&mut current));
        }
    }
    segments.push(current);
    segments
}

/// The key that a name and a namespace stand for.
#[must_use]
pub fn parse_name(namespace: &str, name: &str) -> Option<EndpointKey> {
    let [host, orchestrator, workload, endpoint] = <[String; 4]>::try_from(segments_of(name)).ok()?;
    Some(EndpointKey { host, orchestrator, workload: format!("{namespace}/{workload}"), endpoint })
}

/// A character of `text` that would make two lines, or two fields, of one field of a log line.
pub(super) fn unfit_for_a_line(text: &str) -> Option<char> {
    text.chars().find(|c| c.is_whitespace() || c.is_control())
}

/// Refuses what could not be a part of a path or of a log line.
///
/// # Errors
/// The part that is empty, contains a slash, a space or a control character, or makes the name too long.
pub fn check_key(key: &EndpointKey) -> Result<(), Refusal> {
    let (namespace, workload) = key.workload.split_once('/').unwrap_or(("", &key.workload));
    let parts = [
        ("host", key.host.as_str()),
        ("orchestrator", &key.orchestrator),
        ("namespace", namespace),
        ("workload", workload),
        ("endpoint", &key.endpoint),
    ];
    for (what, text) in parts {
        if text.is_empty() {
            return Err(Refusal::of(format!("its {what} is empty")));
        }
        if let Some(bad) = text.chars().find(|c| *c == '/').or_else(|| unfit_for_a_line(text)) {
            return Err(Refusal::of(format!("its {what} {text:?} contains {bad:?}")));
        }
    }
    let length = key.to_string().len();
    if length > NAME_MAX_BYTES {
        return Err(Refusal::of(format!(
            "its name would be {length} bytes long, more than {NAME_MAX_BYTES}"
        )));
    }
    Ok(())
}
