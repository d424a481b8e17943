//! Approximate search by walking through a graph of neighbours, at a recall the caller states.
//!
//! The graph is that of HNSW (Malkov and Yashunin, 2018) with two levels: of many nodes the first, which are random ones, are
//! linked among each other too. Instead of further levels a table of the very first is the way in: it is read as it lies. A
//! walk reads guide codes of the leading principal directions, 2 or 4 bits each, most often one cache line a row
//! (`nearfield_kernels::guide`). The nearest rows it finds are read in full, so the scores are the exact ones and only rows
//! can be missing.
//!
//! How wide a walk must be for a given recall is measured when the graph is built: on rows that are not yet in it,
//! against the exact answer. Rows added later are scanned exactly beside the walk until they are linked: see
//! [`crate::hnsw_change`].

use std::ops::AddAssign;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nearfield_kernels::guide::{Guide, GuideCodes, GuideScratch, Planes};
use nearfield_kernels::quantize::{self, QueryCode};
use nearfield_kernels::{Kernels, Line, Metric, kernels, pages, prefetch};

use crate::allow::Among;
use crate::batch::{Benches, each_query};
use crate::filtered::Swept;
use crate::flat::{Answers, Batch, Flat, Request};
use crate::hnsw_build::{DEGREE, Points};
use crate::hnsw_change::{Change, rearrange};
use crate::hnsw_widths::Widths;
use crate::refine::{self, Full};
use crate::scan::{self, Candidate};
use crate::walk::{Level, Lie, NONE, Reach, Sieve, Walker, adaptive, leading};
use crate::{Result, plan};

/// Fewer rows than this are answered exactly: a graph would not be faster.
pub(crate) const FEWEST: usize = 1024;

/// Rows that are held out of the graph while its recall is measured.
const HELD_OUT: usize = 1024;

/// Where one row of fewer than these is held out, how well they are linked afterwards makes a difference.
const LATE_SHARE: usize = 32;

/// The recall where the caller does not say.
pub const DEFAULT_RECALL: f64 = 0.95;

/// Rows that the directions of guide codes are found on.
const SAMPLE: usize = 16_384;

/// What stands beside the exact index. `rows` tells the rows of nodes, the first of which, where walks begin, stand in a random
/// order; when the graph is built the others stand beside their neighbours.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    /// Row of each node; NONE where it was removed before the graph was written to a file.
    pub rows: Vec<u32>,
    pub guide: Guide,
    /// Shared with copies, as the links.
    pub codes: Arc<GuideCodes>,
    pub level: Arc<Level>,
    /// Nodes that have neighbours: the first ones.
    pub linked: usize,
    /// Width of a walk for each number of answers and recall.
    pub widths: Widths,
    /// How far from the nearest node rows lie that are not in it.
    pub lie: Lie,
    /// Rows there were; later ones are not in the graph.
    pub covered: usize,
    /// Rows among them that are not in it: too large to be coded.
    pub outside: Vec<u32>,
    /// Nodes whose rows were removed.
    pub dead: usize,
    /// What has happened to it since it was built.
    pub change: Change,
    /// Node of each row, once a filter has asked for it.
    pub places: OnceLock<Vec<u32>>,
}

/// An index of float32 vectors that answers approximately and fast.
#[derive(Debug)]
pub struct Hnsw {
    pub(crate) flat: Flat,
    pub(crate) graph: Option<Graph>,
    /// Rows from which on there is a graph.
    pub(crate) fewest: usize,
    benches: Benches<Bench>,
}

/// Scratch space of one search.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    pub(crate) walker: Walker,
    pub(crate) guide: GuideScratch,
    /// Guide keys and nodes.
    nearest: Vec<(f32, u32)>,
}

/// A walk's part of an answer.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub reach: Reach,
    /// By which nodes a walk ends, where not by all, and when it gives up.
    pub sieve: Option<Sieve<'a>>,
    /// Of the nearest nodes so many are known well, where all are walked for those that may be answered: the answers must
    /// be among them.
    pub known: usize,
    pub timed: bool,
    /// Candidates wanted for a second look.
    pub wanted: usize,
    /// See [`margin`].
    pub margin: f32,
    /// Rows that may be answered.
    pub allowed: Option<Among<'a>>,
    /// Their nodes, where all of these are looked at instead of walking.
    pub swept: Option<&'a Swept<'a>>,
    /// Rows to be scanned beside the walk.
    pub beside: &'a [u32],
    /// Rows in the graph that may be answered.
    pub inside: usize,
    pub k: usize,
}

/// Of so many of the nearest keys the last is trusted, however few answers are wanted: the least of many keys is the one
/// that flatters its row most.
const TRUSTED: usize = 4;

impl Plan<'_> {
    /// A walk among all rows, so many of which are in the graph, for `k` answers; one of this width reaches their recall.
    pub fn new(dimension: usize, reach: Reach, (k, width): (usize, usize), inside: usize) -> Self {
        Self {
            reach,
            sieve: None,
            known: usize::MAX,
            timed: false,
            wanted: looked_at(k, width).min(inside),
            margin: margin(width, dimension),
            allowed: None,
            swept: None,
            beside: &[],
            inside,
            k,
        }
    }

    /// The place of the key that others are measured by.
    pub fn kth(&self) -> usize {
        self.k.max(TRUSTED) - 1
    }
}

/// Nodes that a walk has found, which are looked up in a filter at once.
const SOON: usize = 64;

/// Candidates of a walk of this width that may get a second look, for `k` answers.
fn looked_at(k: usize, width: usize) -> usize {
    (4 * width).min(8 * k + width / 4).max(k)
}

/// How far behind the k-th a candidate is still read in full, in units of the guide keys' usual error: farther where reading
/// it costs little.
fn margin(width: usize, dimension: usize) -> f32 {
    (0.8 + 64.0 / dimension as f32 + width as f32 / 256.0).min(4.0)
}

impl Hnsw {
    /// An empty index.
    pub fn new(dimension: usize, metric: Metric) -> Result<Self> {
        Ok(Self::of(Flat::new(dimension, metric)?))
    }

    pub(crate) fn of(flat: Flat) -> Self {
        Self { flat, graph: None, fewest: FEWEST, benches: Benches::default() }
    }

    /// As it is now: a copy that shares what is large.
    pub(crate) fn frozen(&self) -> Self {
        let (flat, graph) = (self.flat.clone(), self.graph.clone());
        Self { flat, graph, fewest: self.fewest, benches: Benches::default() }
    }

    /// The vectors, and exact answers from them.
    pub fn exact(&self) -> &Flat {
        &self.flat
    }

    /// Bytes held beside the exact index.
    pub fn bytes(&self) -> usize {
        self.graph.as_ref().map_or(0, |graph| {
            let links = size_of_val(graph.level.links.as_slice()) + size_of_val(graph.level.upper.as_slice());
            let codes = graph.codes.arrays().map(|codes| size_of_val(codes.as_slice()));
            let places = graph.places.get().map_or(0, |places| size_of_val(places.as_slice()));
            links + codes.iter().sum::<usize>() + size_of_val(graph.rows.as_slice()) + places
        })
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

    /// Adds vectors, as [`Flat::add`]. They are scanned beside the graph until there are enough to be linked at once.
    pub fn add(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        let added = self.flat.add(vectors, ids, threads)?;
        self.fold(threads);
        Ok(added)
    }

    /// As `add`, but leaves the graph as it is.
    pub fn append(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        self.flat.add(vectors, ids, threads)
    }

    /// Whether a graph is missing, or many rows are missing in it.
    pub fn due(&self) -> bool {
        match &self.graph {
            None => self.flat.len() >= self.fewest,
            Some(graph) => self.flat.ids.rows() - graph.covered > 4 * FEWEST + graph.rows.len() / 16,
        }
    }

    /// What distances between the rows of these nodes are made of.
    pub(crate) fn points(&self, rows: &[u32], threads: usize) -> Points<'_> {
        let flat = &self.flat;
        let norm = |row: &u32| match *row {
            NONE => 0.0,
            row => {
                let row = flat.vectors.row(row as usize).iter();
                row.map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() * flat.frame.sigma()
            }
        };
        let norms: Option<Vec<f64>> = (flat.metric == Metric::Dot).then(|| rows.iter().map(norm).collect());
        let codes = (&flat.codes[..], &flat.factors[..], quantize::lines(flat.dimension));
        Points::new(kernels(), threads, rows.to_vec(), codes, norms.as_deref())
    }

    pub(crate) fn build(&self, threads: usize) -> Option<Graph> {
        let (flat, kernels) = (&self.flat, kernels());
        let lines = quantize::lines(flat.dimension);
        let coded = |row: &u32| self.is_coded(*row);
        let live = (0..flat.ids.rows() as u32).filter(|row| flat.ids.is_live(*row as usize));
        let (mut rows, outside): (Vec<u32>, Vec<u32>) = live.partition(coded);
        if rows.len() < FEWEST {
            return None;
        }
        shuffle(&mut rows);
        let mut points = self.points(&rows, threads);
        let is_zero = |row: u32| flat.norms.get(row as usize).is_some_and(|norm| *norm == 0.0);
        let sources = points.sources(flat.metric, flat.frame.sigma() as f32, is_zero);
        let sampled = &rows[..rows.len().min(SAMPLE)]; // rows are in a random order
        let code = |row: &u32| &flat.codes[*row as usize * lines..(*row as usize + 1) * lines];
        let sampled: Vec<Line> = sampled.iter().flat_map(code).copied().collect();
        let guide = Guide::fit(kernels, &flat.frame, flat.dimension, &sampled, &sources);
        let codes = points.guide(&guide, &sources);

        let held_out = HELD_OUT.min(rows.len() / 8);
        let nodes = rows.len() - held_out;
        let mut level = Level::new(rows.len(), DEGREE);
        level.resize(nodes); // there is room for the others later
        points.insert(&guide, &codes, &mut level, 1, nodes, false);
        let mut order = level.side_by_side(leading(rows.len()).min(nodes));
        order.extend(nodes as u32..rows.len() as u32);
        level.resize(rows.len());
        let covered = flat.ids.rows();
        let change = Change::since(rows.len(), &guide, &codes);
        let (linked, places) = (nodes, OnceLock::new());
        let mut of_nodes = pages::filled(rows.len(), NONE);
        of_nodes.copy_from_slice(&rows);
        let mut graph = Graph {
            rows: of_nodes,
            guide,
            codes: Arc::new(codes),
            level: Arc::new(level),
            linked,
            widths: Widths::default(),
            lie: Lie::default(),
            covered,
            outside,
            dead: 0,
            change,
            places,
        };
        let none = graph.guide.room(0);
        rearrange(&mut graph, &mut points, &order, &none, threads);
        let Graph { guide, codes, level, .. } = &mut graph;
        let level = Arc::make_mut(level);
        level.resize(nodes);
        points.insert(guide, codes, level, 0, nodes, true);
        points.connect(guide, codes, level);
        points.raise(guide, codes, level, Vec::new());
        points.lead(guide, codes, level, &(0..nodes as u32).collect::<Vec<_>>());
        self.calibrate(&mut graph, &rows[..nodes], &rows[nodes..], threads);
        let Graph { guide, codes, level, linked, .. } = &mut graph;
        let level = Arc::make_mut(level);
        level.resize(rows.len());
        points.insert(guide, codes, level, nodes, rows.len(), false);
        if held_out * LATE_SHARE > rows.len() {
            points.insert(guide, codes, level, nodes, rows.len(), true);
        }
        points.connect(guide, codes, level);
        *linked = rows.len();
        Some(graph)
    }

    /// Walks for one query; the best rows, and how many were read in full.
    pub(crate) fn walk(
        &self,
        kernels: &'static Kernels,
        graph: &Graph,
        query: &[f32],
        plan: &Plan,
        bench: &mut Bench,
    ) -> (Vec<refine::Ranked>, Work) {
        let flat = &self.flat;
        let mut clock = Clock::new(plan.timed);
        let norm = (kernels.dot_exact)(query, query).sqrt();
        graph.guide.encode_query(kernels, flat.metric, query, norm, &mut bench.guide);
        let walker = &mut bench.walker;
        let mut view = graph.level.led((&graph.codes.coarse, graph.guide.lines), graph.linked);
        view.sieve = plan.sieve;
        clock.stop(0);
        let query_code = &bench.guide.query;
        let mut told = match plan.swept {
            Some(swept) => swept.sweep(kernels, walker, &view, query_code, plan, graph.guide.errors[0]),
            None => {
                let reach = Reach { keep: plan.margin * graph.guide.errors[0], ..plan.reach };
                (kernels.walk)(walker, &view, query_code, reach);
                !walker.starved
            }
        };
        clock.stop(1);
        bench.nearest.clear();
        // The rows of nodes are not looked up where all may be answered: each would be a cache line.
        if plan.allowed.is_none() && graph.dead == 0 {
            bench.nearest.extend(walker.keyed().take(plan.wanted));
        } else {
            let known = self.keep_answerable(graph, plan, bench);
            told &= plan.known == usize::MAX || known >= plan.k;
        }
        // Where the pool holds rows that may not be answered, there must be as many others in it as usual.
        let is_sure = plan.allowed.is_none() || plan.swept.is_some() || plan.known < usize::MAX;
        let least = match is_sure || plan.reach.depth <= plan.reach.width {
            true => plan.k,
            false => plan.wanted.min(plan.k + plan.k / 2 + 8),
        };
        let starved = !told || bench.nearest.len() < least.min(plan.inside);
        let mut work = Work { starved, scored: bench.walker.scored, hops: bench.walker.hops, ..Work::default() };
        if starved && plan.allowed.is_some() {
            work.stages = clock.stages;
            return (Vec::new(), work);
        }
        work.looked = self.sharpen(kernels, graph, plan, bench);
        let full = Full { metric: flat.metric, vectors: &flat.vectors, norms: &flat.norms };
        let found: Vec<u32> = bench.nearest.iter().map(|(_, node)| graph.rows[*node as usize]).collect();
        let beside = (!plan.beside.is_empty()).then(|| {
            let code = flat.frame.encode_query(query, norm);
            work.scanned = plan.beside.len();
            (self.beside(kernels, plan, &code), code)
        });
        let (best, read) = refine::walked(kernels, &full, (query, norm), &found, beside.as_ref(), plan.k);
        work.read = read;
        clock.stop(2);
        work.stages = clock.stages;
        (best, work)
    }

    /// Takes what may be answered of the nodes a walk has found, as far as it may be among the nearest k of these; returns how
    /// many of the nodes that are well known.
    fn keep_answerable(&self, graph: &Graph, plan: &Plan, bench: &mut Bench) -> usize {
        let row_of = |node: u32| Some(graph.rows[node as usize]).filter(|row| *row != NONE);
        let (walker, nearest, query) = (&bench.walker, &mut bench.nearest, &bench.guide.query);
        if let Some(allowed) = plan.allowed {
            let soon = || walker.nodes().take(SOON);
            soon().for_each(|node| prefetch(&graph.rows, node as usize));
            soon().filter_map(row_of).for_each(|row| allowed.fetch(row));
        }
        let (mut known, mut most) = (0, f32::INFINITY);
        for (place, (key, node)) in walker.keyed().enumerate() {
            if nearest.len() == plan.wanted || key > most {
                break;
            }
            let may_be_answered = |row: u32| match plan.allowed {
                Some(allowed) => allowed.holds(row),
                None => self.flat.ids.is_live(row as usize),
            };
            if row_of(node).is_some_and(may_be_answered) {
                nearest.push((key, node));
                known += usize::from(place < plan.known);
                let behind = query.behind(key, plan.margin * graph.guide.errors[0]);
                if nearest.len() == plan.kth() + 1 && behind.is_finite() {
                    most = behind;
                }
            }
        }
        known
    }

    /// Leaves those of the nodes a walk has found that are likely to be among the nearest k, by all that is known of them.
    fn sharpen(&self, kernels: &Kernels, graph: &Graph, plan: &Plan, bench: &mut Bench) -> usize {
        let (guide, query) = (&graph.guide, &bench.guide.query);
        // Where keys are no distances, nobody knows what they may be off by: more for rows of large norm, the likely answers.
        let otherwise = plan.k + plan.k / 2 + 8 + plan.reach.width / 8;
        let most = |kth: f32, error: f32| {
            let most = query.behind(kth, plan.margin * error);
            most.is_finite().then_some(most)
        };
        let nearest = &mut bench.nearest;
        let halves = guide.planes == Planes::Four;
        let by_key = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let thin = |nearest: &mut Vec<(f32, u32)>, error: f32| {
            if plan.kth() >= nearest.len() {
                return;
            }
            let (_, &mut (kth, _), _) = nearest.select_nth_unstable_by(plan.kth(), by_key);
            match most(kth, error) {
                Some(most) => nearest.retain(|(key, _)| *key <= most),
                None if otherwise < nearest.len() => {
                    nearest.select_nth_unstable_by(otherwise, by_key);
                    nearest.truncate(otherwise);
                }
                None => {}
            }
        };
        if let Some(&(kth, _)) = nearest.get(plan.kth()) {
            nearest.truncate(match most(kth, guide.errors[0]) {
                Some(most) => nearest.partition_point(|(key, _)| *key <= most),
                None => otherwise * if halves || guide.rest.is_some() { 3 } else { 1 },
            });
        }
        let looked = nearest.len();
        let fetch = |nearest: &[(f32, u32)], codes: &[Line], lines: usize| {
            for (_, node) in nearest {
                (0..lines).for_each(|line| prefetch(codes, *node as usize * lines + line));
            }
        };
        if halves {
            fetch(nearest, &graph.codes.fine, guide.lines);
        }
        if let Some(rest) = guide.rest.as_ref().filter(|_| !halves) {
            fetch(nearest, &graph.codes.rest, rest.lines);
        }
        for (_, node) in &*nearest {
            prefetch(&graph.rows, *node as usize);
        }
        if halves {
            guide.fine_keys(kernels, &graph.codes, nearest, query);
            thin(nearest, guide.errors[1]);
        }
        if let Some(rest) = &guide.rest {
            if halves {
                fetch(nearest, &graph.codes.rest, rest.lines);
            }
            bench.guide.rest.sharpen(kernels, rest, &graph.codes.rest, nearest);
            thin(nearest, rest.error);
        }
        looked
    }

    /// Candidates among the rows that are not in the graph.
    fn beside(&self, kernels: &Kernels, plan: &Plan, code: &QueryCode) -> Vec<Candidate> {
        let rows = self.flat.rows(Some(plan.beside));
        let found = scan::candidates(kernels, &rows, std::slice::from_ref(code), plan.k, 1, || false);
        found.expect("nothing interrupts it").swap_remove(0)
    }

    /// The best k rows of every query.
    pub fn search(&self, request: &Request) -> Result<Answers> {
        let flat = &self.flat;
        let recall = request.recall.unwrap_or(DEFAULT_RECALL);
        let Some(graph) = self.graph.as_ref().filter(|_| recall < 1.0) else {
            return flat.search(request);
        };
        if let Some(allow) = request.allow {
            return self.search_filtered(graph, request, allow);
        }
        let beside = self.beside_graph(graph, |row| flat.ids.is_live(row as usize));
        let (inside, nodes) = (flat.len() - beside.len(), graph.rows.len());
        let k = request.k.min(flat.len());
        let deep = plan::depth(k, inside, nodes)[1];
        let width = self.width(graph, deep, recall).min(nodes);
        let count = request.count(flat.dimension);
        let reach = adaptive(flat.metric, width, deep, graph.lie);
        if inside == 0 || plan::walk(width, reach.depth) > plan::scan(flat.len(), true, flat.dimension, count) {
            return flat.search_allowed(None, request);
        }
        let shallow = self.width(graph, k, recall);
        let plan = Plan::new(flat.dimension, reach, (k, shallow), inside);
        let plan = Plan { timed: request.timed, beside: &beside, ..plan };
        let (mut answers, starved) = self.walks(graph, request, &plan)?;
        answers.expected = recall;
        flat.rescue(request, &starved, &mut answers, |request| flat.search_allowed(None, request))?;
        Ok(answers)
    }

    /// Rows that are not in the graph and may be answered.
    pub(crate) fn beside_graph(&self, graph: &Graph, answerable: impl Fn(u32) -> bool) -> Vec<u32> {
        let later = graph.covered as u32..self.flat.ids.rows() as u32;
        graph.outside.iter().copied().chain(later).filter(|row| answerable(*row)).collect()
    }

    /// Answers to all queries, and the places of those that found too little.
    pub(crate) fn walks(&self, graph: &Graph, request: &Request, plan: &Plan) -> Result<(Answers, Vec<usize>)> {
        let (flat, kernels) = (&self.flat, kernels());
        let plan_name = if plan.swept.is_some() { "sweep" } else { "walk" };
        let mut answers = Answers { effort: plan.reach.width, plan: plan_name, ..Answers::default() };
        let (work, starved) = each_query(flat, request, &mut answers, &self.benches, |query, bench| {
            let (best, work) = self.walk(kernels, graph, query, plan, bench);
            (best, work, work.starved)
        })?;
        let long = quantize::lines(flat.dimension) * 64;
        let [_, fine, rest] = graph.guide.array_lines();
        answers.rows_scanned = work.scored + work.scanned;
        answers.rows_reread = work.read;
        answers.hops = work.hops;
        answers.stages = work.stages;
        answers.bytes_read = work.scored * graph.guide.lines * 64
            + work.hops * graph.level.width * 64
            + work.scanned * long
            + work.looked * (fine + rest) * 64
            + work.read * flat.dimension * 4;
        Ok((answers, starved))
    }
}

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
pub(crate) struct Work {
    scored: usize,
    hops: usize,
    scanned: usize,
    looked: usize,
    read: usize,
    starved: bool,
    stages: [u64; 3],
}

/// Nanoseconds of the stages of a walk, where they are asked for.
#[derive(Debug)]
struct Clock {
    last: Option<Instant>,
    stages: [u64; 3],
}

impl Clock {
    fn new(wanted: bool) -> Self {
        Self { last: wanted.then(Instant::now), stages: [0; 3] }
    }

    /// Ends a stage.
    fn stop(&mut self, stage: usize) {
        if let Some(last) = &mut self.last {
            let now = Instant::now();
            self.stages[stage] += now.duration_since(*last).as_nanos() as u64;
            *last = now;
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.scored += other.scored;
        self.hops += other.hops;
        self.scanned += other.scanned;
        self.looked += other.looked;
        self.read += other.read;
        self.stages.iter_mut().zip(other.stages).for_each(|(sum, stage)| *sum += stage);
    }
}
