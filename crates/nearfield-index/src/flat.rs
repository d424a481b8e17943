//! The exact index. Its answers are those of a float64 brute-force search, in its order, ties in insertion order.
//!
//! Every vector is kept twice: in full, and as an 8-bit code with a provable interval for its score
//! (`nearfield_kernels::quantize`). A search scans the codes, a quarter of the bytes, and reads in full only the few
//! rows whose interval reaches the k-th best lower end. This is the scheme of the VA-file (Weber, Schek and Blott,
//! "A Quantitative Analysis and Performance Study for Similarity-Search Methods in High-Dimensional Spaces", 1998)
//! with one scale a vector and a norm for what the code misses instead of cell corners.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use nearfield_kernels::quantize::{self, Frame};
use nearfield_kernels::{BLOCK, Factors, Line, Metric, kernels, pages};

use crate::allow::{Allow, Allowed};
use crate::codec::{Header, Place, Reader, Writer};
use crate::ids::Ids;
use crate::mapped::Mapped;
use crate::pool::each_job;
use crate::record::first_not_finite;
use crate::scan::{Rows, Within};
use crate::vectors::Vectors;
use crate::{Error, Result};

/// Largest dimension: above it, a sum of 8-bit products could leave 32 bits.
pub const MAX_DIMENSION: usize = 65_535;

/// Where more than one row in so many is allowed, reading all codes as they lie is faster than gathering those allowed.
const DENSE: usize = 4;

/// Rows that one thread codes at a time; a multiple of two blocks.
const ROWS_PER_JOB: usize = 1024;

/// Rows that tell whether the frame still suits: their mean strays by a forty-fifth of the usual distance from it.
const GLANCE: usize = 2048;

/// The place of this kind in index files.
const KIND: u32 = 0;

/// An exact index of float32 vectors of one dimension.
#[derive(Debug, Clone)]
pub struct Flat {
    pub(crate) metric: Metric,
    pub(crate) dimension: usize,
    pub(crate) ids: Ids,
    /// Removed rows keep their place until half of the rows are gone.
    pub(crate) vectors: Vectors,
    /// Rows for the next `add`.
    staged: Option<Vectors>,
    /// Norms of the rows; the cosine alone needs them.
    pub(crate) norms: Vec<f64>,
    /// Shared with copies, see [`crate::Kind::frozen`].
    pub(crate) codes: Arc<Vec<Line>>,
    pub(crate) factors: Vec<Factors>,
    pub(crate) frame: Frame,
    /// Rows there were when the frame was trained.
    pub(crate) framed: usize,
}

/// What to search for.
pub struct Request<'a> {
    /// Queries, row-major.
    pub queries: &'a [f32],
    /// Answers wanted for each.
    pub k: usize,
    /// Threads to use at the most.
    pub threads: usize,
    /// What may be answered; None allows all.
    pub allow: Option<Allow<'a>>,
    /// Share of the true answers wanted on average, over 0 and up to 1, where 1 means exact; None leaves it to the kind.
    pub recall: Option<f64>,
    /// Asked now and then on the calling thread; true stops the search.
    pub interrupt: &'a (dyn Fn() -> bool + Sync),
    /// Whether to look at the clock between the stages of a walk.
    pub timed: bool,
}

/// Answers, and counts of the work behind them.
#[derive(Debug, Default, PartialEq)]
pub struct Answers {
    /// (queries x k) ids, best first; -1 where there is no answer.
    pub ids: Vec<i64>,
    /// (queries x k) scores, higher is better; minus infinity where there is no answer.
    pub scores: Vec<f32>,
    /// Rows whose code was scored, over all queries.
    pub rows_scanned: usize,
    /// Rows whose vector was read in full, over all queries.
    pub rows_reread: usize,
    /// Bytes of codes, factors and vectors read; a pass that serves many queries counts once.
    pub bytes_read: usize,
    /// Threads that took part.
    pub threads: usize,
    /// Nodes expanded by walks through a graph, over all queries.
    pub hops: usize,
    /// Whether every answer is the exact one, proven.
    pub exact: bool,
    /// How far an approximate search went, in the units of its kind; 0 for an exact one.
    pub effort: usize,
    /// Share of the true answers that this effort found when it was measured.
    pub expected: f64,
    /// The way that was chosen: a "scan" of all codes, of those allowed ("gather"), a "walk", a "sweep" over guide codes,
    /// or a "probe" of lists; and the way by which those were answered that it found too little for.
    pub plan: &'static str,
    /// Queries for which the first way found too little.
    pub rescued: usize,
    /// Nanoseconds spent on coding queries, walking, and looking closer, where they were asked for.
    pub stages: [u64; 3],
}

impl<'a> Request<'a> {
    /// A search for the best k of all rows, on one thread.
    pub fn new(queries: &'a [f32], k: usize) -> Self {
        Self { queries, k, threads: 1, allow: None, recall: None, interrupt: &|| false, timed: false }
    }

    /// How many queries there are.
    pub(crate) fn count(&self, dimension: usize) -> usize {
        assert!(self.k >= 1 && self.queries.len().is_multiple_of(dimension));
        self.queries.len() / dimension
    }

    /// Says which query holds a number that is not finite, if one does.
    pub(crate) fn check(&self, dimension: usize) -> Result<()> {
        let Some(query) = first_not_finite(self.queries, dimension) else { return Ok(()) };
        Err(Error::Invalid(format!("query {query} holds NaN or infinity: every number must be finite")))
    }
}

impl Flat {
    /// An empty index.
    pub fn new(dimension: usize, metric: Metric) -> Result<Self> {
        if !(1..=MAX_DIMENSION).contains(&dimension) {
            return Err(Error::Invalid(format!("dimension must be from 1 to {MAX_DIMENSION}, got {dimension}")));
        }
        Ok(Self {
            metric,
            dimension,
            ids: Ids::default(),
            vectors: Vectors::new(dimension),
            staged: None,
            norms: Vec::new(),
            codes: Arc::default(),
            factors: Vec::new(),
            frame: Frame::identity(metric, dimension),
            framed: 0,
        })
    }

    /// Dimension of the vectors.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Vectors that are there.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held in memory: vectors, codes, and what is known of each row.
    pub fn bytes(&self) -> usize {
        let rows = self.vectors.bytes().0 + size_of_val(self.norms.as_slice()) + 9 * self.ids.rows();
        rows + size_of_val(self.codes.as_slice()) + size_of_val(self.factors.as_slice())
    }

    /// Bytes of vectors that stay in files.
    pub fn mapped(&self) -> usize {
        self.vectors.bytes().1
    }

    /// Vectors that are added from now on are kept in files without a name in this folder, instead of in memory.
    pub fn keep_in(&mut self, folder: &Path) {
        self.vectors.keep_in(folder);
    }

    /// Reads the vectors that stay in an index file and checks that they are what was written.
    pub fn verify(&self) -> Result<()> {
        self.vectors.verify()
    }

    /// One above the largest id ever given.
    pub fn next_id(&self) -> i64 {
        self.ids.next()
    }

    /// Ids below `next` count as given, though they are not here any more.
    pub fn keep_next_id(&mut self, next: i64) {
        self.ids.keep_next(next);
    }

    /// Ids of the vectors that are there, in insertion order.
    pub fn ids(&self) -> Vec<i64> {
        self.ids.live_ids().collect()
    }

    /// The vectors that are there, row-major, in insertion order.
    pub fn vectors(&self) -> Vec<f32> {
        let mut vectors = Vec::with_capacity(self.len() * self.dimension);
        self.live_rows().for_each(|row| vectors.extend_from_slice(self.vectors.row(row)));
        vectors
    }

    fn live_rows(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.ids.rows()).filter(|row| self.ids.is_live(*row))
    }

    /// Adds vectors (row-major) under the ids given, or under the next ones; all or none of them.
    pub fn add(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        assert_eq!(vectors.len() % self.dimension, 0);
        let staged = self.staged.take();
        check_finite(vectors, self.dimension, 0)?;
        let before = staged.as_ref().map_or(0, Vectors::rows);
        let new = self.ids.check_new(before + vectors.len() / self.dimension, ids)?;
        match staged {
            Some(mut staged) => {
                staged.extend(vectors)?;
                staged.write_rest()?;
                self.vectors.append(staged);
            }
            None => self.vectors.extend(vectors)?,
        }
        self.ids.extend(&new);
        self.take_in(new.len(), threads);
        Ok(new)
    }

    /// The next `add` also adds the rows of this batch, before its own, or leaves all of them out.
    pub fn stage(&mut self, batch: Batch) {
        self.staged = Some(batch.0);
    }

    /// A batch of no rows, for `stage`.
    pub fn batch(&self) -> Batch {
        Batch(self.vectors.empty())
    }

    /// Codes the last `count` rows, whose vectors and ids are there, or all of them.
    fn take_in(&mut self, count: usize, threads: usize) {
        let rows = self.ids.rows();
        let first = rows - count;
        if self.metric == Metric::Cosine {
            pages::reserve(&mut self.norms, count);
            self.norms.resize(rows, 0.0);
        }
        let lines = quantize::lines(self.dimension);
        if Arc::get_mut(&mut self.codes).is_none() {
            let mut own = Vec::new(); // with room from the beginning: otherwise it would be copied twice
            pages::reserve(&mut own, rows * lines);
            own.extend_from_slice(&self.codes);
            self.codes = Arc::new(own);
        }
        let codes = Arc::make_mut(&mut self.codes);
        pages::reserve(codes, (rows - first) * lines);
        codes.resize(rows * lines, Line::ZERO);
        self.factors.resize(rows.div_ceil(2 * BLOCK) * 2, Factors::ABSENT);
        // The mean and the scale of the first rows may not suit the later ones: look again when there are many more.
        if rows > 0 && (self.framed == 0 || rows >= 4 * self.framed) {
            self.measure(first, threads);
            let suits = self.framed > 0 && self.frame.suits(&self.glance());
            if !suits {
                self.frame = Frame::train_on(self.metric, self.dimension, rows, self.vectors.passing(), &self.norms);
            }
            self.vectors.let_go(0..rows);
            self.framed = rows;
            self.encode(if suits { first } else { 0 }, rows, threads);
        } else {
            self.encode(first, first, threads);
        }
    }

    /// The frame of a few rows, evenly spread.
    fn glance(&self) -> Frame {
        let every = self.vectors.rows().div_ceil(GLANCE);
        let rows = (0..self.vectors.rows()).step_by(every).flat_map(|row| self.vectors.row(row)).copied();
        let norms: Vec<f64> = self.norms.iter().step_by(every).copied().collect();
        Frame::train(self.metric, self.dimension, &rows.collect::<Vec<f32>>(), &norms)
    }

    /// Norms of the rows from number `first` on.
    fn measure(&mut self, first: usize, threads: usize) {
        let vectors = &self.vectors;
        let norms = self.norms.get_mut(first..).unwrap_or_default();
        let jobs = norms.chunks_mut(ROWS_PER_JOB).zip((first..).step_by(ROWS_PER_JOB));
        each_job(
            threads,
            jobs,
            || (),
            |(), (norms, first)| {
                let measured = first..first + norms.len();
                for (norm, row) in norms.iter_mut().zip(first..) {
                    *norm = norm_of(vectors.row(row));
                }
                vectors.let_go(measured);
            },
        );
    }

    /// Codes the rows from number `first` on; those from `unmeasured` on have no norms yet.
    fn encode(&mut self, first: usize, unmeasured: usize, threads: usize) {
        let first = first / (2 * BLOCK) * (2 * BLOCK);
        let lines = quantize::lines(self.dimension);
        let (ids, vectors, frame, dimension) = (&self.ids, &self.vectors, &self.frame, self.dimension);
        vectors.in_order(true);
        let codes = Arc::make_mut(&mut self.codes)[first * lines..].chunks_mut(ROWS_PER_JOB * lines);
        let factors = self.factors[first / BLOCK..].chunks_mut(ROWS_PER_JOB / BLOCK);
        let mut norms = self.norms.get_mut(first..).unwrap_or_default().chunks_mut(ROWS_PER_JOB);
        let jobs = codes.zip(factors).map(|(codes, factors)| (codes, factors, norms.next())).enumerate();
        each_job(
            threads,
            jobs,
            || (),
            |(), (job, (codes, factors, mut norms))| {
                let mut moved = Vec::with_capacity(dimension);
                for (i, code) in codes.chunks_mut(lines).enumerate() {
                    let row = first + job * ROWS_PER_JOB + i;
                    if ids.is_live(row) {
                        let vector = vectors.row(row);
                        let norm = norms.as_deref_mut().map(|norms| {
                            if row >= unmeasured {
                                norms[i] = norm_of(vector); // while it is in the cache
                            }
                            norms[i]
                        });
                        frame.encode(vector, norm, &mut moved, code, &mut factors[i / BLOCK], i % BLOCK);
                    }
                }
                let start = first + job * ROWS_PER_JOB;
                vectors.let_go(start..start + codes.len() / lines);
            },
        );
        vectors.in_order(false);
    }

    /// Removes vectors by id; all or none of them. Returns how many were removed.
    pub fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize> {
        let rows = self.take_out(ids)?;
        if self.is_wasteful() {
            self.compact(threads);
        }
        Ok(rows.len())
    }

    /// As `remove`, but the rows keep their room; returns them, ascending.
    pub(crate) fn take_out(&mut self, ids: &[i64]) -> Result<Vec<u32>> {
        let rows = self.ids.remove(ids)?;
        for &row in &rows {
            self.factors[row as usize / BLOCK].bias[row as usize % BLOCK] = f32::NEG_INFINITY;
        }
        Ok(rows)
    }

    /// Whether removed rows take more room than those that are there.
    pub(crate) fn is_wasteful(&self) -> bool {
        self.ids.rows() > 2 * self.ids.len() + ROWS_PER_JOB
    }

    /// Gives back the room of removed rows; the others are numbered anew, in the order they have.
    pub fn compact(&mut self, threads: usize) {
        if self.ids.rows() == self.ids.len() {
            return;
        }
        self.vectors.retain(|row| self.ids.is_live(row));
        let (ids, next) = (self.ids(), self.next_id());
        self.ids = Ids::default();
        self.ids.extend(&ids);
        self.ids.keep_next(next);
        (self.norms, self.codes, self.factors, self.framed) = (Vec::new(), Arc::default(), Vec::new(), 0);
        self.take_in(ids.len(), threads);
    }

    /// Codes all rows as a new index of them would, where rows have come since the mean and the scale were looked for.
    pub(crate) fn frame_again(&mut self, threads: usize) {
        if self.framed != self.ids.rows() {
            self.framed = 0;
            self.take_in(0, threads);
        }
    }

    pub(crate) fn rows<'a>(&'a self, listed: Option<&'a [u32]>) -> Rows<'a> {
        self.rows_within(listed.map_or(Within::All, Within::Listed))
    }

    pub(crate) fn rows_within<'a>(&'a self, within: Within<'a>) -> Rows<'a> {
        let lines = quantize::lines(self.dimension);
        Rows { codes: &self.codes, factors: &self.factors, lines, count: self.ids.rows(), within }
    }

    /// The best k rows of every query, exactly.
    pub fn search(&self, request: &Request) -> Result<Answers> {
        self.search_allowed(self.allowed(request).as_ref(), request)
    }

    /// Rows that the request allows; None where it allows all.
    pub(crate) fn allowed(&self, request: &Request) -> Option<Allowed> {
        request.allow.map(|allow| Allowed::new(allow, &self.ids))
    }

    /// As `search`, with the rows allowed instead of what the request says of them.
    pub(crate) fn search_allowed(&self, allowed: Option<&Allowed>, request: &Request) -> Result<Answers> {
        let Some(allowed) = allowed else { return self.search_listed(None, request) };
        if self.is_dense(allowed) {
            return self.search_within(Within::Allowed(allowed), request);
        }
        self.search_listed(Some(&allowed.rows()), request)
    }

    /// Whether so many rows are allowed that all codes are read.
    pub(crate) fn is_dense(&self, allowed: &Allowed) -> bool {
        allowed.count() * DENSE > self.ids.rows()
    }

    /// As `search`, among the rows listed (ascending) instead of the ids allowed.
    pub(crate) fn search_listed(&self, listed: Option<&[u32]>, request: &Request) -> Result<Answers> {
        self.search_within(listed.map_or(Within::All, Within::Listed), request)
    }

    /// Answers `again` where an approximate search found too few of the rows that may be answered.
    pub(crate) fn rescue(
        &self,
        request: &Request,
        starved: &[usize],
        answers: &mut Answers,
        again: impl FnOnce(&Request) -> Result<Answers>,
    ) -> Result<()> {
        if starved.is_empty() {
            return Ok(());
        }
        let (dimension, k) = (self.dimension, request.k);
        let queries: Vec<f32> =
            starved.iter().flat_map(|q| &request.queries[q * dimension..(q + 1) * dimension]).copied().collect();
        let more = again(&Request { queries: &queries, ..*request })?;
        answers.plan = match (answers.plan, more.plan) {
            ("walk", "walk") => "walk",
            ("walk", "sweep" | "walk, then sweep") => "walk, then sweep",
            ("walk", _) => "walk, then scan",
            ("sweep", _) => "sweep, then scan",
            _ => "probe, then scan",
        };
        answers.rescued = starved.len();
        for (i, q) in starved.iter().enumerate() {
            answers.ids[q * k..(q + 1) * k].copy_from_slice(&more.ids[i * k..(i + 1) * k]);
            answers.scores[q * k..(q + 1) * k].copy_from_slice(&more.scores[i * k..(i + 1) * k]);
        }
        answers.rows_scanned += more.rows_scanned;
        answers.rows_reread += more.rows_reread;
        answers.bytes_read += more.bytes_read;
        Ok(())
    }

    /// Writes the vectors, their ids and their codes to a file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = Writer::create(path, self.header(KIND))?;
        self.write(&mut file)?;
        file.finish()
    }

    pub(crate) fn header(&self, kind: u32) -> Header {
        let metric = Metric::ALL.iter().position(|metric| *metric == self.metric).expect("every metric is listed");
        Header {
            kind,
            metric: metric as u32,
            dimension: self.dimension as u32,
            rows: self.len() as u64,
            next_id: self.next_id(),
        }
    }

    /// Writes the sections that every kind begins with. Removed rows are left out.
    pub(crate) fn write(&self, file: &mut Writer) -> Result<()> {
        let (ids, lines) = (self.ids(), quantize::lines(self.dimension));
        file.section(b"ids     ", ids.len(), ids.into_iter(), i64::to_le_bytes)?;
        let vectors = self.live_rows().map(self.vectors.passing());
        file.rows(b"vectors ", self.len() * self.dimension, vectors)?;
        let norms: Vec<f64> = self.live_rows().filter_map(|row| self.norms.get(row)).copied().collect();
        file.section(b"norms   ", norms.len(), norms.into_iter(), f64::to_le_bytes)?;
        let centre = self.frame.centre();
        file.section(b"mean    ", centre.len(), centre.iter().copied(), f32::to_le_bytes)?;
        let scale = [self.frame.sigma(), self.framed as f64];
        file.section(b"scale   ", scale.len(), scale.into_iter(), f64::to_le_bytes)?;
        let codes = self.live_rows().flat_map(|row| &self.codes[row * lines..(row + 1) * lines]);
        file.section(b"codes   ", self.len() * lines, codes, |line| line.0)?;
        let mut factors = quantize::absent(self.len());
        for (place, row) in self.live_rows().enumerate() {
            factors[place / BLOCK].copy_lane(place % BLOCK, &self.factors[row / BLOCK], row % BLOCK);
        }
        let numbers = factors.iter().flat_map(|Factors { scale, residual, norm, bias }| [scale, residual, norm, bias]);
        file.section(b"factors ", factors.len() * 4 * BLOCK, numbers.flatten().copied(), f32::to_le_bytes)
    }

    /// Reads a file that `save` wrote.
    pub fn load(path: &Path, threads: usize) -> Result<Self> {
        let (mut file, header) = Reader::open(path)?;
        let index = Self::read(&mut file, header, KIND, threads)?;
        file.finish()?;
        Ok(index)
    }

    /// Reads the sections that `write` wrote, of a file of this kind.
    pub(crate) fn read(file: &mut Reader, header: Header, kind: u32, threads: usize) -> Result<Self> {
        let mut index = Self::begin(file, header, kind, threads)?;
        index.read_codes(file)?;
        Ok(index)
    }

    /// As `read`, but stops before the 8-bit codes, which [`Flat::read_codes`] reads, or [`Flat::pass_codes`] leaves for later.
    pub(crate) fn begin(file: &mut Reader, header: Header, kind: u32, threads: usize) -> Result<Self> {
        let metric = Metric::ALL.get(header.metric as usize).filter(|_| header.kind == kind);
        let metric = *metric.ok_or_else(|| file.corrupt("it holds a kind of index that this version does not know"))?;
        let mut index = Self::new(header.dimension as usize, metric)?;
        let rows = usize::try_from(header.rows).map_err(|_| file.corrupt("it holds too many rows"))?;
        let ids = file.section(b"ids     ", rows, i64::from_le_bytes)?;
        let ids = index.ids.check_new(rows, Some(&ids)).map_err(|_| file.corrupt("its ids are no ids"))?;
        let kept = file.kept(b"vectors ", rows.saturating_mul(index.dimension))?;
        index.vectors = Vectors::kept(index.dimension, kept);
        index.ids.extend(&ids);
        index.ids.keep_next(header.next_id);
        if file.version() < 2 {
            index.take_in(rows, threads);
            return Ok(index);
        }
        let norms = if metric == Metric::Cosine { rows } else { 0 };
        index.norms = file.section(b"norms   ", norms, f64::from_le_bytes)?;
        let centre = file.section(b"mean    ", index.dimension, f32::from_le_bytes)?;
        let scale = file.section(b"scale   ", 2, f64::from_le_bytes)?;
        index.frame = Frame::from_parts(metric, centre, scale[0]);
        index.framed = scale[1] as usize;
        Ok(index)
    }

    /// Reads the sections of the 8-bit codes; files of version 1 have none.
    pub(crate) fn read_codes(&mut self, file: &mut Reader) -> Result<()> {
        if file.version() >= 2 {
            let (rows, lines) = (self.ids.rows(), quantize::lines(self.dimension));
            self.codes = Arc::new(file.section(b"codes   ", rows.saturating_mul(lines), Line)?);
            self.factors = file.section(b"factors ", rows.div_ceil(2 * BLOCK) * 2, factors_of)?;
        }
        Ok(())
    }

    /// Goes past them, and returns where they are.
    pub(crate) fn pass_codes(file: &mut Reader) -> Result<Place> {
        file.pass(if file.version() < 2 { 0 } else { 2 })
    }
}

/// Rows that come piece by piece and are added together, kept as the index that made it keeps its own.
#[derive(Debug)]
pub struct Batch(Vectors);

impl Batch {
    /// Adds rows to the batch.
    pub fn push(&mut self, rows: &[f32]) -> Result<()> {
        check_finite(rows, self.0.dimension(), self.0.rows())?;
        self.0.extend(rows)
    }

    /// Adds rows that stay in a file, which must not change: of the `rows` that begin at this byte those in `slots`, or
    /// all. They must be finite.
    pub fn push_file(&mut self, path: &Path, start: u64, rows: usize, slots: Option<Vec<u32>>) -> Result<()> {
        let mapped = Mapped::of(&File::open(path)?, start, rows * self.0.dimension())?;
        self.0.extend_mapped(mapped, slots);
        Ok(())
    }
}

/// Says which row holds a number that is not finite, if one does; `before` rows came before these.
fn check_finite(rows: &[f32], dimension: usize, before: usize) -> Result<()> {
    let Some(row) = first_not_finite(rows, dimension) else { return Ok(()) };
    let what = rows[row * dimension..].iter().find(|x| !x.is_finite()).expect("one of them is not");
    let row = before + row;
    Err(Error::Invalid(format!(
        "vector {row} of this call holds {what}: every number must be finite; nothing was added"
    )))
}

/// The norm of a row.
fn norm_of(row: &[f32]) -> f64 {
    (kernels().dot_exact)(row, row).sqrt()
}

/// Factors from their bytes in a file.
fn factors_of(bytes: [u8; 16 * BLOCK]) -> Factors {
    let number = |at: usize| f32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().expect("four bytes"));
    let part = |part: usize| std::array::from_fn(|lane| number(part * BLOCK + lane));
    Factors { scale: part(0), residual: part(1), norm: part(2), bias: part(3) }
}
