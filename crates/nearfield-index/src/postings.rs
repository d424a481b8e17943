//! The postings of a range of rows: for every term the rows that have it, ascending, and how much of it they have.
//!
//! A segment is written once and merged with its neighbours later, so that there are few of them (O'Neil et al., "The
//! Log-Structured Merge-Tree", 1996). Every 128 postings have the maximum of their impacts (Ding and Suel, "Faster
//! Top-k Document Retrieval Using Block-Max Indexes", 2011), which lets a search pass over them unread. The impact of
//! a posting is its share of a score before the weight of the term, which depends on all documents, is known.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use nearfield_kernels::pages::{filled, reserve};

use crate::groups::Levels;
use crate::pool::each_job;

/// Postings that share a maximum.
pub(crate) const BLOCK: usize = 128;

/// Postings whose merging is worth another thread.
const POSTINGS_PER_THREAD: usize = 1 << 18;

/// How much of their term the rows have.
#[derive(Debug)]
pub(crate) enum Values {
    /// Times a word stands in a document; what is 255 or more stands in `high`, by position.
    Counts { low: Vec<u8>, high: Vec<(usize, u32)> },
    /// Numbers of a vector.
    Weights(Vec<f32>),
}

impl Values {
    pub fn empty_like(&self) -> Self {
        match self {
            Self::Counts { .. } => Self::counts(),
            Self::Weights(_) => Self::Weights(Vec::new()),
        }
    }

    pub fn counts() -> Self {
        Self::Counts { low: Vec::new(), high: Vec::new() }
    }

    /// As many values, all of them nothing.
    fn fill(&mut self, length: usize) {
        match self {
            Self::Counts { low, .. } => *low = filled(length, 0),
            Self::Weights(values) => *values = filled(length, 0.0),
        }
    }

    fn reserve(&mut self, more: usize) {
        match self {
            Self::Counts { low, .. } => reserve(low, more),
            Self::Weights(values) => reserve(values, more),
        }
    }

    pub fn get(&self, position: usize) -> f64 {
        match self {
            Self::Counts { low, high } => count(low, high, position),
            Self::Weights(values) => f64::from(values[position]),
        }
    }

    /// Takes in counts behind those that are there.
    pub fn push_counts(&mut self, counts: impl Iterator<Item = u32>) {
        let Self::Counts { low, high } = self else { unreachable!("documents have counts") };
        for count in counts {
            if count >= u32::from(u8::MAX) {
                high.push((low.len(), count));
            }
            low.push(count.min(u32::from(u8::MAX)) as u8);
        }
    }

    /// Copies values of another segment, from a position of this one on.
    fn copy(&mut self, to: usize, from: &Self, range: Range<usize>) {
        match (self, from) {
            (Self::Counts { low, high }, Self::Counts { low: other, high: large }) => {
                let listed = large.partition_point(|(at, _)| *at < range.start);
                let listed = large[listed..].iter().take_while(|(at, _)| *at < range.end);
                high.extend(listed.map(|(at, count)| (at - range.start + to, *count)));
                low[to..to + range.len()].copy_from_slice(&other[range]);
            }
            (Self::Weights(values), Self::Weights(other)) => {
                values[to..to + range.len()].copy_from_slice(&other[range]);
            }
            _ => unreachable!("the segments of an index are of one kind"),
        }
    }

    /// Takes the values of another one behind its own.
    fn append(&mut self, other: Self, first: usize) {
        match (self, other) {
            (Self::Counts { low, high }, Self::Counts { low: more, high: more_high }) => {
                low.extend_from_slice(&more);
                high.extend(more_high.into_iter().map(|(position, count)| (first + position, count)));
            }
            (Self::Weights(values), Self::Weights(more)) => values.extend_from_slice(&more),
            _ => unreachable!("the segments of an index are of one kind"),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Counts { low, high } => low.capacity() + high.capacity() * size_of::<(usize, u32)>(),
            Self::Weights(values) => values.capacity() * size_of::<f32>(),
        }
    }
}

/// A count out of its byte, or out of the list of the large ones.
#[inline]
pub(crate) fn count(low: &[u8], high: &[(usize, u32)], position: usize) -> f64 {
    match low[position] {
        u8::MAX => {
            let place = high.binary_search_by_key(&position, |(at, _)| *at).expect("every large count is listed");
            f64::from(high[place].1)
        }
        few => f64::from(few),
    }
}

/// Rows that were removed since the segment was written, and what that means for the terms that were asked for.
#[derive(Debug, Default)]
struct Removed {
    /// In the order they were removed.
    rows: Vec<u32>,
    /// Term to (rows looked at, rows that have the term).
    counts: Mutex<HashMap<u32, (usize, usize)>>,
}

/// Postings of the rows from `first` to before `end`.
#[derive(Debug)]
pub(crate) struct Segment {
    pub first: u32,
    pub end: u32,
    /// Ascending.
    pub terms: Vec<u32>,
    /// Where the postings of each term begin, and the end of all.
    pub starts: Vec<usize>,
    pub rows: Vec<u32>,
    pub values: Values,
    /// For every 128 postings, whichever their terms: no impact is larger.
    pub blocks: Vec<f32>,
    /// The same for every term.
    pub tops: Vec<f32>,
    /// For every posting its impact in 255ths of the term's largest, rounded up.
    pub codes: Vec<u8>,
    /// What groups of rows have of the frequent terms at the most.
    pub levels: Levels,
    /// The mean length of documents that the impacts were computed with.
    pub mean: f64,
    removed: Removed,
}

/// The new number of a row, or None for a row that is gone.
pub(crate) type Number<'a> = &'a (dyn Fn(u32) -> Option<u32> + Sync);

/// How to compute impacts: of (value, row) under the mean length of now.
pub(crate) type Impact<'a> = &'a (dyn Fn(f64, u32) -> f64 + Sync);

impl Segment {
    /// A segment of no rows.
    pub fn new(first: u32, values: Values) -> Self {
        Self {
            first,
            end: first,
            terms: Vec::new(),
            starts: vec![0],
            rows: Vec::new(),
            values,
            blocks: Vec::new(),
            tops: Vec::new(),
            codes: Vec::new(),
            levels: Levels::default(),
            mean: 0.0,
            removed: Removed::default(),
        }
    }

    /// Takes in the postings of a term, which comes behind those that are there. `bound` must follow.
    pub fn push(&mut self, term: u32, rows: impl Iterator<Item = u32>, values: impl FnOnce(&mut Values)) {
        self.terms.push(term);
        self.rows.extend(rows);
        values(&mut self.values);
        self.starts.push(self.rows.len());
    }

    /// Computes the maxima.
    pub fn bound(&mut self, mean: f64, impact: Impact, threads: usize) {
        let (rows, values, starts) = (&self.rows, &self.values, &self.starts);
        let threads = threads.min(1 + rows.len() / POSTINGS_PER_THREAD);
        let largest = |range: Range<usize>| {
            let most = range.map(|at| impact(values.get(at), rows[at])).fold(f64::MIN, f64::max);
            (most as f32).next_up()
        };
        let mut blocks = vec![0.0; rows.len().div_ceil(BLOCK)];
        each_job(
            threads,
            blocks.chunks_mut(1024).enumerate(),
            || (),
            |(), (job, blocks)| {
                for (i, most) in blocks.iter_mut().enumerate() {
                    let start = (job * 1024 + i) * BLOCK;
                    *most = largest(start..(start + BLOCK).min(rows.len()));
                }
            },
        );
        let mut tops = vec![0.0; self.terms.len()];
        each_job(
            threads,
            tops.chunks_mut(4096).enumerate(),
            || (),
            |(), (job, tops)| {
                for (i, top) in tops.iter_mut().enumerate() {
                    let term = job * 4096 + i;
                    let (start, end) = (starts[term], starts[term + 1]);
                    // Whole blocks are known already.
                    let (from, to) = (start.next_multiple_of(BLOCK).min(end), (end / BLOCK * BLOCK).max(start));
                    *top = if from < to {
                        let whole = blocks[from / BLOCK..to / BLOCK].iter().copied().fold(f32::MIN, f32::max);
                        whole.max(largest(start..from)).max(largest(to..end))
                    } else {
                        largest(start..end)
                    };
                }
            },
        );
        let mut codes = vec![0; rows.len()];
        let mut rest = codes.as_mut_slice();
        let mut jobs = Vec::new();
        for first in (0..tops.len()).step_by(1024) {
            let terms = first..(first + 1024).min(tops.len());
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(starts[terms.end] - starts[first]);
            rest = others;
            jobs.push((terms, mine));
        }
        each_job(
            threads,
            jobs.into_iter(),
            || (),
            |(), (terms, codes)| {
                let first = starts[terms.start];
                for term in terms {
                    let unit = 255.0 / f64::from(tops[term]);
                    for at in starts[term]..starts[term + 1] {
                        codes[at - first] = (impact(values.get(at), rows[at]) * unit).ceil() as u8;
                    }
                }
            },
        );
        (self.blocks, self.tops, self.codes, self.mean) = (blocks, tops, codes, mean);
        self.levels = Levels::new(self, threads);
    }

    /// Place of a term, if any row has it.
    pub fn find(&self, term: u32) -> Option<usize> {
        // A segment of all rows has all terms, each in the place of its number.
        let place = term as usize;
        if self.terms.get(place) == Some(&term) { Some(place) } else { self.terms.binary_search(&term).ok() }
    }

    /// Notes that a row of this segment was removed.
    pub fn remove(&mut self, row: u32) {
        self.removed.rows.push(row);
    }

    /// Whether rows were removed since it was written.
    pub fn has_removed(&self) -> bool {
        !self.removed.rows.is_empty()
    }

    /// Rows that have the term at this place, without the removed ones.
    pub fn frequency(&self, place: usize, is_live: impl Fn(u32) -> bool) -> usize {
        let postings = &self.rows[self.starts[place]..self.starts[place + 1]];
        let removed = &self.removed.rows;
        if removed.is_empty() {
            return postings.len();
        }
        let mut counts = self.removed.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, gone) = counts.entry(self.terms[place]).or_default();
        if *seen < removed.len() {
            *gone = if (removed.len() - *seen) * 8 < postings.len() {
                *gone + removed[*seen..].iter().filter(|row| postings.binary_search(row).is_ok()).count()
            } else {
                postings.iter().filter(|row| !is_live(**row)).count()
            };
            *seen = removed.len();
        }
        postings.len() - *gone
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let numbers = self.terms.capacity() + self.rows.capacity() + self.blocks.capacity() + self.tops.capacity();
        4 * numbers
            + self.codes.capacity()
            + self.starts.capacity() * size_of::<usize>()
            + self.values.bytes()
            + self.levels.bytes()
    }

    /// One segment out of several whose rows ascend. Rows get the numbers that `number` says, or stay out.
    pub fn merge(parts: &[Self], number: Option<Number>, threads: usize) -> Self {
        let mut terms: Vec<u32> = parts.iter().flat_map(|part| part.terms.iter().copied()).collect();
        terms.sort_unstable();
        terms.dedup();
        let postings: usize = parts.iter().map(|part| part.rows.len()).sum();
        let jobs = (postings / POSTINGS_PER_THREAD).clamp(1, 4 * threads.max(1));
        // Terms came in the order of their first use, so the first ones are the frequent ones: parts of equal postings.
        let mut cuts = vec![0];
        if jobs > 1 {
            let mut sizes = vec![0; terms.len()];
            for part in parts {
                each_place(&terms, &part.terms, |to, place| sizes[to] += part.starts[place + 1] - part.starts[place]);
            }
            let mut sum = 0;
            for (place, size) in sizes.iter().enumerate() {
                sum += size;
                if sum >= cuts.len() * postings.div_ceil(jobs) && place + 1 < terms.len() {
                    cuts.push(place + 1);
                }
            }
        }
        cuts.push(terms.len());
        let jobs: Vec<&[u32]> = cuts.windows(2).map(|cut| &terms[cut[0]..cut[1]]).collect();
        let merged: Mutex<Vec<Option<Self>>> = Mutex::new(jobs.iter().map(|_| None).collect());
        each_job(
            threads.min(jobs.len()),
            jobs.iter().enumerate(),
            || (),
            |(), (job, terms)| {
                let part = Self::merged(terms, parts, number);
                merged.lock().unwrap_or_else(PoisonError::into_inner)[job] = Some(part);
            },
        );
        let merged = merged.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut merged = merged.into_iter().map(|part| part.expect("every job was done"));
        let mut whole = merged.next().expect("there is one job at least");
        let more: Vec<Self> = merged.collect();
        let length = more.iter().map(|part| part.rows.len()).sum();
        reserve(&mut whole.rows, length);
        whole.values.reserve(length);
        for part in more {
            let first = whole.rows.len();
            whole.terms.extend_from_slice(&part.terms);
            whole.starts.pop();
            whole.starts.extend(part.starts.iter().map(|start| first + start));
            whole.rows.extend_from_slice(&part.rows);
            whole.values.append(part.values, first);
        }
        whole
    }

    /// The postings of some terms.
    fn merged(terms: &[u32], parts: &[Self], number: Option<Number>) -> Self {
        let mut sizes = vec![0; terms.len()];
        let kept = |part: &Self, place: usize| {
            let rows = &part.rows[part.starts[place]..part.starts[place + 1]];
            number.map_or(rows.len(), |number| rows.iter().filter(|row| number(**row).is_some()).count())
        };
        for part in parts {
            each_place(terms, &part.terms, |to, place| sizes[to] += kept(part, place));
        }
        let mut next: Vec<usize> = Vec::with_capacity(terms.len());
        let mut starts = vec![0];
        let mut present = Vec::with_capacity(terms.len());
        let mut length = 0;
        for (term, size) in terms.iter().zip(&sizes) {
            next.push(length);
            length += size;
            if *size > 0 {
                present.push(*term);
                starts.push(length);
            }
        }
        let mut rows = filled(length, 0);
        let mut values = parts[0].values.empty_like();
        values.fill(length);
        for part in parts {
            each_place(terms, &part.terms, |to, place| {
                let run = part.starts[place]..part.starts[place + 1];
                let Some(number) = number else {
                    rows[next[to]..next[to] + run.len()].copy_from_slice(&part.rows[run.clone()]);
                    values.copy(next[to], &part.values, run.clone());
                    next[to] += run.len();
                    return;
                };
                for from in run {
                    if let Some(row) = number(part.rows[from]) {
                        rows[next[to]] = row;
                        values.copy(next[to], &part.values, from..from + 1);
                        next[to] += 1;
                    }
                }
            });
        }
        if let Values::Counts { high, .. } = &mut values {
            high.sort_unstable();
        }
        let mut merged = Self::new(parts[0].first, values);
        merged.end = parts[parts.len() - 1].end;
        (merged.terms, merged.starts, merged.rows) = (present, starts, rows);
        merged
    }
}

/// Calls `work` with the places of every term that is in both lists, which ascend.
fn each_place(terms: &[u32], others: &[u32], mut work: impl FnMut(usize, usize)) {
    let (Some(first), Some(last)) = (terms.first(), terms.last()) else { return };
    let mut at = 0;
    let from = others.partition_point(|term| term < first);
    for (place, term) in others.iter().enumerate().skip(from) {
        if term > last {
            break;
        }
        at = reach(terms, at, *term);
        if terms.get(at) == Some(term) {
            work(at, place);
        }
    }
}

/// Numbers that `reach` counts at a time: without a branch for each, which the processor would often guess wrong.
const LANES: usize = 16;

/// The first place from `from` on whose number is not below `wanted`. Looks near `from` first.
#[inline]
pub(crate) fn reach(numbers: &[u32], from: usize, wanted: u32) -> usize {
    let mut low = from;
    let mut step = LANES;
    while low + step <= numbers.len() && numbers[low + step - 1] < wanted {
        low += step;
        step *= 2;
    }
    // The answer is in the next `step` numbers, or there are fewer than that.
    let mut high = (low + step).min(numbers.len());
    while high - low > LANES {
        let middle = low + (high - low) / 2;
        if numbers[middle] < wanted {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low + numbers[low..high].iter().map(|number| usize::from(*number < wanted)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::reach;

    #[test]
    fn reach_equals_a_search_from_the_start() {
        let numbers: Vec<u32> = (0..200).map(|i| i * 3 + i % 2).collect();
        for from in 0..=200 {
            for wanted in 0..620 {
                let expected = (from..200).find(|at| numbers[*at] >= wanted).unwrap_or(200);
                assert_eq!(reach(&numbers, from, wanted), expected, "{from} {wanted}");
            }
        }
    }
}
