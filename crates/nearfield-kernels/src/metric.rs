//! The three metrics, and the exact rank by which answers are ordered.

use crate::Kernels;
use crate::portable::bound;

/// How two vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Cosine of the angle; 0 where either vector is zero.
    Cosine,
    /// Inner product.
    Dot,
    /// Euclidean distance.
    L2,
}

impl Metric {
    /// Every metric, in the order of their codes on disk.
    pub const ALL: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];

    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::Dot => "dot",
            Metric::L2 => "l2",
        }
    }

    /// The metric of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// What answers are ordered by, higher first: the cosine, the dot product, or minus the *squared* distance.
    /// The sums behind it are rounded once, so it does not depend on the order of dimensions or on the CPU.
    /// `row_norm` and `query_norm` are used by the cosine alone.
    pub fn rank(self, kernels: &Kernels, row: &[f32], row_norm: f64, query: &[f32], query_norm: f64) -> f64 {
        match self {
            Metric::Cosine if row_norm == 0.0 || query_norm == 0.0 => 0.0,
            Metric::Cosine => (kernels.dot_exact)(row, query) / (row_norm * query_norm),
            Metric::Dot => (kernels.dot_exact)(row, query),
            Metric::L2 => -(kernels.l2_exact)(row, query),
        }
    }

    /// Ends of an interval that holds the rank, for a fraction of its price. `query_norm` is used by the dot product too:
    /// by Cauchy and Schwarz the terms of a product, whose rounding is to be bounded, add up to that of the norms at most.
    pub fn rank_near(
        self,
        kernels: &Kernels,
        row: &[f32],
        row_norm: f64,
        query: &[f32],
        query_norm: f64,
    ) -> (f64, f64) {
        // Rounding keeps the order, so what holds of the sums holds of the rounded ones and of the quotients.
        match self {
            Metric::Cosine if row_norm == 0.0 || query_norm == 0.0 => (0.0, 0.0),
            Metric::Cosine => {
                let (sum, norms) = ((kernels.dot_near)(row, query), row_norm * query_norm);
                let off = bound(row.len(), norms);
                ((sum - off) / norms, (sum + off) / norms)
            }
            Metric::Dot => {
                let (sum, square) = ((kernels.dot_near)(row, query), (kernels.dot_near)(row, row));
                let off = bound(row.len(), square.sqrt() * query_norm);
                (sum - off, sum + off)
            }
            Metric::L2 => {
                let (sum, off) = (kernels.l2_near)(row, query);
                (-(sum + off), off - sum)
            }
        }
    }

    /// The score a person sees, from the rank: clamped to [-1, 1] for the cosine, minus the distance for l2.
    pub fn score(self, rank: f64) -> f32 {
        match self {
            Metric::Cosine => rank.clamp(-1.0, 1.0) as f32,
            Metric::Dot => rank as f32,
            Metric::L2 => -(-rank).max(0.0).sqrt() as f32,
        }
    }
}
