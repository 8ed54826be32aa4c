//! What an instance and a node take of memory: the real server in fleets of several sizes, and the line through them.
//!
//! The allocator's count (`tests/counted.rs`) is exact and knows the view alone. What is resident has in it what the allocator keeps
//! for itself, tasks, connections and their buffers.

use captain_e2e::figures::Report;
use captain_scale::engines::Plan;

use crate::load::RESIDENT;
use crate::stage::{self, Stage};

/// Of the most instances.
const PARTS: [u64; 4] = [8, 4, 2, 1];
/// How far a size may lie from the line, of what it is. Growth is in pages and in tables that double, and not in instances.
const OFF_THE_LINE: f64 = 0.05;
const MIB: f64 = 1_048_576.0;

pub(crate) async fn resident(report: &mut Report, nodes: u32, instances: u64) {
    report.section(&format!("resident: {nodes} nodes with {} to {instances} instances", instances / PARTS[0]));
    let alone = measured(Plan::of(1, 1)).await;
    report.note("resident with one node and one instance, MiB", format!("{alone:.1}"));
    let mut points = Vec::new();
    for part in PARTS {
        let instances = instances / part;
        let resident = measured(Plan::of(nodes, instances)).await;
        report.note(&format!("resident with {instances} instances, MiB"), format!("{resident:.0}"));
        points.push((instances as f64, resident));
    }
    let line = Line::through(&points);
    let most = points.last().map_or(f64::NAN, |(_, resident)| *resident);
    report.at_most("resident with the most, MiB", most, RESIDENT, format!("{most:.0}"));
    report.note("bytes an instance", format!("{:.0}", line.slope * MIB));
    report.note("kB a node", format!("{:.1}", (line.at_zero - alone) * MIB / 1e3 / f64::from(nodes)));
    let off = points.iter().map(|(at, resident)| (resident / line.at(*at) - 1.0).abs()).fold(0.0, f64::max);
    report.at_most("farthest from the line, of itself", off, OFF_THE_LINE, format!("{off:.3}"));
}

async fn measured(plan: Plan) -> f64 {
    let engines = stage::engines(plan).await;
    let (stage, _ready) = Stage::up(&engines).await;
    let resident = stage.rss_at_rest().await;
    stage.end().await;
    resident
}

/// A straight line.
struct Line {
    slope: f64,
    at_zero: f64,
}

impl Line {
    /// The one with the least squares.
    fn through(points: &[(f64, f64)]) -> Self {
        let count = points.len() as f64;
        let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let covariance: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        let variance: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        let slope = covariance / variance;
        Self { slope, at_zero: y - slope * x }
    }

    fn at(&self, x: f64) -> f64 {
        self.at_zero + self.slope * x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_through_points_that_lie_on_one() {
        let line = Line::through(&[(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)]);
        assert!((line.slope - 2.0).abs() < 1e-9 && (line.at_zero - 3.0).abs() < 1e-9);
        assert!((line.at(10.0) - 23.0).abs() < 1e-9);
    }
}
