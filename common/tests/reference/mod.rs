//! A second classifier, written from the rules and not from the first one: slow, over slices, with lists of
//! requirements where the real one has early exits. Properties and the fuzz target compare the two.

use cutover_common::abi::{WATCH_FLAG_ANY, WATCH_FLAG_FIRST_FRAME, Watch};
use cutover_common::{AnnouncementKind as Kind, Refusal, Verdict};

/// What the classifier has to say about `frame`.
pub(crate) fn classify(frame: &[u8], watch: &Watch) -> Verdict {
    if frame.len() < 14 {
        return Verdict::Ignored;
    }
    let verdict = announcement(frame, watch).unwrap_or(Verdict::Ignored);
    let is_first =
        watch.flags & WATCH_FLAG_FIRST_FRAME != 0 && watch.mac != [0; 6] && frame[6..12] == watch.mac;
    match verdict {
        Verdict::Accepted(_) => verdict,
        _ if is_first => Verdict::Accepted(Kind::FirstFrame),
        _ => verdict,
    }
}

fn number(bytes: &[u8], offset: usize, length: usize) -> Option<u128> {
    let field = bytes.get(offset..offset + length)?;
    Some(field.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
}

fn announcement(frame: &[u8], watch: &Watch) -> Option<Verdict> {
    let mut start = 12;
    while start < 20 && matches!(number(frame, start, 2)?, 0x8100 | 0x88a8) {
        start += 4;
    }
    let content = frame.get(start + 2..)?;
    match number(frame, start, 2)? {
        0x0806 => arp(content, watch),
        0x8035 => Some(rarp(content, watch)),
        0x86dd => ipv6(content, watch),
        _ => None,
    }
}

/// The refusal of the first requirement that is not met.
fn demand(kind: Kind, requirements: &[(bool, Refusal)]) -> Verdict {
    match requirements.iter().find(|(met, _)| !met) {
        Some((_, refusal)) => Verdict::Refused(*refusal),
        None => Verdict::Accepted(kind),
    }
}

fn arp(content: &[u8], watch: &Watch) -> Option<Verdict> {
    if content.len() < 28 {
        return Some(Verdict::Refused(Refusal::Truncated));
    }
    let format = number(content, 0, 6)? == 0x0001_0800_0604;
    let operation = number(content, 6, 2)?;
    let (sender, target) = (number(content, 14, 4)?, number(content, 24, 4)?);
    let kind = if operation == 2 { Kind::GarpReply } else { Kind::GarpRequest };
    if watch.flags & WATCH_FLAG_ANY != 0 {
        return (sender == target).then_some(Verdict::Accepted(kind));
    }
    if format && sender != target {
        return None;
    }
    let own = watch.ipv4.iter().take(watch.ipv4_count.into()).any(|own| number(own, 0, 4) == Some(sender));
    Some(demand(
        kind,
        &[
            (format, Refusal::ArpFormat),
            ((1..=2).contains(&operation), Refusal::ArpOperation),
            (sender != 0, Refusal::ZeroAddress),
            (watch.mac != [0; 6], Refusal::UnknownMac),
            (content[8..14] == watch.mac, Refusal::ForeignMac),
            (own, Refusal::ForeignAddress),
        ],
    ))
}

fn rarp(content: &[u8], watch: &Watch) -> Verdict {
    if watch.flags & WATCH_FLAG_ANY != 0 {
        return Verdict::Accepted(Kind::Rarp);
    }
    demand(
        Kind::Rarp,
        &[
            (content.len() >= 28, Refusal::Truncated),
            (number(content, 0, 6) == Some(0x0001_0800_0604), Refusal::ArpFormat),
            (watch.mac != [0; 6], Refusal::UnknownMac),
            (content.get(8..14) == Some(&watch.mac), Refusal::ForeignMac),
        ],
    )
}

fn ipv6(content: &[u8], watch: &Watch) -> Option<Verdict> {
    let is_advertisement = content.first()? >> 4 == 6 && *content.get(6)? == 58 && *content.get(40)? == 136;
    if !is_advertisement {
        return None;
    }
    let target = number(content, 48, 16);
    let own = watch.ipv6.iter().take(watch.ipv6_count.into()).any(|own| number(own, 0, 16) == target);
    Some(demand(
        Kind::NeighbourAdvertisement,
        &[
            (target.is_some() && number(content, 4, 2)? >= 24, Refusal::Truncated),
            (content.get(41) == Some(&0), Refusal::AdvertisementCode),
            (content[7] == 255, Refusal::HopLimit),
            (content.get(44).is_some_and(|flags| flags & 0x40 == 0), Refusal::Solicited),
            (own, Refusal::ForeignTarget),
        ],
    ))
}
