//! What is made of several measurements of the same.

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// What was measured of one thing, round by round.
#[derive(Clone, Debug, Default)]
pub struct Rounds(Vec<f64>);

impl Rounds {
    /// Adds a round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The median; NaN of nothing.
    pub fn median(&self) -> f64 {
        median(&self.0)
    }

    /// The round's ratios to another's.
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(v, o)| v / o).collect())
    }

    /// The distance between the quartiles, in parts of the median: how far the rounds lie apart.
    pub fn spread(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let at = |part: f64| sorted[(part * last as f64).round() as usize];
        (at(0.75) - at(0.25)) / median(&self.0)
    }
}

impl Serialize for Rounds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Rounds", 3)?;
        fields.serialize_field("median", &self.median())?;
        fields.serialize_field("spread", &self.spread())?;
        fields.serialize_field("rounds", &self.0)?;
        fields.end()
    }
}

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
