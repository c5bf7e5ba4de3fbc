//! What one migration cost.

use anyhow::{Context as _, Result};
use cutover_engine::BootTime;
use cutover_tests::cloud::Heard;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The guest ran nowhere.
    pub(super) downtime: Duration,
    /// The guest ran, and the client's route led elsewhere.
    pub(super) added: Duration,
    /// From then to the first answer.
    pub(super) answered_after: Duration,
    /// Datagrams that nobody answered.
    pub(super) lost: usize,
    /// Those of them that were sent when the client's route led to the target.
    pub(super) lost_late: usize,
    /// The longest time without anything on the TCP connection.
    pub(super) tcp_silence: Duration,
    retransmission_timeout: Duration,
}

impl Sample {
    pub(super) fn of(
        heard: &Heard,
        (paused_at, resumed_at): (BootTime, BootTime),
        routed_at: BootTime,
        retransmission_timeout: Duration,
    ) -> Result<Self> {
        let (_, record) = heard.datagrams.first().context("datagrams")?;
        let answered_at = record.first_answer_to_sent_since(routed_at).context("the guest has gone")?;
        Ok(Self {
            downtime: resumed_at.since(paused_at),
            added: routed_at.since(resumed_at),
            answered_after: answered_at.since(routed_at),
            lost: record.lost().count(),
            lost_late: record.lost_since(routed_at),
            tcp_silence: heard.bytes.longest_silence(),
            retransmission_timeout,
        })
    }

    /// How much of what the goal allows TCP was silent.
    pub(super) fn tcp_ratio(&self) -> f64 {
        self.tcp_silence.as_secs_f64() / (self.downtime + self.retransmission_timeout).as_secs_f64()
    }
}
