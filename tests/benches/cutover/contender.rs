//! Ways of getting from an announcement to a route, all behind one interface so that they are measured alike.

mod cutover;
mod floor;
mod packet_socket;

pub(crate) use cutover::Cutover;
pub(crate) use floor::Floor;
pub(crate) use packet_socket::{Guest, Listener, PacketSocketAgent, Threads};

use crate::lane::Lane;
use anyhow::{Result, bail};
use cutover_engine::BootTime;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// LIMIT: far beyond anything that is measured; a contender that takes this long has lost the announcement.
const PATIENCE: Duration = Duration::from_secs(2);

/// One way, waiting on a tap of its own.
pub(crate) trait Contender {
    /// What it is called in the results.
    fn name(&self) -> &'static str;

    /// The tap that it waits on.
    fn lane(&self) -> &Lane;

    /// Makes it ready for one announcement.
    fn arm(&mut self) -> Result<()>;

    /// Waits until it has acted on the announcement.
    fn finished(&mut self) -> Result<Finish>;

    /// Takes its routes away again.
    fn clear(&mut self) -> Result<()>;
}

/// When things were done, all on CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish {
    /// The kernel program saw the frame; `None` where there is no program.
    pub(crate) seen_at: Option<BootTime>,
    /// The kernel had acknowledged the last route, taken in the thread that received the acknowledgement.
    pub(crate) routed_at: BootTime,
}

/// The next message of a contender's thread.
fn receive(finishes: &Receiver<Result<Finish>>) -> Result<Finish> {
    match finishes.recv_timeout(PATIENCE) {
        Ok(finish) => finish,
        Err(error) => bail!("the announcement got lost: {error}"),
    }
}
