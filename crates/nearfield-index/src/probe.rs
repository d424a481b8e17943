//! What the kinds that look into parts of an index have in common: `ivf`, `ivf_pq` and `lsh`.
//!
//! Such a kind keeps a [`Structure`] beside the exact index. It names rows, more of them with more *effort*; these are
//! judged by their 8-bit codes and the best read in full, as in the exact index, so scores are the exact ones and only
//! rows can be missing. How much effort a recall takes is measured when the structure is built, on rows it was not
//! trained on, against exact answers. Rows added later are scanned exactly beside it until they are many; then it is
//! built again.

use std::fmt::Debug;
use std::ops::AddAssign;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use nearfield_kernels::kmeans::CentreQuery;
use nearfield_kernels::pq::Table;
use nearfield_kernels::quantize::{self, QueryCode};
use nearfield_kernels::{BLOCK, Dots, Factors, Kernels, Line, Metric, kernels};

use crate::allow::Allowed;
use crate::batch::{Benches, each_query};
use crate::codec::{Reader, Writer};
use crate::flat::{Answers, Batch, Flat, Request};
use crate::partition::Near;
use crate::pool::each_job;
use crate::refine::{self, Full, Ranked};
use crate::scan::{Bar, Candidate, Found};
use crate::walk::NONE;
use crate::{Result, plan};

/// Fewer rows than this are answered exactly: nothing would be faster.
const FEWEST: usize = 1024;

/// Rows that no structure is trained on, and which serve as queries when effort is measured.
const HELD_OUT: usize = 1024;

/// The recall where the caller does not say.
pub const DEFAULT_RECALL: f64 = 0.95;

/// Beyond this recall, effort is not measured: the sample is too small to tell.
const HIGHEST: f64 = 0.998;

/// Numbers of answers for which effort is measured.
const DEPTHS: [usize; 2] = [10, 100];

/// More answers than these a query tell as much with a quarter of the queries.
const MANY: usize = 10;

/// Standard errors by which the recall of the held-out rows must exceed a target: they are a sample.
const CAUTION: f64 = 0.5;

/// How many times as many rows are to be seen where few of those allowed are near the query.
const AWAY: usize = 4;

/// Rows asked for ahead of the one that is judged.
const AHEAD: usize = 8;

/// A way of naming rows that may be near a query.
pub(crate) trait Structure: Debug + Send + Sync + Sized {
    /// Its code in files, and its name.
    const KIND: u32;
    const NAME: &'static str;
    /// Whether the rows it names lie anywhere, or side by side.
    const SCATTERED: bool = false;
    /// Made for these rows (in a random order), of which only the first `trained` are learnt from.
    fn build(flat: &Flat, rows: &[u32], trained: usize, threads: usize) -> Self;
    /// The effort that names every row.
    fn most(&self) -> usize;
    /// Judges the rows that this effort names.
    fn look(&self, probe: &Probe, bench: &mut Bench, sight: &mut Sight);
    /// Takes in that the 8-bit codes of the index were made anew.
    fn refresh(&mut self, _flat: &Flat) {}
    /// Bytes held beside the exact index.
    fn bytes(&self) -> usize;
    /// Writes it; `rows` are those that are there, of those it was built for.
    fn write(&self, file: &mut Writer, rows: &[u32]) -> Result<()>;
    /// Reads what `write` wrote, for the first `covered` rows of an index.
    fn read(file: &mut Reader, flat: &Flat, covered: usize) -> Result<Self>;
}

/// One query on its way.
pub(crate) struct Probe<'a> {
    pub kernels: &'static Kernels,
    pub flat: &'a Flat,
    pub query: &'a [f32],
    pub norm: f64,
    pub code: &'a QueryCode,
    pub k: usize,
    pub effort: usize,
    pub allowed: Option<&'a Allowed>,
    /// Rows that may be answered which are to be seen, whatever the effort; only with `allowed`.
    pub least: usize,
    /// Rows after which to give up; only with `allowed`.
    pub most: usize,
}

/// What was seen so far.
pub(crate) struct Sight {
    pub found: Found,
    pub bar: Bar,
    /// Rows scored, and rows that may be answered among them.
    pub scored: usize,
    pub seen: usize,
    /// Rows looked at, scored or not.
    pub visited: usize,
}

/// Room for searches, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    pub place: Vec<f32>,
    pub lists: CentreQuery,
    pub keys: Vec<f32>,
    pub near: Vec<Near>,
    pub listed: Vec<u32>,
    pub table: Table,
    pub approximate: Vec<Near>,
    pub marks: Vec<u64>,
    dots: Vec<i32>,
    selected: Vec<Vec<u32>>,
}

impl Probe<'_> {
    /// Whether a row may be answered.
    pub fn answerable(&self, row: u32) -> bool {
        match self.allowed {
            Some(allowed) => allowed.holds(row),
            None => self.flat.ids.is_live(row as usize),
        }
    }

    /// Whether to go on after this effort.
    pub fn goes_on(&self, effort: usize, sight: &Sight) -> bool {
        let Some(allowed) = self.allowed.filter(|_| effort >= self.effort && self.least > 0) else {
            return effort < self.effort;
        };
        // Where fewer are allowed near the query than elsewhere, its answers are farther off than usual.
        let (share, here) = (allowed.count() * sight.visited, sight.seen * self.flat.ids.rows());
        let least = if here < share / 4 * 3 { AWAY * self.least } else { self.least };
        sight.seen < least && sight.visited < self.most
    }

    /// Judges rows whose codes lie together; `row_of` tells the row at each place, or NONE.
    pub fn run(
        &self,
        (codes, factors): (&[Line], &[Factors]),
        row_of: impl Fn(u32) -> u32,
        bench: &mut Bench,
        sight: &mut Sight,
    ) {
        let count = codes.len() / self.code.high.len();
        bench.dots.resize(count, 0);
        bench.selected.resize(1, Vec::new());
        bench.selected[0].clear();
        (self.kernels.scan)(codes, &self.code.high, &mut bench.dots);
        let dots = Dots { values: &bench.dots, stride: count, rows: count };
        (self.kernels.select)(&dots, factors, &[self.code.coarse], &[sight.bar.get()], &mut bench.selected);
        bench.selected[0].retain(|place| Some(row_of(*place)).is_some_and(|row| row != NONE && self.answerable(row)));
        sight.found.take(&bench.selected[0], &bench.dots, factors, self.code, &sight.bar, row_of);
        sight.scored += count;
    }

    /// Judges these rows.
    pub fn judge(&self, rows: &[u32], sight: &mut Sight) {
        let (flat, lines) = (self.flat, self.code.high.len());
        let all = flat.rows(None);
        rows.iter().take(AHEAD).for_each(|row| all.fetch(*row));
        for (i, &row) in rows.iter().enumerate() {
            if let Some(later) = rows.get(i + AHEAD) {
                all.fetch(*later);
            }
            let at = row as usize;
            let dot = (self.kernels.dot_codes)(&flat.codes[at * lines..(at + 1) * lines], &self.code.high);
            sight.found.judge(row, dot, (&flat.factors[at / BLOCK], at % BLOCK), self.code, &sight.bar);
        }
        sight.scored += rows.len();
    }
}

/// Recall and cost of one effort, as measured.
#[derive(Clone, Copy, Debug)]
struct Point {
    effort: usize,
    /// Mean share of the true answers that were found, and the same less what the sample may have flattered it by.
    recall: f64,
    safe: f64,
    /// Rows scored by a query.
    scored: f64,
}

/// A structure and what belongs to it.
#[derive(Debug)]
struct Made<S> {
    structure: S,
    /// For each depth, ascending.
    curves: [Vec<Point>; DEPTHS.len()],
    /// Rows there were; later ones are not in it.
    covered: usize,
    /// Rows among them that are not in it: too large to be coded.
    outside: Vec<u32>,
    /// Rows in it.
    inside: usize,
}

/// The exact index with a structure beside it.
#[derive(Debug)]
pub struct Probed<S> {
    flat: Flat,
    made: Option<Made<S>>,
    benches: Benches<Bench>,
}

/// Counts of the work for some queries.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    scored: usize,
    looked: usize,
    read: usize,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.scored += other.scored;
        self.looked += other.looked;
        self.read += other.read;
    }
}

#[allow(private_bounds)]
impl<S: Structure> Probed<S> {
    /// An empty index.
    pub fn new(dimension: usize, metric: Metric) -> Result<Self> {
        Ok(Self::of(Flat::new(dimension, metric)?))
    }

    fn of(flat: Flat) -> Self {
        Self { flat, made: None, benches: Benches::default() }
    }

    /// The vectors, and exact answers from them.
    pub fn exact(&self) -> &Flat {
        &self.flat
    }

    /// Bytes held beside the exact index.
    pub fn bytes(&self) -> usize {
        self.made.as_ref().map_or(0, |made| made.structure.bytes())
    }

    /// As [`Flat::keep_next_id`].
    pub fn keep_next_id(&mut self, next: i64) {
        self.flat.keep_next_id(next);
    }

    /// As [`Flat::keep_in`].
    pub fn keep_in(&mut self, folder: &Path) {
        self.flat.keep_in(folder);
    }

    /// As [`Flat::stage`].
    pub fn stage(&mut self, batch: Batch) {
        self.flat.stage(batch);
    }

    /// Adds vectors, as [`Flat::add`]. They are scanned beside the structure until there are many, then it is built again.
    pub fn add(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        let framed = self.flat.framed;
        let added = self.flat.add(vectors, ids, threads)?;
        if self.fold(threads) && self.flat.framed != framed {
            let made = self.made.as_mut().expect("it was kept");
            made.structure.refresh(&self.flat);
        }
        Ok(added)
    }

    /// Removes vectors by id, as [`Flat::remove`].
    pub fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize> {
        let before = self.flat.ids.rows();
        let count = self.flat.remove(ids, threads)?;
        if self.flat.ids.rows() != before {
            self.made = None; // rows were numbered anew
        }
        self.fold(threads);
        Ok(count)
    }

    /// Gives back the room of removed rows, and builds the structure again if rows have come or gone since.
    pub fn compact(&mut self, threads: usize) {
        let rows = self.flat.ids.rows();
        if self.made.as_ref().is_some_and(|made| made.covered < rows || self.flat.len() < rows) {
            self.made = None;
        }
        self.flat.compact(threads);
        self.fold(threads);
    }

    /// Builds the structure where there is none yet or too much has changed since; says whether an old one was kept.
    fn fold(&mut self, threads: usize) -> bool {
        let rows = self.flat.ids.rows();
        let stale = match &self.made {
            None => self.flat.len() >= FEWEST,
            Some(made) => rows - made.covered > FEWEST + made.inside / 8,
        };
        if stale {
            self.made = self.build(threads);
        }
        self.made.is_some() && !stale
    }

    fn build(&self, threads: usize) -> Option<Made<S>> {
        let flat = &self.flat;
        let coded = |row: &u32| flat.factors[*row as usize / BLOCK].residual[*row as usize % BLOCK].is_finite();
        let live = (0..flat.ids.rows() as u32).filter(|row| flat.ids.is_live(*row as usize));
        let (mut rows, outside): (Vec<u32>, Vec<u32>) = live.partition(coded);
        if rows.len() < FEWEST {
            return None;
        }
        crate::hnsw::shuffle(&mut rows);
        let trained = rows.len() - HELD_OUT.min(rows.len() / 8);
        let structure = S::build(flat, &rows, trained, threads);
        let mut made =
            Made { structure, curves: Default::default(), covered: flat.ids.rows(), outside, inside: rows.len() };
        made.curves = self.measured(&made, &rows[trained..], threads);
        Some(made)
    }

    /// Measures what effort gives which recall: these rows are the queries, and no answers.
    fn measured(&self, made: &Made<S>, held_out: &[u32], threads: usize) -> [Vec<Point>; DEPTHS.len()] {
        let flat = &self.flat;
        let row = |row: &u32| flat.vectors.row(*row as usize);
        let queries: Vec<f32> = held_out.iter().flat_map(row).copied().collect();
        let allowed = Allowed::but(&flat.ids, held_out);
        DEPTHS.map(|k| {
            let telling = held_out.len().div_ceil(if k > MANY { 4 } else { 1 });
            let queries = &queries[..telling * flat.dimension];
            let request = Request { threads, ..Request::new(queries, k) };
            let truth = flat.search_allowed(Some(&allowed), &request).expect("nothing interrupts it");
            let (mut curve, mut effort) = (Vec::<Point>::new(), 1);
            loop {
                let (found, squares) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let scored = AtomicUsize::new(0);
                let jobs = queries.chunks(flat.dimension).zip(truth.ids.chunks(k)).zip(truth.scores.chunks(k));
                each_job(threads, jobs, Bench::default, |bench, ((query, ids), scores)| {
                    let worst = scores.iter().copied().fold(f32::INFINITY, f32::min);
                    let (best, work, _) = self.one(made, query, (k, effort), Some((&allowed, 0, 0)), bench);
                    // A row that ties with the last true answer is as good as that one.
                    let right = best.iter().filter(|ranked| {
                        flat.metric.score(ranked.rank) >= worst || ids.contains(&flat.ids.of(ranked.row))
                    });
                    let right = right.count();
                    found.fetch_add(right, Ordering::Relaxed);
                    squares.fetch_add(right * right, Ordering::Relaxed);
                    scored.fetch_add(work.scored, Ordering::Relaxed);
                });
                let asked = telling as f64;
                let mean = found.into_inner() as f64 / asked;
                let error = ((squares.into_inner() as f64 / asked - mean * mean).max(0.0) / asked).sqrt();
                let full = k.min(allowed.count()) as f64;
                let point = Point {
                    effort,
                    recall: mean / full,
                    safe: (mean - error * CAUTION) / full,
                    scored: scored.into_inner() as f64 / asked,
                };
                curve.push(point);
                // What costs more than an exact scan is left to that.
                if point.safe >= HIGHEST || effort >= made.structure.most() || point.scored as usize > made.inside {
                    return curve;
                }
                let step = if point.recall < 0.7 { effort } else { effort.div_ceil(4) };
                effort = (effort + step).min(made.structure.most());
            }
        })
    }

    /// The effort for k answers at this recall, with the recall and the rows scored that go with it; None where none is
    /// known to reach it.
    fn effort(&self, made: &Made<S>, k: usize, recall: f64) -> Option<Point> {
        let at = |curve: &[Point]| {
            let above = curve.iter().position(|point| point.safe >= recall)?;
            let (to, from) = (curve[above], curve[above.saturating_sub(1)]);
            let share = if to.safe > from.safe { (recall - from.safe).max(0.0) / (to.safe - from.safe) } else { 1.0 };
            let share = if above == 0 { 1.0 } else { share };
            let between = |a: f64, b: f64| a + share * (b - a);
            Some((
                between(from.effort as f64, to.effort as f64),
                between(from.recall, to.recall),
                between(from.scored, to.scored),
            ))
        };
        let (low, high) = (at(&made.curves[0])?, at(&made.curves[1])?);
        let [shallow, deep] = DEPTHS.map(|depth| depth as f64);
        let share = (k as f64 - shallow).max(0.0) / (deep - shallow);
        let mixed = |a: f64, b: f64| (a + share * (b - a)).max(1.0);
        let effort = (mixed(low.0, high.0).ceil() as usize).min(made.structure.most());
        Some(Point { effort, recall: low.1.min(high.1), safe: recall, scored: mixed(low.2, high.2) })
    }

    /// The best k rows of every query.
    pub fn search(&self, request: &Request) -> Result<Answers> {
        let recall = request.recall.unwrap_or(DEFAULT_RECALL);
        let allowed = self.flat.allowed(request);
        let plan = self.made.as_ref().filter(|_| recall < 1.0).and_then(|made| {
            let rows = allowed.as_ref().map_or(self.flat.len(), Allowed::count);
            let k = request.k.min(rows);
            let point = self.effort(made, k, recall)?;
            let queries = request.count(self.flat.dimension);
            // Among rows allowed the answers lie farther apart, and these may lie where the query does not look first:
            // twice as many of them have to be seen as without a filter. To find them takes as long as to judge them.
            let filter = if allowed.is_some() { 2 } else { 1 };
            let least = point.scored as usize * filter;
            let own = filter as f64 * plan::named(least, S::SCATTERED, self.flat.dimension);
            let fits = k > 0 && own < plan::scan(rows, allowed.is_none(), self.flat.dimension, queries);
            fits.then_some((made, point, least))
        });
        match plan {
            Some((made, point, least)) => self.probe(made, request, allowed.as_ref(), (point, least)),
            None => self.flat.search_allowed(allowed.as_ref(), request),
        }
    }

    fn probe(
        &self,
        made: &Made<S>,
        request: &Request,
        allowed: Option<&Allowed>,
        (point, least): (Point, usize),
    ) -> Result<Answers> {
        let flat = &self.flat;
        let (effort, expected) = (point.effort, point.recall);
        let mut answers = Answers { effort, expected, plan: "probe", ..Answers::default() };
        // A look at a bit is far cheaper than judging a row, but they add up where few of the rows are allowed.
        let quota = allowed.map(|allowed| (allowed, least, 8 * allowed.count()));
        let k = request.k.min(allowed.map_or(flat.len(), Allowed::count));
        let (work, starved) = each_query(flat, request, &mut answers, &self.benches, |query, bench| {
            let (best, work, gave_up) = self.one(made, query, (k, effort), quota, bench);
            let starved = gave_up || best.len() < k;
            (best, work, starved)
        })?;
        let long = quantize::lines(flat.dimension) * 64;
        answers.rows_scanned = work.scored;
        answers.rows_reread = work.read;
        answers.bytes_read = (work.scored + work.looked) * long + work.read * flat.dimension * 4;
        flat.rescue(request, &starved, &mut answers, |request| flat.search_allowed(allowed, request))?;
        Ok(answers)
    }

    /// The best rows for one query, what it took, and whether it was given up. `quota`: rows allowed, how many of them
    /// to see at the least, and how many rows to visit at the most.
    fn one(
        &self,
        made: &Made<S>,
        query: &[f32],
        (k, effort): (usize, usize),
        quota: Option<(&Allowed, usize, usize)>,
        bench: &mut Bench,
    ) -> (Vec<Ranked>, Work, bool) {
        let (flat, kernels) = (&self.flat, kernels());
        let norm = (kernels.dot_exact)(query, query).sqrt();
        let code = flat.frame.encode_query(query, norm);
        let (allowed, least, most) = quota.map_or((None, 0, 0), |(allowed, least, most)| (Some(allowed), least, most));
        let probe = Probe { kernels, flat, query, norm, code: &code, k, effort, allowed, least, most };
        let mut sight = Sight { found: Found::new(k), bar: Bar::new(), scored: 0, seen: 0, visited: 0 };
        // The latest rows first: they raise the bar.
        let (lines, rows) = (code.high.len(), flat.ids.rows());
        let first = made.covered / BLOCK * BLOCK;
        if made.covered < rows {
            let codes = (&flat.codes[first * lines..rows * lines], &flat.factors[first / BLOCK..]);
            let covered = made.covered as u32;
            let row_of = |place: u32| Some(first as u32 + place).filter(|row| *row >= covered).unwrap_or(NONE);
            probe.run(codes, row_of, bench, &mut sight);
        }
        let outside: Vec<u32> = made.outside.iter().copied().filter(|row| probe.answerable(*row)).collect();
        probe.judge(&outside, &mut sight);
        made.structure.look(&probe, bench, &mut sight);
        let bar = sight.bar.get();
        sight.found.candidates.retain(|candidate: &Candidate| candidate.upper >= bar);
        let full = Full { metric: flat.metric, vectors: &flat.vectors, norms: &flat.norms };
        let candidates = &sight.found.candidates;
        let (best, read) = refine::best(kernels, &flat.rows(None), &full, (query, norm, &code), candidates, k);
        let gave_up = allowed.is_some() && sight.seen < least.min(most) && sight.visited >= most;
        (best, Work { scored: sight.scored, looked: candidates.len(), read }, gave_up)
    }

    /// Writes the vectors, their ids and the structure to a file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = Writer::create(path, self.flat.header(S::KIND))?;
        self.flat.write(&mut file)?;
        let mut shape = [0u64; 4];
        let Some(made) = &self.made else {
            file.section(b"shape   ", shape.len(), shape.into_iter(), u64::to_le_bytes)?;
            return file.finish();
        };
        // Removed rows are left out, so rows are numbered anew.
        let live: Vec<u32> = (0..made.covered as u32).filter(|row| self.flat.ids.is_live(*row as usize)).collect();
        let outside = live.iter().zip(0u32..).filter(|(row, _)| made.outside.binary_search(row).is_ok());
        let outside: Vec<u32> = outside.map(|(_, number)| number).collect();
        shape = [1, live.len() as u64, outside.len() as u64, made.inside as u64];
        file.section(b"shape   ", shape.len(), shape.into_iter(), u64::to_le_bytes)?;
        file.section(b"outside ", outside.len(), outside.into_iter(), u32::to_le_bytes)?;
        for curve in &made.curves {
            let numbers = curve.iter().flat_map(|point| [point.effort as f64, point.recall, point.safe, point.scored]);
            file.section(b"points  ", 1, [curve.len() as u64].into_iter(), u64::to_le_bytes)?;
            file.section(b"curve   ", 4 * curve.len(), numbers, f64::to_le_bytes)?;
        }
        made.structure.write(&mut file, &live)?;
        file.finish()
    }

    /// Reads a file that `save` wrote.
    pub fn load(path: &Path, threads: usize) -> Result<Self> {
        let (mut file, header) = Reader::open(path)?;
        let mut index = Self::of(Flat::read(&mut file, header, S::KIND, threads)?);
        let shape = file.section(b"shape   ", 4, u64::from_le_bytes)?;
        if shape[0] > 0 {
            let [_, covered, outside, inside] = [0, 1, 2, 3].map(|i| usize::try_from(shape[i]).unwrap_or(usize::MAX));
            let rows = index.flat.ids.rows();
            if covered > rows || outside > rows || inside > u32::MAX as usize {
                return Err(file.corrupt("its parts do not fit together"));
            }
            let outside = file.section(b"outside ", outside, u32::from_le_bytes)?;
            let mut curves: [Vec<Point>; DEPTHS.len()] = Default::default();
            for curve in &mut curves {
                let count = file.section(b"points  ", 1, u64::from_le_bytes)?[0].min(1 << 16) as usize;
                let numbers = file.section(b"curve   ", 4 * count, f64::from_le_bytes)?;
                let point = |n: &[f64]| Point { effort: n[0] as usize, recall: n[1], safe: n[2], scored: n[3] };
                curve.extend(numbers.chunks_exact(4).map(point));
            }
            if outside.iter().any(|row| *row as usize >= covered) {
                return Err(file.corrupt("its parts do not fit together"));
            }
            let structure = S::read(&mut file, &index.flat, covered)?;
            index.made = Some(Made { structure, curves, covered, outside, inside });
        }
        file.finish()?;
        Ok(index)
    }
}
