//! Makes a list that fails shorter, until leaving out any part of it makes it pass or time is over: delta debugging (Zeller and
//! Hildebrandt, 2002). Knows nothing of what the list is.

use std::time::{Duration, Instant};

/// The shortest list that was found for which `fails` still says so. It is asked as long as `limit` is not over.
pub(crate) fn shrink<T: Clone>(list: &[T], limit: Duration, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let began_at = Instant::now();
    let mut shortest = list.to_vec();
    let mut parts = 2;
    while shortest.len() > 1 {
        let size = shortest.len().div_ceil(parts);
        let mut first = 0;
        let mut is_shorter = false;
        while first < shortest.len() {
            if began_at.elapsed() >= limit {
                return shortest;
            }
            let end = (first + size).min(shortest.len());
            let without: Vec<T> = [&shortest[..first], &shortest[end..]].concat();
            if !without.is_empty() && fails(&without) {
                shortest = without;
                is_shorter = true;
            } else {
                first = end;
            }
        }
        if size == 1 && !is_shorter {
            return shortest;
        }
        if !is_shorter || size >= shortest.len() {
            parts = (parts * 2).min(shortest.len());
        }
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_needed_is_left() {
        let list: Vec<u32> = (0..100).collect();
        for needed in [&[0][..], &[99], &[3, 50], &[10, 11, 12], &[0, 33, 66, 99]] {
            let mut asked = 0;
            let left = shrink(&list, LIMIT, |list| {
                asked += 1;
                needed.iter().all(|it| list.contains(it))
            });
            assert_eq!(left, needed);
            assert!(asked < 100, "{asked} for {needed:?}");
        }
    }

    #[test]
    fn a_list_of_which_nothing_can_be_left_out_stays() {
        assert_eq!(shrink(&[1, 2, 3], LIMIT, |_| false), [1, 2, 3]);
    }

    #[test]
    fn when_time_is_over_the_shortest_so_far_is_the_answer() {
        let list: Vec<u32> = (0..8).collect();
        assert_eq!(shrink(&list, Duration::ZERO, |_| unreachable!()), list);
    }
}
