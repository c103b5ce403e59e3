//! Buckets of durations for quantiles in the process: from 256 µs to 18 minutes, each √2 times the last, so that a quantile
//! is wrong by a fifth at most.

use std::time::Duration;

/// The number of buckets.
pub(super) const BUCKETS: usize = 45;
/// The binary logarithm of the first boundary in microseconds.
const FIRST_LOG: u32 = 8;

/// Returns the bucket of a duration.
pub(super) fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
    let Some(log) = micros.checked_ilog2().filter(|log| *log >= FIRST_LOG) else { return 0 };
    // At least √2 · 2^log.
    let is_upper_half = micros * micros >= 1 << (2 * log + 1);
    let index = 1 + 2 * (log - FIRST_LOG) + u32::from(is_upper_half);
    (index as usize).min(BUCKETS - 1)
}

/// Returns the lower boundary of a bucket in milliseconds.
fn boundary(bucket: usize) -> f64 {
    match bucket {
        0 => 0.0,
        n => 0.256 * 2_f64.powf((n as f64 - 1.0) / 2.0),
    }
}

/// Returns a quantile in milliseconds, interpolated within its bucket. None without a sample.
pub(super) fn quantile(counts: &[u64; BUCKETS], quantile: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = (quantile * total as f64).max(1.0);
    let mut below = 0.0;
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (lower, upper, count) = (boundary(bucket), boundary(bucket + 1), *count as f64);
        if below + count >= rank {
            let millis = lower + (upper - lower) * ((rank - below) / count);
            return Some((millis * 100.0).round() / 100.0);
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_within_the_boundaries_of_its_bucket() {
        for micros in [0, 1, 255, 256, 362, 363, 511, 512, 1000, 1_000_000, 60_000_000] {
            let (found, millis) = (bucket(Duration::from_micros(micros)), micros as f64 / 1000.0);
            assert!(boundary(found) <= millis && millis < boundary(found + 1), "{micros}: {found}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantile_is_near_the_exact_one() {
        let mut counts = [0; BUCKETS];
        assert_eq!(quantile(&counts, 0.99), None);
        (1..=1000).for_each(|n| counts[bucket(Duration::from_millis(n))] += 1);
        for (wanted, exact) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0)] {
            let found = quantile(&counts, wanted).unwrap();
            assert!((found / exact - 1.0).abs() < 0.2, "{wanted}: {found}");
        }
    }
}
