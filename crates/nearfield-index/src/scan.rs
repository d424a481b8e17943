//! First pass of an exact search: every row's interval from its 8-bit code, on all threads.
//!
//! A row stays a candidate while the upper end of its interval reaches the *bar*: the k-th largest lower end that any
//! thread has seen for that query. k rows score at least the bar, so a row below it cannot be among the best k.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use nearfield_kernels::quantize::QueryCode;
use nearfield_kernels::topk::KthLargest;
use nearfield_kernels::{BLOCK, Dots, Factors, GROUP, Kernels, LINE, Line, Weights, prefetch};

use crate::allow::Allowed;
use crate::pool;

/// From this many queries on, rows are laid out for the tile kernel; below, the scan kernel reads them as they are.
const PACK_FROM: usize = 5;

/// Bytes of codes in a tile that many queries pass over: it stays in the L2 cache meanwhile.
const TILE_BYTES: usize = 128 << 10;

/// Bytes of codes in a tile that is read once: long stretches, or the CPU's prefetcher starts anew too often.
const STRETCH_BYTES: usize = 1 << 20;

/// Rows that are looked at first: before queries have a bar, every row is a candidate.
const FEW: usize = 4 * BLOCK;

/// Listed rows asked for ahead of the one that is copied.
const AHEAD: usize = 8;

/// A row that may be among the best, and its dot product with the query's coarse code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub row: u32,
    pub dot: i32,
    pub upper: f32,
}

/// What is scanned.
pub(crate) struct Rows<'a> {
    pub codes: &'a [Line],
    pub factors: &'a [Factors],
    pub lines: usize,
    pub count: usize,
    pub within: Within<'a>,
}

/// Which of the rows.
#[derive(Clone, Copy)]
pub(crate) enum Within<'a> {
    All,
    /// These, ascending: their codes are gathered.
    Listed(&'a [u32]),
    /// These: all codes are read as they lie, which is faster where few are left out.
    Allowed(&'a Allowed),
}

impl Rows<'_> {
    /// Asks for the row's code and factors, which are read soon.
    pub fn fetch(&self, row: u32) {
        (0..self.lines).for_each(|line| prefetch(self.codes, row as usize * self.lines + line));
        if let Some(Factors { scale, residual, norm, bias }) = self.factors.get(row as usize / BLOCK) {
            [scale, residual, norm, bias].into_iter().for_each(|line| prefetch(line, row as usize % BLOCK));
        }
    }

    /// Rows that are read.
    pub fn read(&self) -> usize {
        match self.within {
            Within::Listed(list) => list.len(),
            _ => self.count,
        }
    }
}

/// The bar of one query, shared by all threads. Floats are kept as integers of the same order.
pub(crate) struct Bar(AtomicI32);

impl Bar {
    pub fn new() -> Self {
        Self(AtomicI32::new(ordered(KthLargest::LOWEST)))
    }

    pub fn get(&self) -> f32 {
        let bits = self.0.load(Ordering::Relaxed);
        f32::from_bits((bits ^ (((bits >> 31) as u32) >> 1) as i32) as u32)
    }

    fn raise(&self, value: f32) {
        self.0.fetch_max(ordered(value), Ordering::Relaxed);
    }
}

fn ordered(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// What one thread has found for one query.
pub(crate) struct Found {
    kth: KthLargest,
    pub candidates: Vec<Candidate>,
    room: usize,
}

impl Found {
    pub fn new(k: usize) -> Self {
        Self { kth: KthLargest::new(k), candidates: Vec::new(), room: 4 * k + 1024 }
    }

    /// Takes in the selected rows of a tile; `row_of` tells a position's row.
    pub fn take(
        &mut self,
        selected: &[u32],
        dots: &[i32],
        factors: &[Factors],
        query: &QueryCode,
        bar: &Bar,
        row_of: impl Fn(u32) -> u32,
    ) {
        let mut best = bar.get();
        for &position in selected {
            let (at, dot) = (position as usize, dots[position as usize]);
            let (lower, upper) = query.interval(dot, &factors[at / BLOCK], at % BLOCK);
            if upper >= best {
                self.candidates.push(Candidate { row: row_of(position), dot, upper });
                best = best.max(self.kth.push(lower));
            }
        }
        bar.raise(best);
        if self.candidates.len() > self.room {
            let bar = bar.get();
            self.candidates.retain(|candidate| candidate.upper >= bar);
            self.room = (2 * self.candidates.len()).max(self.room);
        }
    }
}

impl Found {
    /// Takes in one row, by its dot product with the query's coarse code.
    pub fn judge(&mut self, row: u32, dot: i32, (factors, lane): (&Factors, usize), query: &QueryCode, bar: &Bar) {
        let (lower, upper) = query.interval(dot, factors, lane);
        if upper >= bar.get() {
            self.candidates.push(Candidate { row, dot, upper });
            bar.raise(self.kth.push(lower));
        }
    }
}

/// Candidates of every query, or None where the search is to stop: `is_over` is asked by every thread now and then.
pub(crate) fn candidates(
    kernels: &Kernels,
    rows: &Rows,
    queries: &[QueryCode],
    k: usize,
    threads: usize,
    is_over: impl Fn() -> bool + Sync,
) -> Option<Vec<Vec<Candidate>>> {
    let pass = Pass::new(kernels, rows, queries);
    let total = rows.read();
    let next = AtomicUsize::new(0);
    let all_found: Mutex<Vec<Vec<Found>>> = Mutex::new(Vec::new());
    pool::run(threads, |_| {
        let mut found: Vec<Found> = queries.iter().map(|_| Found::new(k)).collect();
        let mut scratch = pass.scratch();
        loop {
            let start = next.fetch_add(1, Ordering::Relaxed) * pass.per_tile;
            if start >= total || is_over() {
                break;
            }
            pass.tile(start, pass.per_tile.min(total - start), &mut scratch, &mut found);
        }
        all_found.lock().expect("no thread panics with it").push(found);
    });
    if is_over() {
        return None;
    }
    let mut merged = vec![Vec::new(); queries.len()];
    for found in all_found.into_inner().expect("no thread panics with it") {
        for ((into, found), bar) in merged.iter_mut().zip(found).zip(&pass.bars) {
            let bar = bar.get();
            into.extend(found.candidates.into_iter().filter(|candidate| candidate.upper >= bar));
        }
    }
    Some(merged)
}

/// What all threads share while the queries pass over the rows.
struct Pass<'a> {
    kernels: &'a Kernels,
    rows: &'a Rows<'a>,
    queries: &'a [QueryCode],
    weights: Vec<Weights>,
    /// Queries laid out for the tile kernel, twelve at a time; empty where there are too few for it to pay.
    groups: Vec<Vec<Line>>,
    bars: Vec<Bar>,
    per_tile: usize,
}

/// What a thread writes to while it works on a tile.
struct Scratch {
    gathered: Gathered,
    packed: Vec<Line>,
    dots: Vec<i32>,
    bars: [f32; GROUP],
    selected: Vec<Vec<u32>>,
}

impl<'a> Pass<'a> {
    fn new(kernels: &'a Kernels, rows: &'a Rows<'a>, queries: &'a [QueryCode]) -> Self {
        let packed = |group: &[QueryCode]| {
            let codes: Vec<&[Line]> = group.iter().map(|query| query.high.as_slice()).collect();
            let mut packed = Vec::new();
            (kernels.pack_queries)(&codes, &mut packed);
            packed
        };
        let grouped = if queries.len() >= PACK_FROM { queries } else { &[] };
        let double = 2 * BLOCK;
        let copied = matches!(rows.within, Within::Listed(_));
        let tile_bytes = if grouped.is_empty() && !copied { STRETCH_BYTES } else { TILE_BYTES };
        let most = rows.read().next_multiple_of(double).clamp(double, 4096);
        Self {
            kernels,
            rows,
            queries,
            weights: queries.iter().map(|query| query.coarse).collect(),
            groups: grouped.chunks(GROUP).map(packed).collect(),
            bars: queries.iter().map(|_| Bar::new()).collect(),
            per_tile: (tile_bytes / (rows.lines * LINE) / double * double).clamp(double, most),
        }
    }

    fn scratch(&self) -> Scratch {
        let packed = if self.groups.is_empty() { 0 } else { self.per_tile * self.rows.lines * self.kernels.code_bytes };
        Scratch {
            gathered: Gathered::new(self.rows, self.per_tile),
            packed: vec![Line::ZERO; packed],
            dots: vec![0; if self.groups.is_empty() { 1 } else { GROUP } * self.per_tile],
            bars: [KthLargest::LOWEST; GROUP],
            selected: vec![Vec::new(); GROUP],
        }
    }

    /// Scores `count` rows of the scan from number `start` on, for every query.
    fn tile(&self, start: usize, count: usize, scratch: &mut Scratch, found: &mut [Found]) {
        let Scratch { gathered, packed, dots, bars, selected } = scratch;
        let (codes, factors) = gathered.load(self.rows, start, count);
        let row_of = |position: u32| match self.rows.within {
            Within::Listed(list) => list[start + position as usize],
            _ => start as u32 + position,
        };
        let mut judge = |first: usize, inside: usize, values: &[i32]| {
            let group = first..first + inside;
            let mut from = 0;
            while from < count {
                for (bar, shared) in bars.iter_mut().zip(&self.bars[group.clone()]) {
                    *bar = shared.get();
                }
                // A few at first, which tell the others what they have to reach.
                let to = if bars[0] > KthLargest::LOWEST { count } else { count.min(FEW.max(4 * from)) };
                let (values, factors) = (&values[from..], &factors[from / BLOCK..]);
                let dots = Dots { values, stride: self.per_tile, rows: to - from };
                let lists = &mut selected[..inside];
                (self.kernels.select)(&dots, factors, &self.weights[group.clone()], &bars[..inside], lists);
                for (q, list) in group.clone().zip(lists) {
                    if !list.is_empty() {
                        let values = &values[(q - first) * self.per_tile..];
                        let row_of = |position: u32| row_of(from as u32 + position);
                        found[q].take(list, values, factors, &self.queries[q], &self.bars[q], row_of);
                        list.clear();
                    }
                }
                from = to;
            }
        };
        if self.groups.is_empty() {
            for (q, query) in self.queries.iter().enumerate() {
                (self.kernels.scan)(codes, &query.high, &mut dots[..count]);
                judge(q, 1, dots);
            }
            return;
        }
        (self.kernels.pack_rows)(codes, self.rows.lines, packed);
        for (group, query_codes) in self.groups.iter().enumerate() {
            let first = group * GROUP;
            let inside = GROUP.min(self.queries.len() - first);
            (self.kernels.tile)(packed, query_codes, self.rows.lines, inside, dots, self.per_tile);
            judge(first, inside, dots);
        }
    }
}

/// Room for what a tile needs a copy of.
struct Gathered {
    codes: Vec<Line>,
    factors: Vec<Factors>,
}

impl Gathered {
    fn new(rows: &Rows, per_tile: usize) -> Self {
        let codes = if matches!(rows.within, Within::Listed(_)) { per_tile * rows.lines } else { 0 };
        let factors = if matches!(rows.within, Within::All) { 0 } else { per_tile / BLOCK };
        Self { codes: vec![Line::ZERO; codes], factors: vec![Factors::ABSENT; factors] }
    }

    /// Codes and factors of `count` rows of the scan from number `start` on: a view, or a copy.
    fn load<'a>(&'a mut self, rows: &Rows<'a>, start: usize, count: usize) -> (&'a [Line], &'a [Factors]) {
        match rows.within {
            Within::All => {
                (&rows.codes[start * rows.lines..(start + count) * rows.lines], &rows.factors[start / BLOCK..])
            }
            Within::Allowed(allowed) => {
                let first = start / BLOCK; // a tile begins with a block
                for (i, into) in self.factors.iter_mut().take(count.div_ceil(BLOCK)).enumerate() {
                    *into = rows.factors[first + i];
                    let bits = allowed.block(first + i);
                    for (lane, bias) in into.bias.iter_mut().enumerate() {
                        *bias = if bits >> lane & 1 == 1 { *bias } else { f32::NEG_INFINITY };
                    }
                }
                (&rows.codes[start * rows.lines..(start + count) * rows.lines], &self.factors)
            }
            Within::Listed(list) => {
                self.gather(rows, &list[start..start + count]);
                (&self.codes[..count * rows.lines], &self.factors)
            }
        }
    }

    fn gather(&mut self, rows: &Rows, list: &[u32]) {
        self.factors[..list.len().div_ceil(BLOCK)].fill(Factors::ABSENT);
        for (i, &row) in list.iter().enumerate() {
            if let Some(&later) = list.get(i + AHEAD) {
                rows.fetch(later);
            }
            let from = row as usize * rows.lines;
            self.codes[i * rows.lines..(i + 1) * rows.lines].copy_from_slice(&rows.codes[from..from + rows.lines]);
            self.factors[i / BLOCK].copy_lane(i % BLOCK, &rows.factors[row as usize / BLOCK], row as usize % BLOCK);
        }
    }
}
