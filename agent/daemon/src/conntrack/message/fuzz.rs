//! What ctnetlink says of a connection: what is carried of it can be made, and what is made is read as that.

use super::*;

/// What a kernel dumped, and what is written here.
#[cfg(test)]
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let made = crate::conntrack::samples::all().into_iter().map(|entry| create(&entry));
    tests::dumps().into_iter().chain(made).collect()
}

pub(crate) fn message(bytes: &[u8]) {
    let Some(dumped) = parse(bytes, |_, _| true) else { return };
    assert!(parse(bytes, |_, _| false).is_none());
    let (original, reply) = (dumped.original, dumped.reply);
    // The kernel never mixes families in one connection.
    let addresses = [original.source, original.destination, reply.source, reply.destination];
    if addresses.iter().any(|address| family(*address) != family(original.source)) {
        return;
    }
    let entry = Entry {
        original,
        reply,
        seen_reply: dumped.status & status::SEEN_REPLY != 0,
        assured: dumped.status & status::ASSURED != 0,
        timeout_s: dumped.timeout_s.unwrap_or_default(),
        state: dumped.state.unwrap_or(State::Nothing),
        mark: dumped.mark,
        labels: dumped.labels,
    };
    let made = parse(&create(&entry), |_, _| true).expect("what is written can be read");
    assert_eq!(made.original, original);
    assert_eq!(made.reply, original.answered(&reply));
    assert_eq!((made.timeout_s, made.mark, made.labels), (Some(entry.timeout_s), entry.mark, entry.labels));
    assert_eq!(made.status & status::SEEN_REPLY != 0, entry.seen_reply);
    assert_eq!(made.status & status::ASSURED != 0, entry.assured);
    assert_eq!((made.zone, made.has_helper, made.has_master, made.is_adjusted), (0, false, false, false));
    if !matches!(entry.state, State::Nothing | State::Tcp { .. }) {
        assert_eq!(made.state, Some(entry.state));
    }
}
