//! A message of nf_tables, with its type in the first two bytes: what is told of it has names of Felix's.

use super::*;

pub(crate) fn message(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first_chunk() else { return };
    let kind = u16::from_ne_bytes(*kind);
    let mut events = Vec::new();
    parse(kind, payload, &mut events);
    assert!(events.is_empty() || kind >> 8 == SUBSYSTEM);
    assert!(events.len() <= payload.len() / 4, "an event takes more than a header of an attribute");
    for event in events {
        match event {
            Event::Chain { place, name, .. } => assert!(place.backend.name(&name).is_some(), "{name}"),
            Event::Rule { place, chain, .. } | Event::RuleGone { place, chain, .. } => {
                assert!(
                    matches!(place.backend.name(&chain), Some(Name::Root(_) | Name::Branch(_))),
                    "{chain}"
                );
            }
            _ => {}
        }
    }
}
