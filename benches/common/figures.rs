//! Figures of several rounds: minimum, median and maximum.

use std::fmt;

/// The minimum, the median and the maximum of a figure.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Returns the spread of values that are not empty. All are NaN if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Spread { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }

    /// Returns the spread of the ratios of values that were measured in the same round.
    pub fn of_ratios(values: &[f64], base: &[f64]) -> Spread {
        Spread::of(values.iter().zip(base).map(|(value, base)| value / base))
    }
}

impl fmt::Display for Spread {
    /// Writes `median (minimum-maximum)` with the precision of the format.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max)
    }
}

/// Returns a percentile of sorted values. NaN if there are none.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((sorted.len() as f64 * share) as usize).min(last)).copied().unwrap_or(f64::NAN)
}
