//! The median of measurements, and their spread.

use std::time::Duration;

/// The quartiles of a number of measurements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

/// Panics without a single measurement.
pub(crate) fn summarize(measurements: impl IntoIterator<Item = f64>) -> Summary {
    let mut sorted: Vec<f64> = measurements.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    Summary { low: quantile(&sorted, 0.25), median: quantile(&sorted, 0.5), high: quantile(&sorted, 0.75) }
}

/// The same of durations, in milliseconds.
pub(crate) fn milliseconds(measurements: impl IntoIterator<Item = Duration>) -> Summary {
    summarize(measurements.into_iter().map(|duration| duration.as_secs_f64() * 1e3))
}

/// Between two neighbours it is the line that joins them.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_few_and_of_many() {
        let of = |measurements: &[f64]| {
            let Summary { low, median, high } = summarize(measurements.iter().copied());
            [low, median, high]
        };
        assert_eq!(of(&[7.0]), [7.0, 7.0, 7.0]);
        assert_eq!(of(&[3.0, 1.0]), [1.5, 2.0, 2.5]);
        assert_eq!(of(&[5.0, 1.0, 4.0, 2.0, 3.0]), [2.0, 3.0, 4.0]);
    }
}
