//! What is made of several measurements of the same.

/// The median; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The median of the ratios of values that were measured in the same round.
pub fn ratio(values: &[f64], to: &[f64]) -> f64 {
    let ratios: Vec<_> = values.iter().zip(to).map(|(v, t)| v / t).collect();
    median(&ratios)
}

/// The distance between the quartiles, in parts of the median: how far the rounds lie apart.
pub fn spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = |part: f64| sorted[(part * last as f64).round() as usize];
    (at(0.75) - at(0.25)) / median(&sorted)
}
