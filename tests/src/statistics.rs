//! Order statistics of measured times, for the benches. Knows nothing of what was measured.

use std::fmt;
use std::time::Duration;

/// Times of one thing that was done many times, in ascending order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Distribution(Vec<Duration>);

impl Distribution {
    /// The distribution of `times`, which are in any order.
    ///
    /// # Panics
    /// When there are none: nothing can be said about nothing.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "a distribution of no times");
        times.sort_unstable();
        Self(times)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that at least `percent` percent of all do not exceed (nearest rank).
    ///
    /// # Panics
    /// When `percent` is not within 1 to 100.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        assert!((1..=100).contains(&percent), "percentile {percent}");
        self.0[(self.0.len() * percent).div_ceil(100) - 1]
    }

    /// Half of all are at most this.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// All but one in a hundred are at most this.
    #[must_use]
    pub fn p99(&self) -> Duration {
        self.percentile(99)
    }
}

/// How many times as long as `other` this took.
#[must_use]
pub fn ratio(this: Duration, other: Duration) -> f64 {
    this.as_secs_f64() / other.as_secs_f64()
}

/// A time in microseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Micros(pub Duration);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} µs", self.0.as_secs_f64() * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(values: impl IntoIterator<Item = u64>) -> Distribution {
        Distribution::of(values.into_iter().map(Duration::from_micros).collect())
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred = micros((1..=100).rev());
        assert_eq!(hundred.count(), 100);
        assert_eq!(hundred.median(), Duration::from_micros(50));
        assert_eq!(hundred.p99(), Duration::from_micros(99));
        assert_eq!(hundred.percentile(100), Duration::from_micros(100));
        assert_eq!(hundred.percentile(1), Duration::from_micros(1));
    }

    #[test]
    fn one_time_is_every_percentile() {
        let one = micros([7]);
        assert_eq!((one.median(), one.p99()), (Duration::from_micros(7), Duration::from_micros(7)));
    }

    #[test]
    fn one_slow_one_in_two_hundred_is_not_in_the_p99_but_three_are() {
        let calm = (0..199).map(|_| 10);
        assert_eq!(micros(calm.chain([900])).p99(), Duration::from_micros(10));
        let calm = (0..197).map(|_| 10);
        assert_eq!(micros(calm.chain([900; 3])).p99(), Duration::from_micros(900));
    }

    #[test]
    fn ratios_and_units() {
        assert!((ratio(Duration::from_micros(5), Duration::from_micros(4)) - 1.25).abs() < 1e-9);
        assert_eq!(Micros(Duration::from_nanos(93_460)).to_string(), "93.5 µs");
    }
}
