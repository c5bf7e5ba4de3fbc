//! Bytes of a connection: however they are cut, they are the same messages; what is understood can be said again.

use super::*;

pub(crate) fn messages(bytes: &[u8]) {
    for max in [MESSAGE_MAX, PART_MAX] {
        let (whole, ended) = read_all(bytes, max, usize::MAX);
        assert_eq!((&whole, &ended), (&read_all(bytes, max, 7).0, &read_all(bytes, max, 7).1));
        for message in whole {
            // What was left out or written shorter can make it too long to be said again.
            let Ok(again) = message.encode() else { continue };
            let (read, ended) = read_all(&again, PART_MAX, usize::MAX);
            assert_eq!((read, ended), (vec![message], None));
        }
    }
}

/// All kinds that there are, and all of them behind each other.
#[cfg(test)]
pub(crate) fn samples() -> Vec<Vec<u8>> {
    use crate::conntrack;
    let mut messages = tests::messages();
    let part = Part { is_whole: true, changed: conntrack::sample_entries(), ..Part::default() };
    messages.push(Message::Part(Box::new(part)));
    if let Message::Hello(hello) = messages[0].clone() {
        messages.push(Message::Fetch(hello));
    }
    let mut samples: Vec<Vec<u8>> = messages.iter().map(|message| message.encode().unwrap()).collect();
    samples.push(samples.concat());
    samples
}

/// The messages, and what was wrong with the one after them, if something was.
fn read_all(bytes: &[u8], max: usize, at_once: usize) -> (Vec<Message>, Option<String>) {
    let (mut inbox, mut rest, mut found) = (Inbox::up_to(max), bytes, Vec::new());
    loop {
        match inbox.take() {
            Ok(Some(message)) => {
                found.push(message);
                continue;
            }
            Ok(None) => {}
            Err(error) => return (found, Some(error.to_string())),
        }
        let room = inbox.bytes.len() - inbox.filled;
        assert!(room > 0, "there is no room for the rest of a message");
        let (now, later) = rest.split_at(room.min(at_once).min(rest.len()));
        if now.is_empty() {
            return (found, None);
        }
        inbox.bytes[inbox.filled..][..now.len()].copy_from_slice(now);
        inbox.filled += now.len();
        rest = later;
    }
}
