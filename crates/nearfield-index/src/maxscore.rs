//! The k best rows for a few weighted terms, exactly, mostly without looking at the postings of the frequent ones.
//!
//! MaxScore (Turtle and Flood, "Query Evaluation: Strategies and Optimizations", 1995) in windows of rows: the terms
//! are ordered by weight, and from some term on all that follow are, together, not enough for a place among the best.
//! Only rows that have one of the terms before it can be answers. Their postings are added up in an array, a list at a
//! time; blocks whose maximum cannot matter are passed over. The few rows that may still reach the k-th best score are
//! looked up in the lists of the other terms. All maxima are of the window at hand.
//!
//! Scores are sums in double precision in the order of the terms, rounded once to single: equal rows have equal scores.

use std::cell::RefCell;
use std::collections::BinaryHeap;

use crate::postings::{BLOCK, Segment, reach};

/// Rows that are scored together: their sums fit in the second cache.
const WINDOW: usize = 1 << 15;

/// Bounds are sums in another order than the scores they bound.
const SLACK: f64 = 1.0 + 1e-12;

/// Gives the impact of a posting.
pub(crate) trait Impacts {
    /// Of the posting at a position, which is of this row.
    fn at(&self, position: usize, row: u32) -> f64;
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
    pub holds: &'a (dyn Fn(u32) -> bool + Sync),
    /// All of them, ascending, where they are so few that they are looked up one by one.
    pub listed: Option<&'a [u32]>,
}

/// Counts of the work behind an answer.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Work {
    pub postings: usize,
    pub looked_up: usize,
}

/// The best rows so far.
#[derive(Debug)]
pub(crate) struct Best {
    k: usize,
    /// The worst on top: the lowest score, and of equal ones the last row.
    heap: BinaryHeap<Found>,
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
        Self { k, heap: BinaryHeap::new() }
    }

    /// What a later row's score must exceed.
    fn bar(&self) -> f64 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() == self.k => f64::from(worst.score),
            _ => f64::NEG_INFINITY,
        }
    }

    /// Takes in a row; rows come in ascending order.
    fn push(&mut self, score: f64, row: u32) {
        let found = Found { score: score as f32 + 0.0, row }; // minus zero is zero
        if self.heap.len() < self.k {
            self.heap.push(found);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && found.score > worst.score
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
struct List {
    weight: f64,
    /// No posting adds more.
    top: f64,
    /// Turns stored maxima into bounds of what a posting adds.
    scale: f64,
    /// Postings not passed yet, and the end of all.
    at: usize,
    end: usize,
    /// End of the postings in the window, and a bound of what they add.
    stop: usize,
    bound: f64,
}

/// A row that may be an answer.
#[derive(Clone, Copy)]
struct Candidate {
    row: u32,
    score: f64,
    found: bool,
}

#[derive(Default)]
struct Scratch {
    sums: Vec<f64>,
    candidates: Vec<Candidate>,
    rest: Vec<f64>,
}

thread_local! {
    /// Zero but while a search is at work. Kept, because clearing new memory takes longer than many a search.
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
                Some(List { weight: wanted.weight, top, scale, at, end, stop: at, bound: top })
            })
            .collect();
        if lists.is_empty() {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| match self.within.listed {
            Some(rows) => self.look_up(rows, &mut lists, best, work, scratch),
            None => {
                scratch.sums.resize(WINDOW, 0.0);
                while self.window(&mut lists, best, work, scratch) {}
            }
        });
    }

    fn bar(&self, best: &Best) -> f64 {
        if self.positive { best.bar() } else { f64::NEG_INFINITY }
    }

    /// Scores the next window; false where there is none.
    fn window(&self, lists: &mut [List], best: &mut Best, work: &mut Work, scratch: &mut Scratch) -> bool {
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
        let Some(base) = next else { return false };
        let end = base.saturating_add(WINDOW as u32);
        let mut total = 0.0;
        for list in lists.iter_mut() {
            list.at = reach(&rows[..list.end], list.at, base);
            list.stop = reach(&rows[..list.end], list.at, end);
            list.bound = if list.at == list.stop {
                0.0
            } else if self.positive {
                let blocks = &self.segment.blocks[list.at / BLOCK..=(list.stop - 1) / BLOCK];
                let most = blocks.iter().copied().fold(f32::MIN, f32::max);
                (f64::from(most) * list.scale).min(list.top)
            } else {
                f64::INFINITY
            };
            total += list.bound;
        }
        if total > bar {
            self.sum_window(lists, base, total, best, work, scratch);
        }
        for list in lists {
            list.at = list.stop;
        }
        end < u32::MAX
    }

    fn sum_window(
        &self,
        lists: &mut [List],
        base: u32,
        total: f64,
        best: &mut Best,
        work: &mut Work,
        scratch: &mut Scratch,
    ) {
        let Scratch { sums, candidates, rest } = scratch;
        let sums: &mut [f64; WINDOW] = sums.as_mut_slice().try_into().expect("the sums have the length of a window");
        let bar = self.bar(best);
        bounds_behind(lists, rest);
        let essential = rest.iter().position(|rest| *rest <= bar).unwrap_or(lists.len());
        let place = |row: u32| (row - base) as usize % WINDOW; // always below it; this tells the compiler
        let rows = &self.segment.rows;
        for list in &lists[..essential] {
            let others = total - list.bound;
            let mut at = list.at;
            while at < list.stop {
                let end = (at / BLOCK * BLOCK + BLOCK).min(list.stop);
                // A row that needs this block and cannot get enough from it is no answer, whatever else it has.
                if !self.positive || f64::from(self.segment.blocks[at / BLOCK]) * list.scale + others > bar {
                    for (position, &row) in (at..end).zip(&rows[at..end]) {
                        sums[place(row)] += list.weight * self.impacts.at(position, row);
                    }
                    work.postings += end - at;
                }
                at = end;
            }
        }
        let enough = bar - rest.get(essential).copied().unwrap_or(0.0) * SLACK;
        candidates.clear();
        for list in &lists[..essential] {
            for &row in &rows[list.at..list.stop] {
                let score = sums[place(row)];
                if score > enough && (self.within.holds)(row) {
                    candidates.push(Candidate { row, score, found: true });
                }
            }
        }
        for list in &lists[..essential] {
            for &row in &rows[list.at..list.stop] {
                sums[place(row)] = 0.0;
            }
        }
        candidates.sort_unstable_by_key(|candidate| candidate.row);
        candidates.dedup_by_key(|candidate| candidate.row);
        self.complete(lists, essential, candidates, rest, best, work);
        for candidate in candidates.iter() {
            best.push(candidate.score, candidate.row);
        }
    }

    /// Adds the terms from number `from` on to the candidates, and drops those that cannot be answers.
    fn complete(
        &self,
        lists: &mut [List],
        from: usize,
        candidates: &mut Vec<Candidate>,
        rest: &[f64],
        best: &Best,
        work: &mut Work,
    ) {
        let rows = &self.segment.rows;
        let bar = self.bar(best);
        for (list, behind) in lists[from..].iter_mut().zip(&rest[from..]) {
            let enough = bar - behind * SLACK;
            candidates.retain_mut(|candidate| {
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
            candidates.extend(rows.iter().map(|row| Candidate { row: *row, score: 0.0, found: false }));
            self.complete(lists, 0, candidates, rest, best, work);
            for candidate in candidates.iter().filter(|candidate| candidate.found) {
                best.push(candidate.score, candidate.row);
            }
        }
    }
}

/// For every list, what it and those behind it add at the most; and at the end nothing.
fn bounds_behind(lists: &[List], rest: &mut Vec<f64>) {
    rest.clear();
    rest.resize(lists.len() + 1, 0.0);
    for i in (0..lists.len()).rev() {
        rest[i] = rest[i + 1] + lists[i].bound;
    }
}
