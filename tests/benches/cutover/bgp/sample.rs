//! What one migration cost. Pure.

use super::stream::Datagram;
use cutover_engine::BootTime;
use std::time::Duration;

/// When a route of one family was where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Followed {
    pub(super) is_ipv4: bool,
    /// The elevated route is in the target's kernel.
    pub(super) elevated_at: BootTime,
    /// The best route in the last hop's kernel leads to the target.
    pub(super) led_at: BootTime,
}

/// Durations are since the announcement, and of the later family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sample {
    pub(super) to_target: Duration,
    pub(super) to_last_hop: Duration,
    pub(super) to_packet: Duration,
    /// Until the source forwards, if it does.
    pub(super) to_forward: Option<Duration>,
    /// Datagrams sent after the announcement and before the last hop's route.
    pub(super) between: usize,
    /// Datagrams sent after the announcement that never came out on the target's tap.
    pub(super) lost: usize,
    /// The most of them that were sent to one address.
    pub(super) lost_of_one: usize,
    /// Those of them that were sent after the last hop's route.
    pub(super) lost_late: usize,
}

impl Sample {
    /// `None` when the stream has nothing to say: no datagram of a family arrived.
    pub(super) fn of(
        (announced_at, forwarded_at): (BootTime, Option<BootTime>),
        followed: &[Followed],
        datagrams: &[Datagram],
    ) -> Option<Self> {
        let mut sample = Self {
            to_target: Duration::ZERO,
            to_last_hop: Duration::ZERO,
            to_packet: Duration::ZERO,
            to_forward: forwarded_at.map(|at| at.since(announced_at)),
            between: 0,
            lost: 0,
            lost_of_one: 0,
            lost_late: 0,
        };
        for Followed { is_ipv4, elevated_at, led_at } in followed {
            let own = || datagrams.iter().filter(|datagram| datagram.is_ipv4 == *is_ipv4);
            let first = own()
                .filter_map(|datagram| datagram.delivered_at)
                .filter(|delivered_at| *delivered_at >= announced_at)
                .min()?;
            let is_lost = |datagram: &&Datagram| datagram.delivered_at.is_none();
            let since = |time: BootTime| own().filter(move |datagram| datagram.sent_at >= time);
            sample.to_target = sample.to_target.max(elevated_at.since(announced_at));
            sample.to_last_hop = sample.to_last_hop.max(led_at.since(announced_at));
            sample.to_packet = sample.to_packet.max(first.since(announced_at));
            sample.between += since(announced_at).filter(|datagram| datagram.sent_at < *led_at).count();
            let lost = since(announced_at).filter(is_lost).count();
            sample.lost += lost;
            sample.lost_of_one = sample.lost_of_one.max(lost);
            sample.lost_late += since(*led_at).filter(is_lost).count();
        }
        Some(sample)
    }
}
