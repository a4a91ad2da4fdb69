//! A contestant's packet rate.

use serde::Serialize;

use crate::{
    generator::Measured,
    report::{number, percent},
    statistics::Rounds,
};

/// What one contestant did.
#[derive(Debug, Default, Serialize)]
pub struct Rate {
    pub mpps: Rounds,
    /// The worst round's.
    pub loss: f64,
}

impl Rate {
    /// Adds a round.
    pub fn push(&mut self, measured: Measured) {
        self.mpps.push(measured.mpps());
        self.loss = self.loss.max(measured.loss());
    }

    /// Rate, spread and loss as a table's cells.
    pub fn cells(&self) -> Vec<String> {
        vec![
            number(Some(self.mpps.median()), 3),
            percent(self.mpps.spread(), 1),
            percent(self.loss, 3),
        ]
    }
}
