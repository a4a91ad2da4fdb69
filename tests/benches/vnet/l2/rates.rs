//! Packet rate.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum as _;

use super::Options;
use crate::{
    lane::{Contestant, Lane, Spec},
    statistics::{median, ratio, spread},
};

pub fn run(options: &Options) -> Result<()> {
    let most = options.flows.iter().copied().max().unwrap_or(1);
    let contestants: Vec<_> = Contestant::value_variants()
        .iter()
        .copied()
        .filter(|c| options.only.is_empty() || options.only.contains(c))
        .collect();
    let mut lanes = Vec::new();
    for (number, contestant) in contestants.into_iter().enumerate() {
        let spec = Spec {
            contestant,
            fdb_size: 65536,
            flows: most,
            ports: 2,
        };
        lanes.push((contestant, Lane::new(number, spec)?));
    }
    for &flows in &options.flows {
        let mut rates: BTreeMap<Contestant, Vec<f64>> = BTreeMap::new();
        let mut loss: BTreeMap<Contestant, f64> = BTreeMap::new();
        for _ in 0..options.rounds {
            for (contestant, lane) in &mut lanes {
                let measured = lane.measure(flows, options.time())?;
                rates.entry(*contestant).or_default().push(measured.mpps());
                let worst = loss.entry(*contestant).or_default();
                *worst = worst.max(measured.loss());
            }
        }
        println!("{flows} flows");
        let rates_of = &rates;
        for (contestant, rates) in rates_of {
            println!(
                "  {:<14} {:>7.3} Mpps  spread {:>5.1} %  loss {:.4} %  {}",
                contestant.name(),
                median(rates),
                spread(rates) * 100.0,
                loss[contestant] * 100.0,
                rates_of
                    .iter()
                    .filter(|(other, _)| other != &contestant)
                    .map(|(other, to)| format!("{:.2}x{}", ratio(rates, to), other.name()))
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
    }
    Ok(())
}
