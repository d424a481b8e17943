//! Second and third pass of an exact search, for one query: a closer look at the candidates' codes, then their
//! vectors in full, most promising first, until the next one could not be among the best.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use nearfield_kernels::quantize::QueryCode;
use nearfield_kernels::topk::KthLargest;
use nearfield_kernels::{BLOCK, Kernels, Metric, prefetch};

use crate::scan::{Candidate, Rows};

/// Vectors asked for ahead of the one that is read.
const AHEAD: usize = 2;

/// Vectors in full, row-major, and their norms (cosine only).
pub(crate) struct Full<'a> {
    pub metric: Metric,
    pub dimension: usize,
    pub vectors: &'a [f32],
    pub norms: &'a [f64],
}

impl Full<'_> {
    /// Asks for the row's vector, which is read soon.
    fn fetch(&self, row: u32) {
        let start = row as usize * self.dimension;
        (0..self.dimension).step_by(16).for_each(|j| prefetch(self.vectors, start + j));
    }

    fn rank(&self, kernels: &Kernels, row: u32, query: &[f32], query_norm: f64) -> f64 {
        let start = row as usize * self.dimension;
        let norm = self.norms.get(row as usize).copied().unwrap_or(0.0);
        self.metric.rank(kernels, &self.vectors[start..start + self.dimension], norm, query, query_norm)
    }
}

/// A row and its exact rank. Greater is better: a higher rank, or an earlier row at the same rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ranked {
    pub rank: f64,
    pub row: u32,
}

impl Eq for Ranked {}
impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // + 0.0 makes the two zeros equal.
        (self.rank + 0.0).total_cmp(&(other.rank + 0.0)).then(other.row.cmp(&self.row))
    }
}

/// The best k rows, best first, and how many vectors were read.
pub(crate) fn best(
    kernels: &Kernels,
    rows: &Rows,
    full: &Full,
    query: (&[f32], f64, &QueryCode),
    candidates: &[Candidate],
    k: usize,
) -> (Vec<Ranked>, usize) {
    let (query, query_norm, code) = query;
    let mut kth = KthLargest::new(k);
    let mut bar = KthLargest::LOWEST;
    let mut promising: Vec<(f32, u32)> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let row = candidate.row as usize;
        let low = (kernels.dot_codes)(&rows.codes[row * rows.lines..(row + 1) * rows.lines], &code.low);
        let factors = &rows.factors[row / BLOCK];
        let (lower, upper) = code.fine_interval(candidate.dot, low, factors, row % BLOCK);
        if upper >= bar {
            bar = kth.push(lower);
            promising.push((upper, candidate.row));
        }
    }
    promising.retain(|(upper, _)| *upper >= bar);
    promising.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

    let mut heap: BinaryHeap<Reverse<Ranked>> = BinaryHeap::with_capacity(k.min(promising.len()) + 1);
    let mut read = 0;
    for &(_, row) in promising.iter().take(AHEAD) {
        full.fetch(row);
    }
    for (i, &(upper, row)) in promising.iter().enumerate() {
        if let Some((_, later)) = promising.get(i + AHEAD) {
            full.fetch(*later);
        }
        if heap.len() == k && heap.peek().is_some_and(|worst| code.highest_rank(upper) < worst.0.rank) {
            break;
        }
        heap.push(Reverse(Ranked { rank: full.rank(kernels, row, query, query_norm), row }));
        read += 1;
        if heap.len() > k {
            heap.pop();
        }
    }
    (heap.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked).collect(), read)
}
