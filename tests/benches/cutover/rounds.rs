//! Runs contenders in turns, one announcement each, so that whatever else the machine does hits all alike.

use crate::contender::Contender;
use anyhow::{Context as _, Result};
use cutover_tests::statistics::Distribution;
use std::thread::sleep;
use std::time::Duration;

/// How long everything is left alone before an announcement, so that every contender sleeps when it comes, and so
/// does the processor that it will run on, if the machine has nothing else to do.
const SETTLING: Duration = Duration::from_millis(10);

/// Rounds that are run before those that count.
const WARM_UP: usize = 20;

/// How long one contender took.
pub(crate) struct Times {
    pub(crate) name: &'static str,
    /// From the moment before the guest sent the frame to the acknowledgement of the last route.
    pub(crate) from_sending: Distribution,
    /// From the kernel program to the acknowledgement of the last route, where there is a program.
    pub(crate) from_program: Option<Distribution>,
}

/// The times of each contender, in their order.
pub(crate) fn run(contenders: &mut [Box<dyn Contender + '_>], rounds: usize) -> Result<Vec<Times>> {
    let count = contenders.len();
    let mut samples: Vec<(Vec<Duration>, Vec<Duration>)> = vec![Default::default(); count];
    for round in 0..WARM_UP + rounds {
        for index in order(round, count) {
            let contender = contenders[index].as_mut();
            let (from_sending, from_program) =
                one(contender).with_context(|| format!("{}, round {round}", contender.name()))?;
            if round >= WARM_UP {
                samples[index].0.push(from_sending);
                samples[index].1.extend(from_program);
            }
        }
    }
    let times = contenders.iter().zip(samples).map(|(contender, (from_sending, from_program))| Times {
        name: contender.name(),
        from_sending: Distribution::of(from_sending),
        from_program: (!from_program.is_empty()).then(|| Distribution::of(from_program)),
    });
    Ok(times.collect())
}

/// The contenders of a round in another order than in the round before, so that none always comes after the same
/// other and meets the caches as that one left them. The same in every run.
pub(crate) fn order(round: usize, count: usize) -> Vec<usize> {
    // The generator of Numerical Recipes; its high bits are good enough for this.
    let mut random = (round as u32).wrapping_mul(2_654_435_769);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        order.swap(last, (random >> 16) as usize % (last + 1));
    }
    order
}

fn one(contender: &mut dyn Contender) -> Result<(Duration, Option<Duration>)> {
    contender.arm()?;
    sleep(SETTLING);
    let sent_at = contender.lane().announce();
    let finish = contender.finished()?;
    contender.clear()?;
    let from_program = finish.seen_at.map(|seen_at| finish.routed_at.since(seen_at));
    Ok((finish.routed_at.since(sent_at), from_program))
}
