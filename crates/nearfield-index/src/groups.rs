//! Searching by groups of four neighbouring rows: where many rows have the words, most are passed over unread.
//!
//! Block-max pruning (Mallia, Suel and Tonellotto, "Faster Learned Sparse Retrieval with Block-Max Pruning", 2024): a
//! term that many rows have says of every group of rows how much it gives to one of them at the most, in 4 bits. For a
//! query these bounds are added up, 64 groups at a time; the postings of the other terms are added one by one. Only the
//! groups whose sum reaches the k-th best score are looked up. Scores are made as everywhere else: results are the same.

use std::cmp::Reverse;

use nearfield_kernels::groups::{SPAN, level, place, span_bytes};
use nearfield_kernels::pages::filled;
use nearfield_kernels::{kernels, prefetch};

use crate::maxscore::{Best, Impacts, List, SLACK, Scratch, Search, Work};
use crate::pool::each_job;
use crate::postings::{Segment, reach};

/// Rows whose bounds are one sum.
const GROUP: u32 = 4;

/// Rows of a span, and of the steps in which the postings of a term are marked.
const ROWS: u32 = GROUP * SPAN as u32;

/// Rows whose sums are made together: they fit in the first cache.
const CHUNK: u32 = 1 << 16;

/// Rows whose sums are looked at together: they fit in the second cache.
const REGION: u32 = 1 << 20;

/// With fewer rows a segment has no levels.
const WORTH_LEVELS: u32 = 1 << 15;

/// A term has levels when one row in so many has it.
const FREQUENT: usize = 128;

/// With fewer postings a search does not need them.
const WORTH_GROUPS: usize = 1 << 13;

/// With a larger share of groups to look up, adding up all postings is faster.
const MANY: usize = 16;

/// Groups that are looked up first to know a good score, besides those for the answers.
const FIRST: usize = 256;

/// Groups that are asked for from memory together.
const TOGETHER: usize = 32;

/// The levels of all frequent terms of a segment.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    /// Place of the term, spread, and where its levels begin; ascending. Its marks are as many places on.
    terms: Vec<(usize, u32, usize)>,
    levels: Vec<u8>,
    /// For every term and every 256 rows: postings before these rows.
    marks: Vec<u32>,
    /// Marks of a term.
    stride: usize,
}

/// The levels of a term.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    levels: &'a [u8],
    marks: &'a [u32],
    spread: u32,
}

impl Levels {
    /// Levels of a segment whose codes are there.
    pub fn new(segment: &Segment, threads: usize) -> Self {
        let span = segment.end - segment.first;
        if span < WORTH_LEVELS {
            return Self::default();
        }
        let (spans, stride) = (span.div_ceil(ROWS) as usize, span.div_ceil(ROWS) as usize + 1);
        let mut terms = Vec::new();
        let mut length = 0;
        for (term, ends) in segment.starts.windows(2).enumerate() {
            let postings = ends[1] - ends[0];
            if postings * FREQUENT >= span as usize {
                // About eight groups or more for every posting: most of them have none.
                let spread = (span as usize / postings / 32).min(2) as u32;
                terms.push((term, spread, length));
                length += spans * span_bytes(spread);
            }
        }
        let mut levels = filled(length, 0u8);
        let mut marks = vec![0; terms.len() * stride];
        let mut rest = levels.as_mut_slice();
        let mut jobs = Vec::new();
        for ((term, spread, _), marks) in terms.iter().zip(marks.chunks_mut(stride)) {
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(spans * span_bytes(*spread));
            rest = others;
            jobs.push((*term, *spread, mine, marks));
        }
        each_job(
            threads,
            jobs.into_iter(),
            || (),
            |(), (term, spread, levels, marks)| {
                let range = segment.starts[term]..segment.starts[term + 1];
                for (row, code) in segment.rows[range.clone()].iter().zip(&segment.codes[range]) {
                    let row = row - segment.first;
                    marks[(row / ROWS) as usize + 1] += 1;
                    let (byte, shift) = place(((row / GROUP) >> spread) as usize, spread);
                    let level = code.div_ceil(17); // 255ths to 15ths, rounded up
                    let known = levels[byte] >> shift & 15;
                    levels[byte] += level.saturating_sub(known) << shift;
                }
                let mut sum = 0;
                for mark in marks {
                    sum += *mark;
                    *mark = sum;
                }
            },
        );
        Self { terms, levels, marks, stride }
    }

    pub fn find(&self, term: usize) -> Option<Term<'_>> {
        let at = self.terms.binary_search_by_key(&term, |(term, ..)| *term).ok()?;
        let (_, spread, start) = self.terms[at];
        let end = self.terms.get(at + 1).map_or(self.levels.len(), |(.., end)| *end);
        let marks = &self.marks[at * self.stride..][..self.stride];
        Some(Term { levels: &self.levels[start..end], marks, spread })
    }

    pub fn bytes(&self) -> usize {
        self.levels.capacity() + 4 * self.marks.capacity() + self.terms.capacity() * size_of::<(usize, u32, usize)>()
    }
}

/// What sums are counted in.
struct Units {
    size: f64,
    /// For every list: what a level adds, and what a code adds where it has no levels.
    levels: Vec<[u8; 16]>,
    codes: Vec<[u8; 256]>,
}

impl Units {
    fn new(size: f64, lists: &[List]) -> Self {
        let units = |worth: f64| (worth / size * SLACK).ceil().min(255.0) as u8;
        let levels = |list: &List| std::array::from_fn(|level| units(list.top * level as f64 / 15.0));
        let codes = |list: &List| match list.groups {
            Some(_) => [0; 256],
            None => std::array::from_fn(|code| units(list.top * code as f64 / 255.0)),
        };
        Self { size, levels: lists.iter().map(levels).collect(), codes: lists.iter().map(codes).collect() }
    }

    /// The least sum that may be above the bar.
    fn enough(&self, bar: f64) -> u8 {
        ((bar / self.size / SLACK).floor()).clamp(1.0, 255.0) as u8
    }
}

impl<I: Impacts> Search<'_, I> {
    /// Whether to search by groups.
    pub fn has_groups(&self, lists: &[List], k: usize) -> bool {
        let postings: usize = lists.iter().map(|list| list.end - list.at).sum();
        let few = k < CHUNK as usize / GROUP as usize / MANY;
        self.positive && few && postings >= WORTH_GROUPS && lists.iter().any(|list| list.groups.is_some())
    }

    /// Puts the best rows of the segment into `best`. `aside` does the same for the rows before one, from those on where
    /// the lists are, by another way.
    pub fn by_groups(
        &self,
        lists: &mut [List],
        best: &mut Best,
        work: &mut Work,
        scratch: &mut Scratch,
        mut aside: impl FnMut(&mut [List], u32, &mut Best, &mut Work, &mut Scratch),
    ) {
        let (first, end) = (self.segment.first, self.segment.end);
        let total: f64 = lists.iter().map(|list| list.top).sum();
        let mut rest = vec![0.0; lists.len() + 1];
        let share = 0.6 + 0.4 / lists.len() as f64;
        let units = Units::new(total * share / 254.0, lists);
        let mut live = Vec::new();
        let mut sums = std::mem::take(&mut scratch.groups);
        for base in (first..end).step_by(REGION as usize) {
            let until = base.saturating_add(REGION).min(end);
            let parts: Vec<(usize, usize)> = lists.iter().map(|list| self.postings(list, base, until)).collect();
            sums.clear();
            sums.resize((until - base).div_ceil(ROWS) as usize * SPAN, 0);
            for (part, sums) in (base..until).step_by(CHUNK as usize).zip(sums.chunks_mut((CHUNK / GROUP) as usize)) {
                self.add_up_groups(lists, &units, part..part.saturating_add(CHUNK).min(until), sums, work);
            }
            for (list, (at, stop)) in lists.iter_mut().zip(parts) {
                (list.at, list.stop) = (at, stop);
            }
            // The groups with the largest sums first, until those that are left cannot be above the bar.
            let mut above = 256;
            loop {
                let from = units.enough(best.bar_of_any()).max(self.promising(&sums, above, best.k()));
                live.clear();
                (kernels().reaching)(&sums, from, &mut live);
                if live.len() > sums.len() / MANY {
                    best.leave_out(base..until);
                    aside(lists, until, best, work, scratch);
                    break;
                }
                live.retain(|group| u16::from(sums[*group as usize]) < above);
                live.sort_unstable_by_key(|group| (Reverse(sums[*group as usize]), *group));
                for some in live.chunks(TOGETHER) {
                    let enough = units.enough(best.bar_of_any());
                    let count = some.partition_point(|group| sums[*group as usize] >= enough);
                    self.ask_for(lists, base, &some[..count]);
                    for group in &some[..count] {
                        let row = base + GROUP * group;
                        self.look_at(lists, row, &mut rest, best.bar_of_any(), work, |row, score| {
                            best.push(score, row)
                        });
                    }
                    if count < some.len() {
                        break;
                    }
                }
                above = u16::from(from);
                if from <= units.enough(best.bar_of_any()) {
                    break;
                }
            }
        }
        scratch.groups = sums;
    }

    /// Where the postings of some rows begin and end.
    fn postings(&self, list: &List, base: u32, until: u32) -> (usize, usize) {
        let mark = |row: u32| (row - self.segment.first).div_ceil(ROWS) as usize;
        match list.groups {
            Some(Term { marks, .. }) => {
                (list.start + marks[mark(base)] as usize, list.start + marks[mark(until)] as usize)
            }
            None => {
                let rows = &self.segment.rows[..list.end];
                let at = reach(rows, list.at, base);
                (at, reach(rows, at, until))
            }
        }
    }

    /// Adds up the bounds of the groups of some rows. Lists of other terms are passed.
    fn add_up_groups(
        &self,
        lists: &mut [List],
        units: &Units,
        rows: std::ops::Range<u32>,
        sums: &mut [u8],
        work: &mut Work,
    ) {
        let spans = sums.len() / SPAN;
        let from = ((rows.start - self.segment.first) / ROWS) as usize;
        for (list, (table, codes)) in lists.iter_mut().zip(units.levels.iter().zip(&units.codes)) {
            if let Some(Term { levels, spread, .. }) = list.groups {
                let bytes = span_bytes(spread);
                (kernels().raise)(sums, &levels[from * bytes..(from + spans) * bytes], table, spread);
                work.bytes += spans * bytes;
            } else {
                self.enter(list, rows.start, rows.end);
                let postings = list.at..list.stop;
                for (row, code) in self.segment.rows[postings.clone()].iter().zip(&self.segment.codes[postings]) {
                    let sum = &mut sums[((row - rows.start) / GROUP) as usize];
                    *sum = sum.saturating_add(codes[usize::from(*code)]);
                }
                work.postings += list.stop - list.at;
                list.at = list.stop;
            }
        }
    }

    /// A sum below `above` that some groups reach: about as many as are looked at for a first bar, to judge by a part.
    fn promising(&self, sums: &[u8], above: u16, k: usize) -> u8 {
        let some = &sums[..sums.len().min((CHUNK / GROUP) as usize)];
        let wanted = if above > 255 { ((FIRST + k) * some.len()).div_ceil(sums.len()) } else { usize::MAX };
        let (mut low, mut high) = (1, (above - 1) as u8);
        let mut found = Vec::new();
        while low < high {
            let middle = high - (high - low) / 2;
            found.clear();
            (kernels().reaching)(some, middle, &mut found);
            if found.len() >= wanted {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }

    /// Asks for what looking at groups will read of the frequent terms: first for where it is, then for it.
    fn ask_for(&self, lists: &[List], base: u32, groups: &[u32]) {
        for list in lists {
            let Some(Term { levels, marks, spread }) = list.groups else { continue };
            let from = (base - self.segment.first) / GROUP;
            for group in groups {
                prefetch(levels, place(((from + group) >> spread) as usize, spread).0);
                prefetch(marks, ((from + group) / SPAN as u32) as usize);
            }
        }
        for list in lists {
            let Some(Term { marks, .. }) = list.groups else { continue };
            for group in groups {
                let row = base + GROUP * group;
                let place = row - self.segment.first;
                let mark = (place / ROWS) as usize;
                let (from, to) = (marks[mark], marks[mark + 1]);
                let at = list.start + (from + (to - from) * (place % ROWS) / ROWS) as usize; // or nearly so
                prefetch(&self.segment.rows, at);
                self.impacts.ask_for(at, row);
            }
        }
    }

    /// Scores the rows of a group that may be answers, unless it is seen before that none is above the bar.
    fn look_at(
        &self,
        lists: &mut [List],
        row: u32,
        rest: &mut [f64],
        bar: f64,
        work: &mut Work,
        mut push: impl FnMut(u32, f64),
    ) {
        let place = row - self.segment.first;
        for (i, list) in lists.iter().enumerate().rev() {
            let most =
                list.groups.map_or(1.0, |of| f64::from(level(of.levels, (place / GROUP) as usize, of.spread)) / 15.0);
            rest[i] = rest[i + 1] + most * list.top;
        }
        if rest[0] * SLACK <= bar {
            return;
        }
        let mut scores = [0.0f64; GROUP as usize];
        let mut found = [false; GROUP as usize];
        let mut most = 0.0f64;
        for (list, behind) in lists.iter_mut().zip(&rest[1..]) {
            let (mut at, stop) = match list.groups {
                Some(Term { levels, marks, spread }) => {
                    if level(levels, (place / GROUP) as usize, spread) == 0 {
                        (0, 0)
                    } else {
                        let mark = (place / ROWS) as usize;
                        (list.start + marks[mark] as usize, list.start + marks[mark + 1] as usize)
                    }
                }
                None => (list.at, list.stop),
            };
            at = reach(&self.segment.rows[..stop], at, row);
            while at < stop && self.segment.rows[at] - row < GROUP {
                let lane = (self.segment.rows[at] - row) as usize;
                scores[lane] += list.weight * self.impacts.at(at, self.segment.rows[at]);
                found[lane] = true;
                most = most.max(scores[lane]);
                at += 1;
                work.looked_up += 1;
            }
            if (most + behind) * SLACK <= bar {
                return;
            }
        }
        for lane in 0..GROUP as usize {
            if found[lane] && self.within.holds.is_none_or(|holds| holds(row + lane as u32)) {
                push(row + lane as u32, scores[lane]);
            }
        }
    }
}
