//! A record of the ring buffer: one of the right length says what its bytes say, and no other says anything.

use super::*;

pub(crate) fn record(bytes: &[u8]) {
    let Some(record) = read_record(bytes) else {
        assert_ne!(bytes.len(), size_of::<Announcement>());
        return;
    };
    let parts = [
        &record.generation.to_ne_bytes()[..],
        &record.seen_at_ns.to_ne_bytes(),
        &record.ifindex.to_ne_bytes(),
        &record.kind.to_ne_bytes(),
    ];
    assert_eq!(parts.concat(), bytes);
    if let Some(kind) = AnnouncementKind::from_number(record.kind) {
        assert_eq!(kind as u32, record.kind);
    }
}
