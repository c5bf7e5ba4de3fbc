//! Durations, counted by how long they are.

use std::time::Duration;

/// Upper bounds in seconds: from what the fast path needs to the longest wait that is still one.
///
/// LIMIT: each is a line for each histogram of the page.
pub(crate) const BOUNDS: [f64; 20] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0,
];

/// The counts. As large when it is empty as when it is full.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Histogram {
    /// By bound, each without those below it; the last one is for what is longer.
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub(crate) fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.counts[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += seconds;
    }

    /// Of all durations, in seconds.
    pub(crate) const fn sum(&self) -> f64 {
        self.sum
    }

    /// How many durations there were.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bound with how many are up to it and above the one before.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        BOUNDS.into_iter().chain([f64::INFINITY]).zip(self.counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_below_the_bound_that_it_reaches() {
        let mut histogram = Histogram::default();
        for seconds in [0.0, 0.000_025, 0.000_026, 0.3, 300.0, 4000.0] {
            histogram.observe(Duration::from_secs_f64(seconds));
        }
        let counted: Vec<_> = histogram.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0.000_025, 2), (0.000_05, 1), (0.5, 1), (300.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.count(), 6);
        assert!((histogram.sum() - 4_300.300_051).abs() < 1e-9);
    }

    #[test]
    fn bounds_ascend() {
        assert!(BOUNDS.is_sorted_by(|one, next| one < next));
    }
}
