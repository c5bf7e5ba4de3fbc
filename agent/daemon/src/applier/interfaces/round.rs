//! Going through all interfaces, a few at a time. Pure.

use cutover_engine::shared::SharedMap;

/// The next `count` interfaces after one of them, beginning anew at the end.
pub(super) fn next_round<T>(interfaces: &SharedMap<u32, T>, after: u32, count: usize) -> Vec<u32> {
    let next = after.saturating_add(1);
    let rest = interfaces.starting_at(&next);
    let first = interfaces.keys().take_while(|ifindex| **ifindex <= after);
    rest.map(|(ifindex, _)| ifindex).chain(first).copied().take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_through_all_interfaces_and_begin_anew() {
        let interfaces = SharedMap::from([3, 5, 8].map(|ifindex| (ifindex, ())));
        assert_eq!(next_round(&interfaces, 0, 2), [3, 5]);
        assert_eq!(next_round(&interfaces, 5, 2), [8, 3]);
        assert_eq!(next_round(&interfaces, 8, 5), [3, 5, 8], "each at most once");
        assert_eq!(next_round(&interfaces, 6, 5), [8, 3, 5], "the last one may be gone");
        assert!(next_round(&SharedMap::<u32, ()>::default(), 6, 5).is_empty());
    }
}
