//! Second and third pass of a search, for one query: a closer look at the candidates' codes, then their vectors in
//! full, most promising first, until the next one could not be among the best.

use nearfield_kernels::quantize::QueryCode;
use nearfield_kernels::topk::KthLargest;
use nearfield_kernels::{BLOCK, Kernels, Metric, prefetch};

use crate::scan::{Candidate, Rows};
use crate::vectors::Vectors;

/// Vectors asked for ahead of the one that is read. More at once keep each other waiting, unless all of them together
/// are no more than so many cache lines.
const AHEAD: usize = 3;
const AT_ONCE: usize = 128;

/// Vectors whose beginnings are asked for ahead: most lie on a page whose address is to be found first.
const FAR_AHEAD: usize = 32;

/// Vectors in full, and their norms (cosine only).
pub(crate) struct Full<'a> {
    pub metric: Metric,
    pub vectors: &'a Vectors,
    pub norms: &'a [f64],
}

impl<'a> Full<'a> {
    /// The row's vector, the beginning of which is asked for, as is its norm.
    fn find(&self, row: u32) -> &'a [f32] {
        let vector = self.vectors.row(row as usize);
        prefetch(vector, 0);
        prefetch(self.norms, row as usize);
        vector
    }

    fn norm(&self, row: u32) -> f64 {
        self.norms.get(row as usize).copied().unwrap_or(0.0)
    }
}

/// Asks for a vector that is read soon.
fn fetch(vector: &[f32]) {
    (0..vector.len()).step_by(16).for_each(|j| prefetch(vector, j));
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
    let code = query.2;
    let mut kth = KthLargest::new(k);
    let mut bar = KthLargest::LOWEST;
    let mut promising: Vec<(f32, u32)> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let row = candidate.row as usize;
        let (factors, lane) = (&rows.factors[row / BLOCK], row % BLOCK);
        let low = (kernels.dot_codes)(&rows.codes[row * rows.lines..(row + 1) * rows.lines], &code.low);
        let (lower, upper) = code.fine_interval(candidate.dot, low, factors, lane);
        if upper >= bar {
            bar = kth.push(lower);
            promising.push((upper, candidate.row));
        }
    }
    promising.retain(|(upper, _)| *upper >= bar);
    promising.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    settle(kernels, full, (query.0, query.1, Some(query.2)), &promising, k)
}

/// The best k of the rows a walk found and of the candidates beside them, best first, and how many vectors were read.
pub(crate) fn walked(
    kernels: &Kernels,
    full: &Full,
    (query, norm): (&[f32], f64),
    found: &[u32],
    beside: Option<&(Vec<Candidate>, QueryCode)>,
    k: usize,
) -> (Vec<Ranked>, usize) {
    let mut promising: Vec<(f32, u32)> = found.iter().map(|row| (f32::INFINITY, *row)).collect();
    if let Some((candidates, _)) = beside {
        promising.extend(candidates.iter().map(|candidate| (candidate.upper, candidate.row)));
        promising[found.len()..].sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    }
    settle(kernels, full, (query, norm, beside.map(|(_, code)| code)), &promising, k)
}

/// The rank of a row, or an interval that holds it.
#[derive(Clone, Copy, Debug)]
struct Judged<'a> {
    low: f64,
    high: f64,
    row: u32,
    vector: &'a [f32],
}

/// The best k rows, best first, and how many vectors were read. `promising` holds the upper ends of the keys of all rows
/// that could be among them, highest first. Ranks are bounded first; where bounds leave the order or a score open, they are computed.
fn settle(
    kernels: &Kernels,
    full: &Full,
    query: (&[f32], f64, Option<&QueryCode>),
    promising: &[(f32, u32)],
    k: usize,
) -> (Vec<Ranked>, usize) {
    let (query, query_norm, code) = query;
    let mut judged: Vec<Judged> = Vec::with_capacity(promising.len());
    let mut kth = KthLargest::new(k);
    let mut bar = KthLargest::LOWEST;
    let lines = promising.len() * query.len().div_ceil(16);
    let ahead = if lines <= AT_ONCE { promising.len() } else { AHEAD };
    let mut later = promising.iter().map(|(_, row)| *row);
    let mut vectors: Vec<&[f32]> = later.by_ref().take(FAR_AHEAD.max(ahead)).map(|row| full.find(row)).collect();
    vectors.iter().take(ahead).for_each(|vector| fetch(vector));
    for (i, &(upper, row)) in promising.iter().enumerate() {
        vectors.extend(later.next().map(|row| full.find(row)));
        if let Some(vector) = vectors.get(i + ahead) {
            fetch(vector);
        }
        // Ranks beyond the range of float32 never stop this.
        if code.is_some_and(|code| bar > KthLargest::LOWEST && code.highest_rank(upper) < f64::from(bar)) {
            break;
        }
        let (vector, norm) = (vectors[i], full.norm(row));
        let (low, high) = full.metric.rank_near(kernels, vector, norm, query, query_norm);
        judged.push(Judged { low, high, row, vector });
        if code.is_some() {
            bar = kth.push(below(low));
        }
    }
    let read = judged.len();
    judged.sort_unstable_by(|a, b| b.low.total_cmp(&a.low).then(a.row.cmp(&b.row)));
    let mut highest = f64::NEG_INFINITY; // of those after this one
    for i in (0..judged.len()).rev() {
        let Judged { low, high, row, vector } = judged[i];
        let is_open = highest >= low || (i > 0 && judged[i - 1].low <= high);
        highest = highest.max(high);
        if is_open || full.metric.score(low) != full.metric.score(high) {
            let rank = full.metric.rank(kernels, vector, full.norm(row), query, query_norm);
            (judged[i].low, judged[i].high) = (rank, rank);
        }
    }
    let mut best: Vec<Ranked> = judged.iter().map(|judged| Ranked { rank: judged.low, row: judged.row }).collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    best.truncate(k);
    (best, read)
}

/// A float32 not above `x`.
fn below(x: f64) -> f32 {
    let rounded = x as f32;
    if f64::from(rounded) > x { rounded.next_down() } else { rounded }
}
