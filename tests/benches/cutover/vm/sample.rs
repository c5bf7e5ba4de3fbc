//! What one migration cost.

use anyhow::{Context as _, Result};
use cutover_tests::blackout::Blackout;
use cutover_tests::cloud::Heard;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When everything was.
    pub(super) blackout: Blackout,
    /// The guest ran, and the client's route led elsewhere.
    pub(super) added: Duration,
    /// From then to the first answer.
    pub(super) answered_after: Duration,
    /// Datagrams that nobody answered.
    pub(super) lost: usize,
    /// Those of them that were sent when the guest had been heard on the target's tap.
    pub(super) lost_announced: usize,
    /// Those of them that were sent when the client's route led to the target.
    pub(super) lost_routed: usize,
    /// Those of them that were sent when the source forwarded.
    pub(super) lost_forwarded: Option<usize>,
    /// Answers that came twice.
    pub(super) repeated: usize,
    /// Answers that came after one to a later datagram.
    pub(super) overtaken: usize,
    /// The longest time without anything on the TCP connection.
    pub(super) tcp_silence: Duration,
    /// The same, of the same guest, that was stopped and went on in place for as long as it had run nowhere.
    pub(super) tcp_silence_in_place: Option<Duration>,
    retransmission_timeout: Duration,
}

impl Sample {
    pub(super) fn of(
        heard: &Heard,
        mut blackout: Blackout,
        retransmission_timeout: Duration,
    ) -> Result<Self> {
        let (_, record) = heard.datagrams.first().context("datagrams")?;
        let on_tap_at = blackout.on_tap_at.context("nobody heard the guest on the target's tap")?;
        let routed_at = blackout.client_routed_at.context("the client's route never led to the target")?;
        let answered_at = record.first_answer_to_sent_since(routed_at).context("the guest has gone")?;
        blackout.answered_at = record.first_answer_since(blackout.resumed_at);
        blackout.last_answer_at = blackout.answered_at.and_then(|at| record.last_answer_before(at));
        Ok(Self {
            blackout,
            added: routed_at.since(blackout.resumed_at),
            answered_after: answered_at.since(routed_at),
            lost: record.lost().count(),
            lost_announced: record.lost_since(on_tap_at),
            lost_routed: record.lost_since(routed_at),
            lost_forwarded: blackout.forwarded_at.map(|at| record.lost_since(at)),
            repeated: record.repeated(),
            overtaken: record.overtaken(),
            tcp_silence: heard.bytes.longest_silence(),
            tcp_silence_in_place: None,
            retransmission_timeout,
        })
    }

    /// How much of what the goal allows TCP was silent.
    pub(super) fn tcp_ratio(&self) -> f64 {
        let allowed = self.blackout.downtime() + self.retransmission_timeout;
        self.tcp_silence.as_secs_f64() / allowed.as_secs_f64()
    }

    /// How much longer TCP was silent than the guest ran nowhere and than it is silent in place, together.
    pub(super) fn tcp_beyond(&self) -> Option<Duration> {
        let allowed = self.blackout.downtime() + self.tcp_silence_in_place?;
        Some(self.tcp_silence.saturating_sub(allowed))
    }

    /// From the stop of the guest until the source forwarded.
    pub(super) fn stopped_to_forwarded(&self) -> Option<Duration> {
        Some(self.blackout.forwarded_at?.since(self.blackout.paused_at))
    }
}
