//! The k best rows for a few weighted terms, exactly, mostly without looking at the postings of the frequent ones.
//!
//! MaxScore (Turtle and Flood, "Query Evaluation: Strategies and Optimizations", 1995) in windows of rows: the terms
//! are ordered by weight, and from some term on all that follow are, together, not enough for a place among the best.
//! Only rows that have one of the terms before it can be answers. Upper bounds of their postings, a byte each, are added
//! up in an array, a list at a time; blocks whose maximum cannot matter are passed over. Rows whose bound reaches the k-th
//! best score are then looked up in all lists, one posting after the other while they still may be answers.
//!
//! Scores are sums in double precision in the order of the terms, rounded once to single: equal rows have equal scores.

use std::cell::RefCell;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::groups::Term;
use crate::postings::{BLOCK, Segment, reach};

/// Rows whose bounds are added up together at the most: the sums fit in the second cache.
const WINDOW: usize = 1 << 16;

/// The sum of all that a query can give; the rest of 16 bits is for rounding up.
const MOST: f64 = 60_000.0;

/// With fewer postings in a window, looking at their rows is faster than looking at all rows.
const FEW: usize = 1 << 11;

/// Candidates that are scored together; the better ones among them raise the bar for the next.
const TOGETHER: usize = 32;

/// Times the postings added up before.
const MUCH_LONGER: usize = 2;

/// Rows of the first window; every later one has twice as many. Few rows are enough to know what is a good score.
const FIRST: usize = 1 << 9;

/// With so many postings it is worth to score some promising rows first.
const WORTH_SAMPLING: usize = 1 << 12;

/// These rows, with two more for every answer wanted.
const SAMPLE: usize = 96;

/// Bounds are sums in another order than the scores they bound.
pub(crate) const SLACK: f64 = 1.0 + 1e-12;

/// Gives the impact of a posting.
pub(crate) trait Impacts {
    /// Of the posting at a position, which is of this row.
    fn at(&self, position: usize, row: u32) -> f64;

    /// Asks for what it will read, from memory.
    fn ask_for(&self, position: usize, row: u32);
}

/// A term of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighted {
    pub term: u32,
    pub weight: f64,
}

/// Which rows may be answered.
#[derive(Clone, Copy)]
pub(crate) struct Within<'a> {
    /// None where all may.
    pub holds: Option<&'a (dyn Fn(u32) -> bool + Sync)>,
    /// All of them, ascending, where they are so few that they are looked up one by one.
    pub listed: Option<&'a [u32]>,
}

/// Counts of the work behind an answer.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Work {
    pub postings: usize,
    pub looked_up: usize,
    /// Read besides.
    pub bytes: usize,
}

/// The best rows so far.
#[derive(Debug)]
pub(crate) struct Best {
    k: usize,
    /// The worst on top: the lowest score, and of equal ones the last row.
    heap: BinaryHeap<Found>,
    /// What the k-th best score is known to exceed.
    floor: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Found {
    pub score: f32,
    pub row: u32,
}

impl Eq for Found {}
impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Found {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl Best {
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new(), floor: f64::NEG_INFINITY }
    }

    /// What a later row's score must exceed.
    pub fn bar(&self) -> f64 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() == self.k => f64::from(worst.score).max(self.floor),
            _ => self.floor,
        }
    }

    /// What the score of any row must exceed, whether it is before or behind those that are known.
    pub fn bar_of_any(&self) -> f64 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() == self.k => f64::from(worst.score.next_down()).max(self.floor),
            _ => self.floor,
        }
    }

    /// Forgets some rows, which will come again, but not what is good enough.
    pub fn leave_out(&mut self, rows: Range<u32>) {
        self.floor = self.bar_of_any();
        self.heap.retain(|found| !rows.contains(&found.row));
    }

    pub fn k(&self) -> usize {
        self.k
    }

    /// Takes note of the scores of rows that will come again, and must find that they are enough.
    pub fn learn(&mut self, scores: &mut [f64]) {
        if scores.len() >= self.k {
            let (_, worst, _) = scores.select_nth_unstable_by(self.k - 1, |one, other| other.total_cmp(one));
            self.floor = f64::from((*worst as f32).next_down());
        }
    }

    /// Takes in a row that has not come yet.
    pub fn push(&mut self, score: f64, row: u32) {
        let found = Found { score: score as f32 + 0.0, row }; // minus zero is zero
        if self.heap.len() < self.k {
            self.heap.push(found);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && found < *worst
        {
            *worst = found;
        }
    }

    /// Best first; equal ones in the order of their rows.
    pub fn into_sorted(self) -> Vec<Found> {
        self.heap.into_sorted_vec()
    }
}

/// A term within a segment.
pub(crate) struct List<'a> {
    pub weight: f64,
    /// No posting adds more.
    pub top: f64,
    /// Turns stored maxima into bounds of what a posting adds.
    pub scale: f64,
    /// The first posting, the first one not passed yet, and the end of all.
    pub start: usize,
    pub at: usize,
    pub end: usize,
    /// End of the postings in the window, and a bound of what they add.
    pub stop: usize,
    pub bound: f64,
    /// For every code a bound of what the posting adds, in units.
    table: [u16; 256],
    /// What groups of rows have of a frequent term.
    pub groups: Option<Term<'a>>,
}

/// A row that may be an answer.
#[derive(Clone, Copy)]
struct Candidate {
    row: u32,
    /// Of the lists that were looked at.
    score: f64,
    /// Of all.
    bound: f64,
    found: bool,
}

#[derive(Default)]
pub(crate) struct Scratch {
    /// Zero but while a search is at work.
    sums: Vec<u16>,
    candidates: Vec<Candidate>,
    rest: Vec<f64>,
    /// Sums of groups of rows.
    pub groups: Vec<u8>,
}

thread_local! {
    /// Kept, because clearing new memory takes longer than many a search.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One segment, one query.
pub(crate) struct Search<'a, I> {
    pub segment: &'a Segment,
    pub impacts: I,
    /// What stored maxima are multiplied with to hold now.
    pub drift: f64,
    pub within: Within<'a>,
    /// Whether every addend is positive. Otherwise nothing is bounded and every posting is read.
    pub positive: bool,
}

impl<I: Impacts> Search<'_, I> {
    /// Puts the best rows of the segment into `best`. Terms come in the order their addends are summed.
    pub fn run(&self, terms: &[Weighted], best: &mut Best, work: &mut Work) {
        let segment = self.segment;
        let mut lists: Vec<List> = terms
            .iter()
            .filter_map(|wanted| {
                let place = segment.find(wanted.term)?;
                let scale = wanted.weight * self.drift * SLACK;
                let (at, end) = (segment.starts[place], segment.starts[place + 1]);
                let top = f64::from(segment.tops[place]) * scale;
                let groups = segment.levels.find(place);
                let weight = wanted.weight;
                let (start, stop, bound, table) = (at, at, top, [1; 256]);
                Some(List { weight, top, scale, start, at, end, stop, bound, table, groups })
            })
            .collect();
        if lists.is_empty() {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if let Some(rows) = self.within.listed {
                return self.look_up(rows, &mut lists, best, work, scratch);
            }
            if let ([list], true) = (&lists[..], self.positive) {
                return self.one_term(list, best, work);
            }
            scratch.sums.resize(WINDOW, 0);
            let unit = lists.iter().map(|list| list.top).sum::<f64>() / MOST;
            if self.has_groups(&lists, best.k) {
                return self.by_groups(&mut lists, best, work, scratch, |lists, until, best, work, scratch| {
                    self.tabulate(lists, unit);
                    while self.window(lists, WINDOW, until, unit, best, work, scratch) {}
                });
            }
            self.tabulate(&mut lists, unit);
            let postings: usize = lists.iter().map(|list| list.end - list.at).sum();
            let sampled = self.positive && best.k < SAMPLE && postings >= WORTH_SAMPLING;
            if sampled && best.bar() == f64::NEG_INFINITY {
                self.sample(&lists, best, work, scratch);
            }
            let mut size = if sampled { WINDOW } else { FIRST };
            while self.window(&mut lists, size, u32::MAX, unit, best, work, scratch) {
                size = (2 * size).min(WINDOW);
            }
        });
    }

    /// Makes the tables of all lists.
    fn tabulate(&self, lists: &mut [List], unit: f64) {
        for list in lists.iter_mut().filter(|_| self.positive) {
            let step = (list.top / unit * 256.0 * SLACK) as u32 + 1; // 65,280ths of the largest, rounded up
            for (bound, code) in list.table.iter_mut().zip(0u32..) {
                *bound = (step * code / 65_280 + 1) as u16;
            }
        }
    }

    /// Scores rows that are promising, to know from the start what is not enough.
    fn sample(&self, lists: &[List], best: &mut Best, work: &mut Work, scratch: &mut Scratch) {
        let Scratch { candidates, .. } = scratch;
        let Segment { rows, blocks, .. } = self.segment;
        let wanted = SAMPLE + 2 * best.k;
        candidates.clear();
        for list in lists {
            // Of a long list those blocks that have the largest maxima.
            let mut ranges: Vec<(usize, usize)> = (list.at / BLOCK..list.end.div_ceil(BLOCK))
                .map(|block| ((block * BLOCK).max(list.at), (block * BLOCK + BLOCK).min(list.end)))
                .collect();
            let few = wanted.div_ceil(BLOCK);
            if ranges.len() > few {
                ranges.select_nth_unstable_by(few, |one, other| {
                    blocks[other.0 / BLOCK].total_cmp(&blocks[one.0 / BLOCK])
                });
                ranges.truncate(few);
            }
            for (start, end) in ranges {
                let found = rows[start..end].iter().filter(|row| self.within.holds.is_none_or(|holds| holds(**row)));
                candidates.extend(found.map(|row| Candidate { row: *row, score: 0.0, bound: 0.0, found: true }));
            }
            if candidates.len() >= wanted {
                break;
            }
        }
        candidates.sort_unstable_by_key(|candidate| candidate.row);
        candidates.dedup_by_key(|candidate| candidate.row);
        for list in lists {
            let mut at = list.at;
            for candidate in candidates.iter_mut() {
                at = reach(&rows[..list.end], at, candidate.row);
                if at < list.end && rows[at] == candidate.row {
                    candidate.score += list.weight * self.impacts.at(at, candidate.row);
                }
            }
            work.looked_up += candidates.len();
        }
        best.learn(&mut candidates.iter().map(|candidate| candidate.score).collect::<Vec<f64>>());
    }

    fn bar(&self, best: &Best) -> f64 {
        if self.positive { best.bar() } else { f64::NEG_INFINITY }
    }

    /// Scores the next window of rows before `until`; false where there is none.
    #[allow(clippy::too_many_arguments)] // all of it is the state of one search
    fn window(
        &self,
        lists: &mut [List],
        size: usize,
        until: u32,
        unit: f64,
        best: &mut Best,
        work: &mut Work,
        scratch: &mut Scratch,
    ) -> bool {
        let rows = &self.segment.rows;
        let bar = self.bar(best);
        // Terms that are not enough even with all the others behind them do not begin a window.
        let mut rest = 0.0;
        let needed = lists.iter().rposition(|list| {
            rest += list.top;
            rest > bar
        });
        let Some(needed) = needed else { return false };
        let next = lists[..=needed].iter().filter(|list| list.at < list.end).map(|list| rows[list.at]).min();
        let Some(base) = next.filter(|base| *base < until) else { return false };
        let end = base.saturating_add(size as u32).min(until);
        for (i, list) in lists.iter_mut().enumerate() {
            // What is behind is mostly looked up, and its maximum here is hardly below that of all.
            (list.stop, list.bound) = (list.end, if self.positive { list.top } else { f64::INFINITY });
            if i <= needed {
                self.enter(list, base, end);
                if list.at == list.stop {
                    list.bound = 0.0;
                } else if self.positive {
                    let blocks = &self.segment.blocks[list.at / BLOCK..=(list.stop - 1) / BLOCK];
                    let most = blocks.iter().copied().fold(f32::MIN, f32::max);
                    list.bound = (f64::from(most) * list.scale).min(list.top);
                }
            }
        }
        let total: f64 = lists.iter().map(|list| list.bound).sum();
        if total > bar {
            self.score(lists, needed, base..end, (unit, total), best, work, scratch);
        }
        for list in lists {
            if list.stop < list.end || rows[list.end - 1] < end {
                list.at = list.stop;
            }
        }
        end < until
    }

    /// Finds the postings of a list in a window.
    pub fn enter(&self, list: &mut List, base: u32, end: u32) {
        let rows = &self.segment.rows[..list.end];
        list.at = reach(rows, list.at, base);
        list.stop = reach(rows, list.at, end);
    }

    #[allow(clippy::too_many_arguments)] // all of it is the state of one window
    fn score(
        &self,
        lists: &mut [List],
        needed: usize,
        window: Range<u32>,
        (unit, total): (f64, f64),
        best: &mut Best,
        work: &mut Work,
        scratch: &mut Scratch,
    ) {
        let Scratch { sums, candidates, rest, .. } = scratch;
        let sums: &mut [u16; WINDOW] = sums.as_mut_slice().try_into().expect("the sums have the length of a window");
        let (bar, base) = (self.bar(best), window.start);
        bounds_behind(lists, rest);
        let mut essential = rest.iter().position(|rest| *rest <= bar).unwrap_or(lists.len());
        let mut postings = 0;
        for i in 0..lists.len() {
            if i > needed {
                self.enter(&mut lists[i], base, window.end);
            }
            let length = lists[i].stop - lists[i].at;
            // A list that is not much longer than those before is added up sooner than their rows are looked up in it.
            if i >= essential && length > MUCH_LONGER * postings {
                break;
            }
            essential = essential.max(i + 1);
            postings += length;
            work.postings += self.add_up(&lists[i], base, total - lists[i].bound, bar, sums);
        }
        let enough = if self.positive { (bar - rest[essential] * SLACK) / unit / SLACK } else { 0.0 };
        let enough = (enough.max(0.0) as u16).min(u16::MAX - 1); // a sum that has reached the end is enough
        let positive = self.positive;
        let bound = |sum: u16| match positive && sum < u16::MAX {
            true => (f64::from(sum) * unit + rest[essential]) * SLACK,
            false => f64::INFINITY,
        };
        self.collect(&lists[..essential], postings < FEW, base, enough, sums, bound, candidates);
        if postings < FEW {
            for list in &lists[..essential] {
                self.segment.rows[list.at..list.stop].iter().for_each(|row| sums[place(*row, base)] = 0);
            }
        } else {
            sums[..(window.end - base) as usize].fill(0);
        }
        self.complete(lists, candidates, rest, best, work);
    }

    /// Adds up the bounds of a list's postings in the window; returns how many they were.
    fn add_up(&self, list: &List, base: u32, others: f64, bar: f64, sums: &mut [u16; WINDOW]) -> usize {
        let Segment { rows, codes, blocks, .. } = self.segment;
        let mut count = 0;
        let mut at = list.at;
        while at < list.stop {
            let end = (at / BLOCK * BLOCK + BLOCK).min(list.stop);
            // A row that needs this block and cannot get enough from it is no answer, whatever else it has.
            if !self.positive || f64::from(blocks[at / BLOCK]) * list.scale + others > bar {
                for (row, code) in rows[at..end].iter().zip(&codes[at..end]) {
                    let sum = &mut sums[place(*row, base)];
                    *sum = sum.saturating_add(list.table[usize::from(*code)]);
                }
                count += end - at;
            }
            at = end;
        }
        count
    }

    /// Rows of these lists whose sums are above a bound, ascending.
    #[allow(clippy::too_many_arguments)] // all of it is the state of one window
    fn collect(
        &self,
        lists: &[List],
        few: bool,
        base: u32,
        enough: u16,
        sums: &[u16; WINDOW],
        bound: impl Fn(u16) -> f64,
        candidates: &mut Vec<Candidate>,
    ) {
        candidates.clear();
        let mut push = |row: u32| {
            if self.within.holds.is_none_or(|holds| holds(row)) {
                let bound = bound(sums[place(row, base)]);
                candidates.push(Candidate { row, score: 0.0, bound, found: false });
            }
        };
        if few {
            for list in lists {
                let rows = self.segment.rows[list.at..list.stop].iter();
                rows.filter(|row| sums[place(**row, base)] > enough).for_each(|row| push(*row));
            }
            if lists.len() > 1 {
                candidates.sort_unstable_by_key(|candidate| candidate.row);
                candidates.dedup_by_key(|candidate| candidate.row);
            }
            return;
        }
        for (part, first) in sums.chunks_exact(32).zip((base..).step_by(32)) {
            // Without a branch for each, the compiler looks at many at a time.
            if part.iter().fold(0, |any, sum| any | sum.saturating_sub(enough)) > 0 {
                (first..).zip(part).filter(|(_, sum)| **sum > enough).for_each(|(row, _)| push(row));
            }
        }
    }

    /// Scores the candidates exactly, which ascend, and drops those that cannot be answers as soon as that is known.
    fn complete(&self, lists: &mut [List], candidates: &[Candidate], rest: &[f64], best: &mut Best, work: &mut Work) {
        let rows = &self.segment.rows;
        let mut left: Vec<Candidate> = Vec::with_capacity(TOGETHER);
        for some in candidates.chunks(TOGETHER) {
            let bar = self.bar(best);
            left.clear();
            left.extend(some.iter().filter(|candidate| candidate.bound > bar));
            for (list, behind) in lists.iter_mut().zip(rest) {
                let enough = bar - behind * SLACK;
                left.retain_mut(|candidate| {
                    if candidate.score <= enough {
                        return false;
                    }
                    list.at = reach(&rows[..list.stop], list.at, candidate.row);
                    if list.at < list.stop && rows[list.at] == candidate.row {
                        candidate.score += list.weight * self.impacts.at(list.at, candidate.row);
                        candidate.found = true;
                    }
                    work.looked_up += 1;
                    true
                });
            }
            for candidate in left.iter().filter(|candidate| candidate.found) {
                best.push(candidate.score, candidate.row);
            }
        }
    }

    /// Looks up every one of the rows listed.
    fn look_up(&self, listed: &[u32], lists: &mut [List], best: &mut Best, work: &mut Work, scratch: &mut Scratch) {
        let Scratch { candidates, rest, .. } = scratch;
        let (first, end) = (self.segment.first, self.segment.end);
        let listed = &listed[listed.partition_point(|row| *row < first)..listed.partition_point(|row| *row < end)];
        for list in lists.iter_mut() {
            list.stop = list.end;
            list.bound = if self.positive { list.top } else { f64::INFINITY };
        }
        bounds_behind(lists, rest);
        for rows in listed.chunks(1024) {
            candidates.clear();
            candidates.extend(rows.iter().map(|row| Candidate {
                row: *row,
                score: 0.0,
                bound: f64::INFINITY,
                found: false,
            }));
            self.complete(lists, candidates, rest, best, work);
        }
    }
}

/// The place of a row in the window that begins at `base`. It is always below WINDOW; this tells the compiler.
fn place(row: u32, base: u32) -> usize {
    (row - base) as usize % WINDOW
}

/// For every list, what it and those behind it add at the most; and at the end nothing.
pub(crate) fn bounds_behind(lists: &[List], rest: &mut Vec<f64>) {
    rest.clear();
    rest.resize(lists.len() + 1, 0.0);
    for i in (0..lists.len()).rev() {
        rest[i] = rest[i + 1] + lists[i].bound;
    }
}
