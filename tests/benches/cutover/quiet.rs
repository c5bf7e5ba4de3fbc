//! Waits until the kernel has finished what went before: it removes the interfaces of a namespace that is gone in the
//! background, thousands of them in a row, with the lock that everything needs that changes a link or arms a tap.

use anyhow::{Result, ensure};
use cutover_tests::namespace::Namespace;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What making a namespace takes at most on a machine that is not busy with links; it takes a few milliseconds.
const PROMPT: Duration = Duration::from_millis(100);

/// How many are made promptly, one after the other, until the machine counts as quiet.
const IN_A_ROW: u32 = 20;

const PAUSE: Duration = Duration::from_millis(50);

/// LIMIT: ten thousand taps have kept others waiting for most of a minute.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn wait() -> Result<()> {
    let began = Instant::now();
    let mut prompt = 0;
    while prompt < IN_A_ROW {
        let asked = Instant::now();
        drop(Namespace::create(&format!("cut{}quiet", std::process::id())));
        prompt = if asked.elapsed() < PROMPT { prompt + 1 } else { 0 };
        ensure!(began.elapsed() < PATIENCE, "the kernel is busy with links since {PATIENCE:?}");
        sleep(PAUSE);
    }
    Ok(())
}
