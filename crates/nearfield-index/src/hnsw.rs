//! Approximate search by walking through a graph of neighbours, at a recall the caller states.
//!
//! The graph is the lowest level of HNSW (Malkov and Yashunin, 2018). Instead of its upper levels, a table of random nodes
//! is the way in: it is read as it lies. A walk reads 4-bit guide codes of the leading principal directions, one or two cache lines a
//! row (`nearfield_kernels::guide`). The nearest rows it finds are judged by their 8-bit codes and the best of these
//! read in full, as in the exact index, so the scores are the exact ones and only rows can be missing.
//!
//! How wide a walk must be for a given recall is measured when the graph is built: on rows that are not yet in it,
//! against the exact answer. Rows added later are scanned exactly beside the walk until they are many; then the graph is
//! built again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nearfield_kernels::guide::{Guide, GuideScratch};
use nearfield_kernels::quantize::{self, QueryCode};
use nearfield_kernels::{BLOCK, Kernels, Line, Metric, kernels, pages, prefetch};

use crate::allow::Allowed;
use crate::flat::{Answers, Flat, Request};
use crate::hnsw_build::{DEGREE, Points};
use crate::pool::each_job;
use crate::refine::{self, Full};
use crate::scan::{self, Candidate};
use crate::walk::{Level, NONE, Reach, Walker, adaptive};
use crate::{Error, Result, plan};

/// Fewer rows than this are answered exactly: a graph would not be faster.
const FEWEST: usize = 1024;

/// Rows that are held out of the graph while its recall is measured.
const HELD_OUT: usize = 1024;

/// Recalls for which the width of walks is measured.
const TARGETS: [f64; 7] = [0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998];

/// Numbers of answers for which the width of walks is measured.
const DEPTHS: [usize; 2] = [10, 100];

/// The recall where the caller does not say.
pub const DEFAULT_RECALL: f64 = 0.95;

/// Rows that the directions of guide codes are found on.
const SAMPLE: usize = 16_384;

/// Width of a walk for each depth and target.
pub(crate) type Widths = [[u32; TARGETS.len()]; DEPTHS.len()];

/// What stands beside the exact index: nodes are numbered in a random order, `rows` tells their rows.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    /// Row of each node; NONE where it was removed before the graph was written to a file.
    pub rows: Vec<u32>,
    pub guide: Guide,
    pub codes: Vec<Line>,
    pub level: Level,
    /// Nodes that have neighbours: the first ones.
    pub linked: usize,
    /// Width of a walk for each depth and target.
    pub widths: Widths,
    /// Rows there were; later ones are not in the graph.
    pub covered: usize,
    /// Rows among them that are not in it: too large to be coded.
    pub outside: Vec<u32>,
    /// Nodes whose rows were removed.
    pub dead: usize,
}

/// An index of float32 vectors that answers approximately and fast.
#[derive(Debug)]
pub struct Hnsw {
    pub(crate) flat: Flat,
    pub(crate) graph: Option<Graph>,
    /// Rows from which on there is a graph.
    pub(crate) fewest: usize,
    benches: Mutex<Vec<Bench>>,
}

/// Scratch space of one search.
#[derive(Debug, Default)]
struct Bench {
    walker: Walker,
    guide: GuideScratch,
    candidates: Vec<Candidate>,
}

/// A walk's part of an answer.
struct Plan<'a> {
    reach: Reach,
    /// Candidates wanted for a second look.
    wanted: usize,
    /// Rows that may be answered.
    allowed: Option<&'a Allowed>,
    /// Rows to be scanned beside the walk.
    beside: &'a [u32],
    k: usize,
}

/// Candidates that get a second look, be k ever so small: the order of guide codes is not that of the rows.
const LEAST_LOOKED_AT: usize = 23;

/// The nearest candidates are read in full almost always: this many of them are asked for at once.
const SURE: usize = 10;

/// Candidates of a walk that get a second look, for `k` answers out of a pool of `width`.
fn looked_at(k: usize, width: usize) -> usize {
    width.min((k + k / 2 + 8).max(LEAST_LOOKED_AT)).max(k)
}

impl Hnsw {
    /// An empty index.
    pub fn new(dimension: usize, metric: Metric) -> Result<Self> {
        Ok(Self::of(Flat::new(dimension, metric)?))
    }

    pub(crate) fn of(flat: Flat) -> Self {
        Self { flat, graph: None, fewest: FEWEST, benches: Mutex::new(Vec::new()) }
    }

    /// The vectors, and exact answers from them.
    pub fn exact(&self) -> &Flat {
        &self.flat
    }

    /// Bytes held beside the exact index.
    pub fn bytes(&self) -> usize {
        self.graph.as_ref().map_or(0, |graph| {
            let links = size_of_val(graph.level.links.as_slice());
            links + size_of_val(graph.codes.as_slice()) + size_of_val(graph.rows.as_slice())
        })
    }

    /// As [`Flat::keep_next_id`].
    pub fn keep_next_id(&mut self, next: i64) {
        self.flat.keep_next_id(next);
    }

    /// Adds vectors, as [`Flat::add`]. They are scanned beside the graph until there are many, then it is built again.
    pub fn add(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        let added = self.flat.add(vectors, ids, threads)?;
        self.fold(threads);
        Ok(added)
    }

    /// Removes vectors by id, as [`Flat::remove`]; walks still pass through their nodes until these are many.
    pub fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize> {
        let before = self.flat.ids.rows();
        let count = self.flat.remove(ids, threads)?;
        if self.flat.ids.rows() != before {
            self.graph = None; // rows were numbered anew
        }
        if let Some(graph) = &mut self.graph {
            let is_dead = |row: &&u32| **row == NONE || !self.flat.ids.is_live(**row as usize);
            graph.dead = graph.rows.iter().filter(is_dead).count();
        }
        self.fold(threads);
        Ok(count)
    }

    /// Builds the graph where there is none yet or too much has changed since.
    fn fold(&mut self, threads: usize) {
        let stale = match &self.graph {
            None => self.flat.len() >= self.fewest,
            Some(graph) => {
                let nodes = graph.rows.len();
                self.flat.ids.rows() - graph.covered > FEWEST + nodes / 8 || graph.dead > nodes / 4
            }
        };
        if stale {
            self.graph = self.build(threads);
        }
    }

    fn build(&self, threads: usize) -> Option<Graph> {
        let (flat, kernels) = (&self.flat, kernels());
        let lines = quantize::lines(flat.dimension);
        let coded = |row: &u32| flat.factors[*row as usize / BLOCK].residual[*row as usize % BLOCK].is_finite();
        let live = (0..flat.ids.rows() as u32).filter(|row| flat.ids.is_live(*row as usize));
        let (mut rows, outside): (Vec<u32>, Vec<u32>) = live.partition(coded);
        if rows.len() < FEWEST {
            return None;
        }
        shuffle(&mut rows);
        let sigma = flat.frame.sigma();
        let norms: Option<Vec<f64>> = (flat.metric == Metric::Dot).then(|| {
            let norm = |row: &u32| {
                let start = *row as usize * flat.dimension;
                let row = &flat.vectors[start..start + flat.dimension];
                row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() * sigma
            };
            rows.iter().map(norm).collect()
        });
        let points = Points::new(kernels, threads, &rows, (&flat.codes, &flat.factors, lines), norms.as_deref());
        let is_zero = |row: u32| flat.norms.get(row as usize).is_some_and(|norm| *norm == 0.0);
        let sources = points.sources(flat.metric, sigma as f32, is_zero);
        let sampled = &rows[..rows.len().min(SAMPLE)]; // rows are in a random order
        let code = |row: &u32| &flat.codes[*row as usize * lines..(*row as usize + 1) * lines];
        let sampled: Vec<Line> = sampled.iter().flat_map(code).copied().collect();
        let guide = Guide::fit(kernels, &flat.frame, flat.dimension, &sampled, &sources);
        let mut codes = pages::filled(rows.len() * guide.lines, Line([0; 64]));
        points.guide(&guide, &sources, &mut codes);

        let held_out = HELD_OUT.min(rows.len() / 8);
        let nodes = rows.len() - held_out;
        let mut level = Level::new(nodes, DEGREE);
        points.insert(&guide, &codes, &mut level, 1, nodes, false);
        points.insert(&guide, &codes, &mut level, 0, nodes, true);
        points.connect(&guide, &codes, &mut level);
        let covered = flat.ids.rows();
        let widths = [[0; TARGETS.len()]; DEPTHS.len()];
        let mut graph =
            Graph { rows: rows.clone(), guide, codes, level, linked: nodes, widths, covered, outside, dead: 0 };
        graph.widths = self.calibrate(&graph, nodes, threads);
        let Graph { guide, codes, level, linked, .. } = &mut graph;
        level.grow(rows.len());
        points.insert(guide, codes, level, nodes, rows.len(), false);
        points.connect(guide, codes, level);
        *linked = rows.len();
        Some(graph)
    }

    /// Measures how wide a walk must be: rows from node `nodes` on, which are not linked yet, are the queries.
    fn calibrate(&self, graph: &Graph, nodes: usize, threads: usize) -> Widths {
        let flat = &self.flat;
        let mut linked = graph.rows[..nodes].to_vec();
        linked.sort_unstable();
        let row = |row: &u32| &flat.vectors[*row as usize * flat.dimension..(*row as usize + 1) * flat.dimension];
        let queries: Vec<f32> = graph.rows[nodes..].iter().flat_map(row).copied().collect();
        let mut widths = [[0; TARGETS.len()]; DEPTHS.len()];
        for (&k, widths) in DEPTHS.iter().zip(&mut widths) {
            let request = Request { threads, ..Request::new(&queries, k) };
            let truth = flat.search_listed(Some(&linked), &request).expect("nothing interrupts it");
            let mut reached = 0;
            let mut width = k.max(8);
            // A pool of so many nodes costs more than reading all codes: what it does not reach is left to the scan.
            let widest = (nodes / 16).max(8 * k);
            while reached < TARGETS.len() {
                let (found, squares) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let reach = adaptive(flat.metric, width, k);
                let plan = Plan { reach, wanted: looked_at(k, width), allowed: None, beside: &[], k };
                let jobs = queries.chunks(flat.dimension).zip(truth.ids.chunks(k)).zip(truth.scores.chunks(k));
                each_job(threads, jobs, Bench::default, |bench, ((query, ids), scores)| {
                    let worst = scores.iter().copied().fold(f32::INFINITY, f32::min);
                    let (best, _) = self.walk(kernels(), graph, query, &plan, bench);
                    // A row that ties with the last true answer is as good as that one.
                    let right = best.iter().filter(|ranked| {
                        flat.metric.score(ranked.rank) >= worst || ids.contains(&flat.ids.of(ranked.row))
                    });
                    let right = right.count();
                    found.fetch_add(right, Ordering::Relaxed);
                    squares.fetch_add(right * right, Ordering::Relaxed);
                });
                let asked = (queries.len() / flat.dimension) as f64;
                let mean = found.into_inner() as f64 / asked;
                let error = ((squares.into_inner() as f64 / asked - mean * mean).max(0.0) / asked).sqrt();
                let recall = (mean - error * CAUTION) / k.min(nodes) as f64;
                while reached < TARGETS.len() && (recall >= TARGETS[reached] || width >= widest) {
                    widths[reached] = if recall >= TARGETS[reached] { width } else { nodes } as u32;
                    reached += 1;
                }
                width = (width + width.div_ceil(8)).min(nodes);
            }
        }
        widths
    }

    /// Walks for one query; the best rows, and how many were read in full.
    fn walk(
        &self,
        kernels: &'static Kernels,
        graph: &Graph,
        query: &[f32],
        plan: &Plan,
        bench: &mut Bench,
    ) -> (Vec<refine::Ranked>, Work) {
        let flat = &self.flat;
        let norm = (kernels.dot_exact)(query, query).sqrt();
        graph.guide.encode_query(kernels, flat.metric, query, norm, &mut bench.guide);
        let walker = &mut bench.walker;
        let view = graph.level.view((&graph.codes, graph.guide.lines), graph.linked);
        (kernels.walk)(walker, &view, &bench.guide.query, plan.reach);
        let rows = flat.rows(None);
        let answerable = |row: &u32| match plan.allowed {
            _ if *row == NONE => false,
            Some(allowed) => allowed.holds(*row),
            None => graph.dead == 0 || flat.ids.is_live(*row as usize),
        };
        bench.candidates.clear();
        let full = Full { metric: flat.metric, dimension: flat.dimension, vectors: &flat.vectors, norms: &flat.norms };
        let found = walker.nodes().map(|node| graph.rows[node as usize]).filter(answerable);
        for (i, row) in found.take(plan.wanted).enumerate() {
            if i < plan.k.min(SURE) {
                full.fetch(row);
            }
            for line in 0..rows.lines {
                prefetch(rows.codes, row as usize * rows.lines + line);
            }
            rows.fetch_factors(row);
            bench.candidates.push(Candidate { row, dot: 0, upper: 0.0 });
        }
        let code = flat.frame.encode_query(query, norm); // while the candidates' codes travel
        // Where the pool holds rows that may not be answered, there must be as many others in it as usual.
        let least = if plan.reach.slack > 0.0 && plan.allowed.is_none() { plan.k } else { plan.wanted };
        let starved = bench.candidates.len() < least;
        for candidate in &mut bench.candidates {
            let at = candidate.row as usize * rows.lines;
            candidate.dot = (kernels.dot_codes)(&rows.codes[at..at + rows.lines], &code.high);
        }
        let mut work = Work { starved, scored: walker.scored, hops: walker.hops, ..Work::default() };
        if !plan.beside.is_empty() {
            bench.candidates.extend(self.beside(kernels, plan, &code));
            work.scanned = plan.beside.len();
        }
        work.looked = bench.candidates.len();
        let (best, read) = refine::best(kernels, &rows, &full, (query, norm, &code), &bench.candidates, plan.k);
        work.read = read;
        (best, work)
    }

    /// Candidates among the rows that are not in the graph.
    fn beside(&self, kernels: &Kernels, plan: &Plan, code: &QueryCode) -> Vec<Candidate> {
        let rows = self.flat.rows(Some(plan.beside));
        let found = scan::candidates(kernels, &rows, std::slice::from_ref(code), plan.k, 1, &|| false);
        found.expect("nothing interrupts it").swap_remove(0)
    }

    /// Width of a walk that reaches this recall for k answers, on rows like those in the graph.
    fn width(&self, graph: &Graph, k: usize, recall: f64) -> usize {
        let at = |widths: &[u32; TARGETS.len()]| {
            let above = TARGETS.iter().position(|target| *target >= recall - 1e-9);
            match above {
                Some(0) => f64::from(widths[0]),
                Some(i) => {
                    let share = (recall - TARGETS[i - 1]) / (TARGETS[i] - TARGETS[i - 1]);
                    f64::from(widths[i - 1]) + share * (f64::from(widths[i]) - f64::from(widths[i - 1]))
                }
                // Beyond the last target, misses fall about as the inverse of the width.
                None => f64::from(widths[TARGETS.len() - 1]) * (1.0 - TARGETS[TARGETS.len() - 1]) / (1.0 - recall),
            }
        };
        let (low, high) = (at(&graph.widths[0]), at(&graph.widths[1]));
        let [shallow, deep] = DEPTHS.map(|depth| depth as f64);
        let share = (k as f64 - shallow).max(0.0) / (deep - shallow);
        ((low + share * (high - low)).ceil() as usize).max(k)
    }

    /// The best k rows of every query.
    pub fn search(&self, request: &Request) -> Result<Answers> {
        let flat = &self.flat;
        let recall = request.recall.unwrap_or(DEFAULT_RECALL);
        request.check(flat.dimension)?;
        let Some(graph) = self.graph.as_ref().filter(|_| recall < 1.0) else {
            return flat.search(request);
        };
        let allowed = flat.allowed(request);
        let answerable = |row: &u32| match &allowed {
            Some(allowed) => allowed.holds(*row),
            None => flat.ids.is_live(*row as usize),
        };
        let beside = graph.outside.iter().copied().chain(graph.covered as u32..flat.ids.rows() as u32);
        let beside: Vec<u32> = beside.filter(answerable).collect();
        let right = allowed.as_ref().map_or(flat.len(), Allowed::count);
        let inside = right - beside.len();
        let nodes = graph.rows.len();
        let k = request.k.min(right);
        let deep = plan::depth(k, inside, nodes);
        let width = self.width(graph, deep, recall).min(nodes);
        let reach = adaptive(flat.metric, width, deep);
        let count = request.queries.len() / flat.dimension;
        if inside == 0 || !plan::walk_is_faster(width, right, flat.dimension, count) {
            return flat.search_allowed(allowed.as_ref(), request);
        }
        let wanted = looked_at(k, self.width(graph, k, recall)).min(inside);
        let plan = Plan { reach, wanted, allowed: allowed.as_ref(), beside: &beside, k };
        self.walks(graph, request, &plan)
    }

    fn walks(&self, graph: &Graph, request: &Request, plan: &Plan) -> Result<Answers> {
        let (flat, kernels) = (&self.flat, kernels());
        let count = request.queries.len() / flat.dimension;
        let threads = request.threads.min(count.div_ceil(QUERIES_PER_JOB)).max(1);
        let mut answers = Answers {
            ids: vec![-1; count * request.k],
            scores: vec![f32::NEG_INFINITY; count * request.k],
            threads,
            effort: plan.reach.width,
            expected: request.recall.unwrap_or(DEFAULT_RECALL),
            ..Answers::default()
        };
        let total = Mutex::new((Work::default(), Vec::new()));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let caller = std::thread::current().id();
        let jobs = request.queries.chunks(flat.dimension * QUERIES_PER_JOB);
        let jobs = jobs.zip(answers.ids.chunks_mut(request.k * QUERIES_PER_JOB));
        let jobs = jobs.zip(answers.scores.chunks_mut(request.k * QUERIES_PER_JOB)).enumerate();
        each_job(
            threads,
            jobs,
            || (),
            |(), (job, ((queries, ids), scores))| {
                if count > QUERIES_PER_JOB && std::thread::current().id() == caller && job % 64 == 63 {
                    stop.fetch_or((request.interrupt)(), Ordering::Relaxed);
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut bench = self.benches.lock().ok().and_then(|mut benches| benches.pop()).unwrap_or_default();
                let (mut sum, mut starved) = (Work::default(), Vec::new());
                let answers = ids.chunks_mut(request.k).zip(scores.chunks_mut(request.k));
                for (i, (query, (ids, scores))) in queries.chunks(flat.dimension).zip(answers).enumerate() {
                    let (best, work) = self.walk(kernels, graph, query, plan, &mut bench);
                    for (ranked, (id, score)) in best.iter().zip(ids.iter_mut().zip(scores)) {
                        (*id, *score) = (flat.ids.of(ranked.row), flat.metric.score(ranked.rank));
                    }
                    if work.starved {
                        starved.push(job * QUERIES_PER_JOB + i);
                    }
                    sum.add(&work);
                }
                if let Ok(mut benches) = self.benches.lock() {
                    benches.push(bench);
                }
                let mut total = total.lock().expect("nobody panics with it");
                total.0.add(&sum);
                total.1.extend(starved);
            },
        );
        if stop.into_inner() {
            return Err(Error::Interrupted);
        }
        let (work, mut starved) = total.into_inner().expect("nobody panics with it");
        let long = quantize::lines(flat.dimension) * 64;
        answers.rows_scanned = work.scored + work.scanned;
        answers.rows_reread = work.read;
        answers.hops = work.hops;
        answers.bytes_read = work.scored * graph.guide.lines * 64
            + work.hops * graph.level.width * 64
            + (work.scanned + work.looked) * long
            + work.read * flat.dimension * 4;
        starved.sort_unstable();
        flat.rescue(request, plan.allowed, &starved, &mut answers)?;
        Ok(answers)
    }
}

/// Standard errors by which the recall of the held-out rows must exceed a target: they are a sample.
const CAUTION: f64 = 0.5;

/// Queries that one thread takes at a time.
const QUERIES_PER_JOB: usize = 8;

/// Puts rows in a random order, the same at every build.
pub(crate) fn shuffle(rows: &mut [u32]) {
    let mut state = 0x6E65_6172_u64;
    for i in (1..rows.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        rows.swap(i, (((state >> 33) * (i as u64 + 1)) >> 31) as usize);
    }
}

/// Counts of what a walk did.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    scored: usize,
    hops: usize,
    scanned: usize,
    looked: usize,
    read: usize,
    starved: bool,
}

impl Work {
    fn add(&mut self, other: &Work) {
        self.scored += other.scored;
        self.hops += other.hops;
        self.scanned += other.scanned;
        self.looked += other.looked;
        self.read += other.read;
    }
}
