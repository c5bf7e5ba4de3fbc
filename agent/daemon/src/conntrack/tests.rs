//! How the kernel is asked, and what counts as used.

use super::*;

fn prefixes(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn few_addresses_in_a_large_table_are_asked_for_one_by_one() {
    let vm = prefixes(&["10.65.0.2/32", "fd00:65::2/128"]);
    let asked = walks(&vm, &Position::ENDS, 100_000);
    assert_eq!(asked.len(), 4);
    assert!(asked.contains(&Some((vm[1].addr(), Position::ReplySource))));
    let everything = [None];
    assert_eq!(walks(&vm, &Position::ENDS, 100), everything, "a small table");
    assert_eq!(walks(&prefixes(&["10.65.0.0/24"]), &Position::ENDS, 100_000), everything, "a prefix");
    let many = vec![vm[0]; WALKS_MAX];
    assert_eq!(walks(&many, &Position::ENDS, 100_000), everything, "many addresses");
    assert_eq!(walks(&[], &Position::ALL, 100_000), [], "nobody");
}

#[test]
fn what_has_had_a_packet_is_told_from_what_has_not() {
    let now = BootTime(1_000_000_000_000);
    let entry = samples::tcp(1);
    let ours =
        Ours { original: entry.original, reply: entry.reply, expires_at: now + Duration::from_secs(300) };
    let dumped = |timeout_s, flags, reply| Dumped {
        original: entry.original,
        reply,
        status: 0,
        timeout_s: Some(timeout_s),
        state: Some(State::Tcp { state: 3, flags: [flags; 2], scale: [7, 7] }),
        mark: 0,
        labels: None,
        zone: 0,
        has_helper: false,
        has_master: false,
        is_adjusted: false,
        id: Some(1),
    };
    let later = now + Duration::from_secs(60);
    assert!(is_as_made(&ours, &dumped(239, 0x0b, entry.reply), later));
    assert!(is_as_made(&ours, &dumped(241, 0x0b, entry.reply), later), "rounded otherwise");
    assert!(!is_as_made(&ours, &dumped(432_000, 0x0b, entry.reply), later), "a packet has passed");
    assert!(!is_as_made(&ours, &dumped(239, 0x03, entry.reply), later), "it began here");
    assert!(!is_as_made(&ours, &dumped(239, 0x0b, entry.original), later), "another one");
}

/// A peer that sends without end gets what a migration needs, and a VM leaves something for others.
#[test]
fn there_is_a_limit_to_how_much_is_made() {
    let now = BootTime(1_000_000_000);
    let (mut of_a_vm, mut of_a_host) = (Credit::of_a_vm(now), Credit::of_a_host(now));
    for credit in [&mut of_a_vm, &mut of_a_host] {
        assert!(credit.left(now) >= 2 * ENTRIES_MAX);
        credit.use_up(2 * ENTRIES_MAX);
    }
    assert_eq!(of_a_vm.left(now), 0);
    assert!(of_a_host.left(now) >= 2 * ENTRIES_MAX, "for another one");
    of_a_vm.use_up(1);
    let later = now + Duration::from_secs(1);
    assert_eq!(of_a_vm.left(later), ENTRIES_MAX / 8);
    assert_eq!(of_a_vm.left(later + Duration::from_secs(3600)), 2 * ENTRIES_MAX, "it does not pile up");
}
