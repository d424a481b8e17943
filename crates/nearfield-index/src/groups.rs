//! Searching by groups of four neighbouring rows: where many rows have the words, most are passed over unread.
//!
//! Block-max pruning (Mallia, Suel and Tonellotto, "Faster Learned Sparse Retrieval with Block-Max Pruning", 2024): a
//! term that many rows have says of every group of rows how much it gives to one of them at the most, in 4 bits. For a
//! query these bounds are added up, 64 groups at a time; the postings of the other terms are added one by one. Only the
//! groups whose sum reaches the k-th best score are looked up. Scores are made as everywhere else: results are the same.

use nearfield_kernels::groups::{SPAN, level, place, span_bytes};
use nearfield_kernels::pages::filled;
use nearfield_kernels::{LINE, kernels, prefetch};

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

/// What is known of the frequent terms of a segment besides their postings.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    /// Ascending by place. The marks of a term are as many places on.
    terms: Vec<Frequent>,
    levels: Vec<u8>,
    /// For every term and every 256 rows: postings before these rows.
    marks: Vec<u32>,
    /// Marks of a term.
    stride: usize,
    /// For every posting the place of its row within 256 rows (high byte) and its code: a group's are in one cache line.
    pairs: Vec<u16>,
}

/// Place of a term, spread, and where its levels and pairs begin.
#[derive(Debug)]
struct Frequent {
    term: usize,
    spread: u32,
    levels: usize,
    pairs: usize,
}

/// The levels of a term.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    levels: &'a [u8],
    marks: &'a [u32],
    pairs: &'a [u16],
    spread: u32,
}

impl Term<'_> {
    /// The level of a group.
    #[inline]
    fn level(&self, group: u32) -> u8 {
        level(self.levels, group as usize, self.spread)
    }

    /// Where the postings of the span of a group begin and end, counted from the first one of the term.
    #[inline]
    fn span(&self, group: u32) -> (usize, usize) {
        let span = group as usize / SPAN;
        (self.marks[span] as usize, self.marks[span + 1] as usize)
    }
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
        let (mut length, mut count) = (0, 0);
        for (term, ends) in segment.starts.windows(2).enumerate() {
            let postings = ends[1] - ends[0];
            if postings * FREQUENT >= span as usize {
                // About eight groups or more for every posting: most of them have none.
                let spread = (span as usize / postings / 32).min(2) as u32;
                terms.push(Frequent { term, spread, levels: length, pairs: count });
                length += spans * span_bytes(spread);
                count += postings;
            }
        }
        let mut levels = filled(length, 0u8);
        let mut pairs = filled(count, 0u16);
        let mut marks = filled(terms.len() * stride, 0u32);
        let (mut rest, mut more) = (levels.as_mut_slice(), pairs.as_mut_slice());
        let mut jobs = Vec::new();
        for (of, marks) in terms.iter().zip(marks.chunks_mut(stride)) {
            let postings = segment.starts[of.term]..segment.starts[of.term + 1];
            let (levels, others) = std::mem::take(&mut rest).split_at_mut(spans * span_bytes(of.spread));
            rest = others;
            let (pairs, others) = std::mem::take(&mut more).split_at_mut(postings.len());
            more = others;
            jobs.push((postings, of.spread, levels, pairs, marks));
        }
        each_job(
            threads,
            jobs.into_iter(),
            || (),
            |(), (postings, spread, levels, pairs, marks)| {
                let codes = &segment.codes[postings.clone()];
                for ((row, code), pair) in segment.rows[postings].iter().zip(codes).zip(pairs) {
                    let row = row - segment.first;
                    *pair = (row % ROWS) as u16 * 256 + u16::from(*code);
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
        Self { terms, levels, marks, stride, pairs }
    }

    pub fn find(&self, term: usize) -> Option<Term<'_>> {
        let at = self.terms.binary_search_by_key(&term, |of| of.term).ok()?;
        let (of, next) = (&self.terms[at], self.terms.get(at + 1));
        Some(Term {
            levels: &self.levels[of.levels..next.map_or(self.levels.len(), |next| next.levels)],
            marks: &self.marks[at * self.stride..][..self.stride],
            pairs: &self.pairs[of.pairs..next.map_or(self.pairs.len(), |next| next.pairs)],
            spread: of.spread,
        })
    }

    pub fn bytes(&self) -> usize {
        self.levels.capacity()
            + 4 * self.marks.capacity()
            + 2 * self.pairs.capacity()
            + self.terms.capacity() * size_of::<Frequent>()
    }
}

/// What sums are counted in.
struct Units {
    size: f64,
    /// For every list: what a level adds, in units and as it is, and what a code adds where it has no levels.
    levels: Vec<[u8; 16]>,
    worth: Vec<[f64; 16]>,
    codes: Vec<[u8; 256]>,
    /// What the lists without levels add at the most, from each on: from the last one on, a zero before it.
    behind: Vec<f64>,
}

impl Units {
    fn new(size: f64, lists: &[List]) -> Self {
        let units = |worth: f64| {
            let units = worth / size * SLACK;
            let whole = units as u8; // 255 where it is more
            whole.saturating_add(u8::from(f64::from(whole) < units))
        };
        let worth = |list: &List| std::array::from_fn(|level| list.top * level as f64 / 15.0);
        let codes = |list: &List| match list.groups {
            Some(_) => [0; 256],
            None => std::array::from_fn(|code| units(list.top * code as f64 / 255.0)),
        };
        let worth: Vec<[f64; 16]> = lists.iter().map(worth).collect();
        let levels = worth.iter().map(|worth| worth.map(units)).collect();
        let mut behind = vec![0.0];
        for list in lists.iter().rev() {
            behind.push(behind[behind.len() - 1] + if list.groups.is_none() { list.top } else { 0.0 });
        }
        Self { size, levels, worth, codes: lists.iter().map(codes).collect(), behind }
    }

    /// The least sum that may be above the bar.
    fn enough(&self, bar: f64) -> u8 {
        (bar / self.size / SLACK).clamp(1.0, 255.0) as u8
    }
}

/// The key by which the groups of a region are sorted: the largest sums first.
fn key(group: u32, sums: &[u8]) -> u32 {
    u32::from(u8::MAX - sums[group as usize]) << 24 | group
}

/// Group and sum of a key.
fn of_key(key: u32) -> (u32, u8) {
    (key & ((1 << 24) - 1), u8::MAX - (key >> 24) as u8)
}

/// Room for looking at groups.
#[derive(Default)]
struct Looks {
    /// For every chunk of the region and every list where its postings begin; and where the last ones end.
    steps: Vec<usize>,
    /// Groups, whether a list without levels has one of their rows, and what the lists from each on add at the most: from
    /// the last one on, a zero before it.
    groups: Vec<(u32, bool)>,
    rest: Vec<f64>,
    /// Rows that may be answers, what they have at the most, and for every list the place of the posting or NONE.
    rows: Vec<(u32, f64)>,
    postings: Vec<usize>,
}

/// Stands for no posting.
const NONE: usize = usize::MAX;

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
        let share = 0.6 + 0.4 / lists.len() as f64;
        let units = Units::new(total * share / 254.0, lists);
        let (mut live, mut looks) = (Vec::new(), Looks::default());
        let mut sums = std::mem::take(&mut scratch.groups);
        for base in (first..end).step_by(REGION as usize) {
            let until = base.saturating_add(REGION).min(end);
            let parts: Vec<(usize, usize)> = lists.iter().map(|list| self.postings(list, base, until)).collect();
            lists.iter_mut().zip(&parts).for_each(|(list, part)| (list.at, list.stop) = *part);
            looks.steps.clear();
            sums.clear();
            sums.resize((until - base).div_ceil(ROWS) as usize * SPAN, 0);
            for (part, sums) in (base..until).step_by(CHUNK as usize).zip(sums.chunks_mut((CHUNK / GROUP) as usize)) {
                looks.steps.extend(lists.iter().map(|list| list.at));
                self.add_up_groups(lists, &units, part..part.saturating_add(CHUNK).min(until), sums, work);
            }
            looks.steps.extend(lists.iter().map(|list| list.at));
            // The groups with the largest sums first, until those that are left cannot be above the bar.
            let mut from = units.enough(best.bar_of_any()).max(self.promising(&sums, best.k()));
            let mut above = None;
            loop {
                live.clear();
                (kernels().reaching)(&sums, from, &mut live);
                if live.len() > sums.len() / MANY {
                    lists.iter_mut().zip(parts).for_each(|(list, (at, _))| list.at = at);
                    best.leave_out(base..until);
                    aside(lists, until, best, work, scratch);
                    break;
                }
                live.retain(|group| above.is_none_or(|above| sums[*group as usize] < above));
                live.iter_mut().for_each(|group| *group = key(*group, &sums));
                live.sort_unstable();
                for some in live.chunks(TOGETHER) {
                    let enough = units.enough(best.bar_of_any());
                    let count = some.partition_point(|key| of_key(*key).1 >= enough);
                    self.look_at(lists, &units, base, &some[..count], best, work, &mut looks);
                    if count < some.len() {
                        break;
                    }
                }
                let enough = units.enough(best.bar_of_any());
                if from <= enough {
                    break;
                }
                (above, from) = (Some(from), enough);
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
                // What comes next, since the processor does not look so far ahead by itself.
                let next = (from + spans) * bytes;
                (next..next + spans * bytes).step_by(LINE).for_each(|at| prefetch(levels, at));
                (kernels().raise)(sums, &levels[from * bytes..(from + spans) * bytes], table, spread);
                work.bytes += spans * bytes;
            } else {
                let postings =
                    self.segment.rows[list.at..list.stop].iter().zip(&self.segment.codes[list.at..list.stop]);
                let before = list.at;
                for (row, code) in postings.take_while(|(row, _)| **row < rows.end) {
                    let sum = &mut sums[((row - rows.start) / GROUP) as usize];
                    *sum = sum.saturating_add(codes[usize::from(*code)]);
                    list.at += 1;
                }
                work.postings += list.at - before;
            }
        }
    }

    /// A sum that some groups reach: about as many as are looked at for a first bar, to judge by a part.
    fn promising(&self, sums: &[u8], k: usize) -> u8 {
        let some = &sums[..sums.len().min((CHUNK / GROUP) as usize)];
        let wanted = ((FIRST + k) * some.len()).div_ceil(sums.len());
        let (mut low, mut high) = (1, 255);
        while low < high {
            let middle = high - (high - low) / 2;
            if (kernels().counting)(some, middle) >= wanted {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }

    /// Scores the rows of some groups that may be answers. What is read is asked for from memory before, for all of
    /// them: the levels, then the pairs of the groups that they let pass, then the postings of the rows that these do.
    #[allow(clippy::too_many_arguments)] // all of it is the state of one search
    fn look_at(
        &self,
        lists: &[List],
        units: &Units,
        base: u32,
        keys: &[u32],
        best: &mut Best,
        work: &mut Work,
        looks: &mut Looks,
    ) {
        let first = (base - self.segment.first) / GROUP;
        for Term { levels, marks, spread, .. } in lists.iter().filter_map(|list| list.groups) {
            for key in keys {
                let group = first + of_key(*key).0;
                prefetch(levels, place((group >> spread) as usize, spread).0);
                prefetch(marks, (group / SPAN as u32) as usize);
            }
        }
        let bar = best.bar_of_any();
        looks.groups.clear();
        looks.rest.clear();
        for key in keys {
            let (group, sum) = of_key(*key);
            let group = first + group;
            let start = looks.rest.len();
            looks.rest.push(0.0);
            let (mut known, mut most) = (0u32, 0.0);
            for i in (0..lists.len()).rev() {
                if let Some(of) = lists[i].groups {
                    let level = usize::from(of.level(group));
                    known += u32::from(units.levels[i][level]);
                    most += units.worth[i][level];
                }
                looks.rest.push(most);
            }
            // What a sum has besides is of the lists without levels.
            let others = if sum == u8::MAX { f64::INFINITY } else { f64::from(u32::from(sum) - known) * units.size };
            if others > 0.0 {
                for (rest, behind) in looks.rest[start..].iter_mut().zip(&units.behind) {
                    *rest += behind.min(others);
                }
            }
            if looks.rest[start + lists.len()] * SLACK <= bar {
                looks.rest.truncate(start);
                continue;
            }
            looks.groups.push((group, others > 0.0));
            for term in lists.iter().filter_map(|list| list.groups).filter(|term| term.level(group) > 0) {
                let (from, to) = term.span(group);
                (from..to).step_by(LINE / 2).chain([to]).for_each(|at| prefetch(term.pairs, at));
            }
        }
        looks.rows.clear();
        looks.postings.clear();
        let Looks { groups, rest, rows, postings, steps } = looks;
        for ((group, others), rest) in groups.iter().zip(rest.chunks_exact(lists.len() + 1)) {
            let step = ((group - first) / (CHUNK / GROUP)) as usize * lists.len();
            let steps = if *others { Some(&steps[step..step + 2 * lists.len()]) } else { None };
            self.look_closer(lists, *group, steps, rest, bar, rows, postings);
        }
        for ((row, most), postings) in rows.iter().zip(postings.chunks_exact(lists.len())) {
            if most * SLACK > best.bar_of_any() {
                let mut score = 0.0;
                for (list, at) in lists.iter().zip(postings).filter(|(_, at)| **at != NONE) {
                    score += list.weight * self.impacts.at(*at, *row);
                    work.looked_up += 1;
                }
                best.push(score, *row);
            }
        }
    }

    /// Finds the rows of a group that may be above the bar, and their postings. `steps` is where the postings of lists
    /// without levels begin and end around it, if it has any.
    #[allow(clippy::too_many_arguments)] // all of it is the state of one search
    fn look_closer(
        &self,
        lists: &[List],
        group: u32,
        steps: Option<&[usize]>,
        rest: &[f64],
        bar: f64,
        rows: &mut Vec<(u32, f64)>,
        postings: &mut Vec<usize>,
    ) {
        let row = self.segment.first + GROUP * group;
        let mut bounds = [0.0f64; GROUP as usize];
        let mut most = 0.0f64;
        let start = postings.len();
        postings.resize(start + lists.len() * GROUP as usize, NONE);
        for (i, (list, behind)) in lists.iter().zip(rest.iter().rev()).enumerate() {
            if (most + behind) * SLACK <= bar {
                break;
            }
            let mut found = |lane: usize, at: usize, code: u8| {
                bounds[lane] += list.top / 255.0 * f64::from(code);
                most = most.max(bounds[lane]);
                postings[start + lane * lists.len() + i] = at;
            };
            match list.groups {
                Some(term) if term.level(group) == 0 => {}
                Some(term) => {
                    let (from, to) = term.span(group);
                    let within = &term.pairs[from..to];
                    let wanted = (group as usize % SPAN * GROUP as usize * 256) as u16;
                    // Without a branch for each, the compiler counts many at a time.
                    let before = within.iter().fold(0u16, |count, pair| count + u16::from(*pair < wanted));
                    for (pair, at) in within[usize::from(before)..].iter().zip(from + usize::from(before)..) {
                        let lane = usize::from((pair - wanted) >> 8);
                        if lane >= GROUP as usize {
                            break;
                        }
                        found(lane, list.start + at, *pair as u8);
                    }
                }
                None => {
                    let Some(steps) = steps else { continue };
                    let rows = &self.segment.rows[..steps[lists.len() + i]];
                    let at = reach(rows, steps[i], row);
                    for (other, at) in rows[at..].iter().zip(at..).take_while(|(other, _)| **other - row < GROUP) {
                        found((other - row) as usize, at, self.segment.codes[at]);
                    }
                }
            }
        }
        let mut kept = start;
        for (lane, bound) in (0..GROUP).zip(bounds) {
            if bound * SLACK > bar && self.within.holds.is_none_or(|holds| holds(row + lane)) {
                let from = start + lane as usize * lists.len();
                postings.copy_within(from..from + lists.len(), kept);
                for at in postings[kept..kept + lists.len()].iter().filter(|at| **at != NONE) {
                    self.impacts.ask_for(*at, row + lane);
                }
                kept += lists.len();
                rows.push((row + lane, bound));
            }
        }
        postings.truncate(kept);
    }
}
