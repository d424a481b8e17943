//! Pure arithmetic on slices: no files, no threads, no Python.
//!
//! * [`reference`] is slow and obvious: the oracle every other path is tested against.
//! * [`sum`] adds without rounding more than once, so that answers do not depend on the CPU.
//! * [`dispatch`] looks at the CPU once and hands out a table of kernels, [`Kernels`].
//! * [`quantize`] turns vectors into 8-bit codes with a provable interval for every score.
//! * [`project`] and [`guide`] make 4-bit codes of the leading principal directions, which steer walks through a graph,
//!   [`rest`] codes of what they leave of long rows.
//! * [`kmeans`] finds the nearest of many centres, [`pq`] codes the parts of a vector with 4 bits each.
//! * [`groups`] adds up bounds over groups of rows for keyword search.
//! * [`walk`] is such a walk, [`topk`] keeps the k-th best bound while a scan runs, [`pages`] asks for memory on large pages.

pub mod dispatch;
mod errors;
pub mod groups;
pub mod guide;
pub mod kmeans;
pub mod metric;
pub mod pages;
mod portable;
pub mod pq;
pub mod project;
pub mod quantize;
pub mod reference;
pub mod rest;
pub mod sum;
pub mod topk;
pub mod walk;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_graph;
#[cfg(target_arch = "x86_64")]
mod x86_groups;
#[cfg(target_arch = "x86_64")]
mod x86_pq;

pub use dispatch::{Dots, Kernels, Level, kernels};
pub use metric::Metric;
#[cfg(target_arch = "x86_64")]
pub use x86_graph::prefetch;

/// Asks for the cache line that holds `slice[at]`: nothing, where there is no instruction for it.
#[cfg(not(target_arch = "x86_64"))]
pub fn prefetch<T>(_slice: &[T], _at: usize) {}

/// 64 bytes on a 64-byte boundary: the unit in which codes are stored, so that no load straddles a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// Bytes (8-bit codes) in a [`Line`].
pub const LINE: usize = 64;

/// Rows whose factors and packed codes stand together: the width of one 512-bit register of 32-bit sums.
pub const BLOCK: usize = 16;

/// Queries that one call of the tile kernel takes at the most.
pub const GROUP: usize = 12;

impl Line {
    /// The code of zero in every place (codes are stored with 128 added).
    pub const ZERO: Line = Line([128; LINE]);
}

/// What is known of 16 rows beside their codes, one array a factor. See [`quantize`] for the formulas.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Factors {
    /// Length of one code step: the row is about `scale * code`.
    pub scale: [f32; BLOCK],
    /// Norm of what `scale * code` misses of the row, rounded up.
    pub residual: [f32; BLOCK],
    /// Norm of `scale * code`, rounded up.
    pub norm: [f32; BLOCK],
    /// Added to the score (l2: minus half the squared norm, rounded up); minus infinity for a row that is not there.
    pub bias: [f32; BLOCK],
}

impl Factors {
    /// Sixteen rows that no query can select.
    pub const ABSENT: Factors =
        Factors { scale: [0.0; BLOCK], residual: [0.0; BLOCK], norm: [0.0; BLOCK], bias: [f32::NEG_INFINITY; BLOCK] };

    /// Takes one row over from other sixteen.
    pub fn copy_lane(&mut self, lane: usize, from: &Factors, of: usize) {
        self.scale[lane] = from.scale[of];
        self.residual[lane] = from.residual[of];
        self.norm[lane] = from.norm[of];
        self.bias[lane] = from.bias[of];
    }
}

/// One query's half of the interval: what the row factors are multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weights {
    /// Weight of `dot * scale`.
    pub scale: f32,
    /// Weight of the row's residual: the norm of the query.
    pub residual: f32,
    /// Weight of the row's norm: the norm of what the query's code misses, and the slack for rounding.
    pub norm: f32,
    /// Weight of the bias.
    pub bias: f32,
    /// Slack that is the same for every row.
    pub constant: f32,
}

impl Weights {
    /// Weights whose upper bound, but for `scale`, is not below that of any of these: a tile's rows are judged for
    /// several queries with one sum of everything that is not the dot product.
    pub fn cover(weights: &[Weights]) -> Weights {
        let mut cover = weights[0];
        for other in &weights[1..] {
            cover.residual = cover.residual.max(other.residual);
            cover.norm = cover.norm.max(other.norm);
            cover.bias = cover.bias.min(other.bias); // the bias is never above zero
            cover.constant = cover.constant.max(other.constant);
        }
        cover
    }
}
