//! Building the graph: in batches, in parallel, and the same for every number of threads.
//!
//! Batches double in size (Manohar et al., "ParlayANN: Scalable and Deterministic Parallel Graph-Based Approximate
//! Nearest Neighbor Search Algorithms", 2024). Every point of a batch walks the same frozen graph, chooses its
//! neighbours among what it found, and is then offered to them as a neighbour, target by target in a sorted order. A
//! second pass over all points links the early ones, which saw little of the graph, to those that came after.
//!
//! A neighbour is chosen if no chosen one is nearer to it than the point itself: the rule of relative neighbourhood
//! graphs (Toussaint, 1980), as in HNSW's heuristic, on distances of the 8-bit codes. The second time the first few are
//! chosen even if one is nearer by a little, as Vamana does with all (Subramanya et al., "DiskANN: Fast Accurate
//! Billion-point Nearest Neighbor Search on a Single Node", 2019): walks need fewer steps. A neighbour chosen so keeps
//! nobody away who lies twice as far or more, so the far neighbours that lead from one cluster to the next stay. For the
//! dot product half of the neighbours are chosen by their products instead: what has a large product with a point that
//! has one with the query is likely to have one too (Morozov and Babenko, "Non-metric Similarity Graphs for Maximum
//! Inner Product Search", 2018).
//!
//! Last, points that searches do not find become neighbours of where these end ([`Points::lead`]).

use nearfield_kernels::guide::{Guide, GuideCodes, GuideQuery, Source, ordered, unordered};
use nearfield_kernels::{BLOCK, Factors, Kernels, Line, Metric, prefetch};

use crate::pool::each_job;
use crate::walk::{self, Level, Links, NONE, Reach, Walker, above};

/// Neighbours a node has at the most.
pub(crate) const DEGREE: usize = 32;

/// The same, when it is linked for the second time. What is there beyond that is for those who come later.
const SETTLED: usize = 30;

/// So many of these may be nearer to one another by a little than to the node.
const LENIENT: usize = 16;

/// How much nearer, as a ratio of squared distances.
const SLACK: f32 = 1.1;

/// What lies so many times as far from the node as a neighbour that is shadowed is not kept away by it (squared distances).
const FAR: f32 = 2.0;

/// Nodes that are linked the second time without seeing each other's new neighbours.
const AT_ONCE: usize = 1 << 18;

/// A node that has lost some but keeps so many gets no others at once: points linked later offer themselves. About as many as
/// nodes have on an average, of which more would be far ones that no nearer one takes the place of.
const KEPT: usize = 18;

/// Nodes that a point looks at for neighbours.
const WIDTH: usize = 80;

/// Nodes in the pool of a walk that is to find a node it does not begin at.
const NARROW: usize = 16;

/// Neighbours that a node where such walks end gets at a time, at the most.
const LED: usize = 4;

/// One node that is not found among so many is no reason to look for others.
const RARE: usize = 512;

/// One of so many is asked for first.
const ASKED_FIRST: usize = 16;

/// Points of a batch that one thread takes at a time.
const PER_JOB: usize = 8;

/// Parts of a graph that are offered new neighbours one by one.
const PARTS: usize = 256;

/// For the dot product one of so many points is a hub: those of the largest norms are neighbours of many, and most walks
/// go through them.
const HUB_SHARE: usize = 8;

/// How much larger than usual the norm of a hub is at the least.
const HUB_NORM: f64 = 1.02;

/// Points to link, in the order of their nodes: what distances between them are made of.
pub(crate) struct Points<'a> {
    pub kernels: &'static Kernels,
    pub threads: usize,
    points: Vec<Point>,
    /// 8-bit codes by row.
    codes: &'a [Line],
    lines: usize,
    /// For the dot product, a point's share of its products that its code about the mean does not tell; otherwise empty.
    shares: Vec<f32>,
    /// Points less high than this are hubs, of which there are none but for the dot product.
    low: f32,
}

/// What a distance to a point is made of. All of it stands in one cache line.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Point {
    /// NONE where it is gone.
    row: u32,
    /// Of its 8-bit code.
    scale: f32,
    /// Squared norm of `scale * code`.
    square: f32,
    /// For the dot product, a further coordinate that brings all points to the same norm; otherwise zero.
    height: f32,
}

/// What makes one neighbour better than another.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Distance,
    Product,
}

/// How nodes are linked.
#[derive(Clone, Copy)]
struct Pass {
    /// For the second time, or for the first to a whole graph: some neighbours may shadow each other.
    again: bool,
    /// To a graph that is there already and is offered a few.
    settled: bool,
    /// Neighbours a node has at the most that is offered others.
    full: usize,
}

/// A node that may become a neighbour of another: `distance << 32 | node`, the distance as by [`ordered`].
#[derive(Clone, Copy)]
struct Candidate {
    key: u64,
    point: Point,
    share: f32,
    /// Whether a neighbour that may keep it away is nearer to it than the node.
    shadowed: bool,
}

impl Candidate {
    /// The distance of two.
    #[inline(always)]
    fn distance(&self, by: By, other: &Self, dot: i32) -> f32 {
        let (a, b) = (&self.point, &other.point);
        let product = a.scale * b.scale * dot as f32;
        match by {
            By::Product => -(product + self.share + other.share),
            By::Distance => {
                (a.square + b.square - 2.0 * product).max(0.0) + (a.height - b.height) * (a.height - b.height)
            }
        }
    }
}

/// Scratch space of one thread.
#[derive(Default)]
struct Bench {
    walker: Walker,
    query: GuideQuery,
    signed: Vec<Line>,
    dots: Vec<i32>,
    listed: Vec<u32>,
    candidates: Vec<Candidate>,
    /// Their rows.
    rows: Vec<u32>,
    chosen: Vec<u32>,
    /// As in [`Pass`].
    again: bool,
}

fn signed(codes: &[Line], into: &mut Vec<Line>) {
    into.clear();
    into.extend(codes.iter().map(|line| Line(line.0.map(|code| code ^ 128))));
}

/// The norm beyond which a point with one of these norms is a hub; infinite where they are all about the same.
fn hub_norm(mut norms: Vec<f64>) -> f64 {
    let place = norms.len() - norms.len().div_ceil(HUB_SHARE);
    if place == 0 {
        return f64::INFINITY;
    }
    let (others, &mut large, _) = norms.select_nth_unstable_by(place, f64::total_cmp);
    let (_, &mut usual, _) = others.select_nth_unstable_by(place / 2, f64::total_cmp);
    if large > HUB_NORM * usual { large } else { f64::INFINITY }
}

impl<'a> Points<'a> {
    /// Points at these rows. `norms` of the rows (in the frame's units) are needed for the dot product alone: there,
    /// a point gets one more coordinate, sqrt(M² - |x|²) with M the largest norm, and no product with a query changes
    /// (Bachrach et al., "Speeding Up the Xbox Recommender System Using a Euclidean Transformation for Inner-Product
    /// Spaces", 2014). Neighbours by Euclidean distance then are neighbours for inner products.
    pub fn new(
        kernels: &'static Kernels,
        threads: usize,
        rows: Vec<u32>,
        (codes, factors, lines): (&'a [Line], &[Factors], usize),
        norms: Option<&[f64]>,
    ) -> Self {
        let mut points = vec![Point { row: NONE, scale: 0.0, square: 0.0, height: 0.0 }; rows.len()];
        let jobs = points.chunks_mut(1024).zip(rows.chunks(1024));
        each_job(threads, jobs, Vec::new, |query, (points, rows)| {
            for (point, &row) in points.iter_mut().zip(rows).filter(|(_, row)| **row != NONE) {
                let code = &codes[row as usize * lines..][..lines];
                signed(code, query);
                let scale = factors[row as usize / BLOCK].scale[row as usize % BLOCK];
                let square = scale * scale * (kernels.dot_codes)(code, query) as f32;
                *point = Point { row, scale, square, height: 0.0 };
            }
        });
        let (mut shares, mut low) = (Vec::new(), 0.0);
        if let Some(norms) = norms {
            let most = norms.iter().fold(0.0f64, |a, x| a.max(*x));
            for (point, norm) in points.iter_mut().zip(norms) {
                point.height = (most * most - norm * norm).max(0.0).sqrt() as f32;
                // |x|² = |o|² + 2 <o, mean> + |mean|², and <x, y> = <o, p> + <o, mean> + <p, mean> + |mean|².
                shares.push(((norm * norm - f64::from(point.square)) / 2.0) as f32);
            }
            let there = points.iter().zip(norms).filter(|(point, _)| point.row != NONE);
            let hub = hub_norm(there.map(|(_, norm)| *norm).collect());
            low = (most * most - hub * hub).max(0.0).sqrt() as f32;
        }
        Self { kernels, threads, points, codes, lines, shares, low }
    }

    /// Puts point `at[place]` at each place.
    pub fn rearrange(&mut self, at: &[u32]) {
        self.points = at.iter().map(|point| self.points[*point as usize]).collect();
        if !self.shares.is_empty() {
            self.shares = at.iter().map(|point| self.shares[*point as usize]).collect();
        }
    }

    /// Whether many nodes are likely to have this one as a neighbour.
    fn is_hub(&self, node: u32) -> bool {
        self.points[node as usize].height < self.low
    }

    /// Row of each node.
    pub fn rows(&self) -> impl Iterator<Item = u32> {
        self.points.iter().map(|point| point.row)
    }

    fn code(&self, node: u32) -> &'a [Line] {
        &self.codes[self.points[node as usize].row as usize * self.lines..][..self.lines]
    }

    fn candidate(&self, by: By, node: u32) -> Candidate {
        let share = if by == By::Product { self.shares[node as usize] } else { 0.0 };
        Candidate { key: u64::from(node), point: self.points[node as usize], share, shadowed: false }
    }

    /// Chooses at the most `degree` neighbours of a node among `bench.listed`, nearest first, into `bench.chosen`.
    fn choose(&self, node: u32, degree: usize, bench: &mut Bench) {
        bench.chosen.clear();
        if !self.shares.is_empty() {
            self.choose_by(By::Product, node, degree / 2, bench);
        }
        self.choose_more(node, degree, bench);
    }

    /// As `choose`, beside those that stand in `bench.chosen` already.
    fn choose_more(&self, node: u32, degree: usize, bench: &mut Bench) {
        self.choose_by(By::Distance, node, degree, bench);
    }

    fn choose_by(&self, by: By, node: u32, degree: usize, bench: &mut Bench) {
        bench.listed.iter().for_each(|other| prefetch(&self.points, *other as usize));
        bench.listed.sort_unstable();
        bench.listed.dedup();
        bench.listed.retain(|other| *other != node && !bench.chosen.contains(other));
        bench.rows.clear();
        for &other in &bench.listed {
            let row = self.points[other as usize].row;
            (0..self.lines).for_each(|line| prefetch(self.codes, row as usize * self.lines + line));
            bench.rows.push(row);
        }
        self.measure(node, bench);
        let own = self.candidate(by, node);
        bench.candidates.clear();
        for (&other, &dot) in bench.listed.iter().zip(&bench.dots) {
            let mut other = self.candidate(by, other);
            other.key |= u64::from(ordered(own.distance(by, &other, dot))) << 32;
            bench.candidates.push(other);
        }
        for i in 0..bench.chosen.len() {
            self.thin(by, &self.candidate(by, bench.chosen[i]), bench);
        }
        while bench.chosen.len() < degree
            && let Some((place, _)) = bench.candidates.iter().enumerate().min_by_key(|(_, other)| other.key)
        {
            let nearest = bench.candidates.swap_remove(place);
            bench.rows.swap_remove(place);
            bench.chosen.push(nearest.key as u32);
            if bench.chosen.len() < degree {
                self.thin(by, &nearest, bench);
            }
        }
    }

    /// Products of this node's code with those of `bench.rows`.
    fn measure(&self, node: u32, bench: &mut Bench) {
        signed(self.code(node), &mut bench.signed);
        bench.dots.resize(bench.rows.len(), 0);
        (self.kernels.dot_rows)(self.codes, &bench.rows, &bench.signed, &mut bench.dots);
    }

    /// Leaves those candidates that are not nearer to this chosen node than to the one whose neighbours are chosen.
    fn thin(&self, by: By, near: &Candidate, bench: &mut Bench) {
        self.measure(near.key as u32, bench);
        let lenient = bench.again && by == By::Distance && bench.chosen.len() < LENIENT;
        let far = if near.shadowed { ordered(FAR * unordered((near.key >> 32) as u32)) } else { u32::MAX };
        let mut left = 0;
        for i in 0..bench.candidates.len() {
            let mut other = bench.candidates[i]; // without a branch on what nobody could predict
            let (distance, from_node) = (near.distance(by, &other, bench.dots[i]), (other.key >> 32) as u32);
            let is_near = from_node < far;
            other.shadowed |= is_near & (ordered(distance) < from_node);
            (bench.candidates[left], bench.rows[left]) = (other, bench.rows[i]);
            let is_out = if lenient { is_near & (ordered(SLACK * distance) < from_node) } else { other.shadowed };
            left += usize::from(!is_out);
        }
        bench.candidates.truncate(left);
        bench.rows.truncate(left);
    }

    /// Guide codes of these points.
    pub fn guide(&self, guide: &Guide, sources: &[Source]) -> GuideCodes {
        const ROWS: usize = 1024;
        let mut codes = guide.room(self.points.len());
        let jobs = codes.chunks_mut(guide, ROWS).zip(sources.chunks(ROWS)).zip(self.points.chunks(ROWS));
        each_job(
            self.threads,
            jobs,
            || (),
            |(), ((into, sources), points)| {
                let row = |point: &Point| &self.codes[point.row as usize * self.lines..][..self.lines];
                let gathered: Vec<Line> = points.iter().flat_map(row).copied().collect();
                guide.encode(self.kernels, &gathered, sources, into);
            },
        );
        codes
    }

    /// What guide codes are made from.
    pub fn sources(&self, metric: Metric, sigma: f32, is_zero: impl Fn(u32) -> bool) -> Vec<Source> {
        let source = |point: &Point| {
            // A zero row has cosine 0 with everything: it stands as far off as a unit row at a right angle.
            let lift = if metric == Metric::Cosine && is_zero(point.row) { sigma * sigma / 2.0 } else { 0.0 };
            Source { scale: point.scale, bias: point.square / 2.0 + lift }
        };
        self.points.iter().map(source).collect()
    }

    /// Links nodes `from` to `to - 1` to those linked before (all of them, the `again` time).
    pub fn insert(&self, guide: &Guide, codes: &GuideCodes, level: &mut Level, from: usize, to: usize, again: bool) {
        let (settled, mut start) = (from > 1, from);
        if again {
            // Nodes that stand side by side are linked one after the other, and each time only some of these.
            let batches = (to - from).div_ceil(AT_ONCE);
            for first in from..from + batches {
                let nodes: Vec<u32> = (first as u32..to as u32).step_by(batches).collect();
                self.batch(guide, codes, level, &nodes, level.nodes, Pass { again, settled, full: SETTLED });
            }
            return;
        }
        while start < to {
            let count = start.min((level.nodes / 50).max(64)).min(to - start);
            let nodes: Vec<u32> = (start as u32..(start + count) as u32).collect();
            self.batch(guide, codes, level, &nodes, start, Pass { again, settled, full: DEGREE });
            start += count;
        }
    }

    /// Brings the upper level up to date, of whose nodes these have `changed`: they stand for other points than before. Nodes
    /// it has not had yet are new.
    pub fn raise(&self, guide: &Guide, codes: &GuideCodes, level: &mut Level, mut changed: Vec<bool>) {
        let (had, nodes) = (level.upper.len() / level.width, above(level.nodes));
        let (links, degree) = (std::mem::take(&mut level.upper), level.width * Links::WIDTH);
        let mut upper = Level { nodes: had, links, ..Level::new(0, degree) };
        changed.resize(had.max(nodes), true);
        (nodes..had).for_each(|node| changed[node] = true);
        let fresh: Vec<u32> = (0..nodes as u32).filter(|node| changed[*node as usize]).collect();
        if fresh.len() > nodes / 4 {
            upper = Level::new(nodes, degree);
            self.insert(guide, codes, &mut upper, 1, nodes, false);
            self.insert(guide, codes, &mut upper, 0, nodes, true);
        } else {
            self.mend(&mut upper, &changed);
            upper.resize(nodes);
            self.link(guide, codes, &mut upper, &fresh, nodes);
        }
        level.upper = upper.links;
    }

    /// Links these nodes to those linked before, of which walks begin among the first of `linked`: as for the second time,
    /// for there is a whole graph.
    pub fn link(&self, guide: &Guide, codes: &GuideCodes, level: &mut Level, nodes: &[u32], linked: usize) {
        let pass = Pass { again: true, settled: true, full: DEGREE };
        for nodes in nodes.chunks((linked / 50).max(64)) {
            self.batch(guide, codes, level, nodes, linked, pass);
        }
    }

    fn batch(&self, guide: &Guide, codes: &GuideCodes, level: &mut Level, nodes: &[u32], linked: usize, pass: Pass) {
        let Pass { again, settled, full } = pass;
        let mut lists = Level::new(nodes.len(), DEGREE);
        let width = level.width;
        let most = if again { SETTLED } else { DEGREE };
        {
            let bench = || Bench { again, ..Bench::default() };
            let level = &*level;
            let view = level.view((&codes.coarse, guide.lines), linked);
            let jobs = lists.links.chunks_mut(PER_JOB * width).zip(nodes.chunks(PER_JOB));
            each_job(self.threads, jobs, bench, |bench, (lists, nodes)| {
                for (list, &node) in lists.chunks_mut(width).zip(nodes) {
                    guide.row_as_query(codes, node as usize, &mut bench.query);
                    (self.kernels.walk)(&mut bench.walker, &view, &bench.query, Reach::wide(WIDTH));
                    bench.listed.clear();
                    bench.listed.extend(bench.walker.nodes());
                    if !self.shares.is_empty() {
                        bench.query.bias = 0.0; // what has a large product with the point
                        (self.kernels.walk)(&mut bench.walker, &view, &bench.query, Reach::wide(WIDTH));
                        bench.listed.extend(bench.walker.nodes());
                    }
                    if again {
                        bench.listed.extend(level.of(node));
                    }
                    self.choose(node, most, bench);
                    walk::set(list, &bench.chosen);
                }
            });
        }
        let mut offers = Vec::new();
        for (i, &node) in nodes.iter().enumerate() {
            level.list_mut(node).copy_from_slice(lists.list_mut(i as u32));
            offers.extend(lists.of(i as u32).map(|target| (target, node)));
        }
        self.offer(level, offers, again, |bench, target, list, offers| {
            bench.listed.clear();
            bench.listed.extend(walk::listed(list));
            let had = bench.listed.len();
            for &(_, offered) in offers {
                if !bench.listed[..had].contains(&offered) {
                    bench.listed.push(offered);
                }
            }
            // A hub is offered much that is of no use to walks, one by one: it takes what it would choose of that.
            let picks = settled && self.is_hub(target);
            if bench.listed.len() <= full && !picks {
                return walk::set(list, &bench.listed);
            }
            let mut others = if picks { bench.listed[..had].to_vec() } else { Vec::new() };
            self.choose(target, full, bench);
            others.retain(|node| !bench.chosen.contains(node));
            if bench.chosen.len() + others.len() <= full {
                bench.chosen.append(&mut others);
            }
            walk::set(list, &bench.chosen);
        });
    }

    /// Hands each node, with its list, what is offered to it: a node and another that may become its neighbour each.
    fn offer(
        &self,
        level: &mut Level,
        offers: Vec<(u32, u32)>,
        again: bool,
        take: impl Fn(&mut Bench, u32, &mut [Links], &[(u32, u32)]) + Sync,
    ) {
        // Each job takes the lists of some nodes that stand side by side, and what is offered to these.
        let (width, last) = (level.width, offers.iter().map(|(target, _)| *target).max().unwrap_or(0));
        let each = (last as usize + 1).div_ceil(PARTS).max(PER_JOB);
        let mut parts = vec![Vec::new(); PARTS];
        offers.into_iter().for_each(|offer| parts[offer.0 as usize / each].push(offer));
        let jobs = level.links.chunks_mut(each * width).zip(parts).enumerate();
        let bench = || Bench { again, ..Bench::default() };
        each_job(self.threads, jobs, bench, |bench, (part, (links, mut offers))| {
            offers.sort_unstable();
            for offers in offers.chunk_by(|a, b| a.0 == b.0) {
                let target = offers[0].0;
                take(bench, target, &mut links[(target as usize - part * each) * width..][..width], offers);
            }
        });
    }

    /// Makes these nodes neighbours of the ones where narrow walks end that were to find them and did not, so that rows like
    /// them are found too. Between clusters that lie far apart such ends are common: no neighbour there leads on. (Fixing
    /// reachability in Hua et al., "Dynamically Detect and Fix Hardness for Efficient Approximate Nearest Neighbor Search",
    /// 2025, of rows instead of queries of the past.) Returns how many were not found. Where that is rare among the few that
    /// are asked for first, the others are not asked for.
    pub fn lead(&self, guide: &Guide, codes: &GuideCodes, level: &mut Level, asked: &[u32]) -> usize {
        const NODES: usize = 1024;
        let mut missed = 0;
        for is_first in [true, false] {
            let these = (1..).zip(asked).filter(|(place, _)| (place % ASKED_FIRST == 0) == is_first);
            let asked: Vec<u32> = these.map(|(_, node)| *node).collect();
            let mut ends = vec![(0, Vec::new()); asked.len().div_ceil(NODES)];
            let view = level.led((&codes.coarse, guide.lines), level.nodes);
            let jobs = ends.iter_mut().zip(asked.chunks(NODES));
            each_job(self.threads, jobs, Bench::default, |bench, ((missed, ends), nodes)| {
                for &node in nodes {
                    guide.row_as_query(codes, node as usize, &mut bench.query);
                    (self.kernels.walk)(&mut bench.walker, &view, &bench.query, Reach::wide(NARROW));
                    if !bench.walker.nodes().any(|found| found == node) {
                        *missed += 1;
                        ends.extend(bench.walker.nodes().map(|end| (end, node)));
                    }
                }
            });
            let rarely = asked.len() / RARE;
            let lost = ends.iter().map(|(missed, _)| missed).sum::<usize>();
            missed += lost;
            let offers = ends.into_iter().flat_map(|(_, ends)| ends).collect();
            self.offer(level, offers, false, |bench, target, list, offers| {
                let mut listed: Vec<u32> = walk::listed(list).collect();
                if listed.len() == DEGREE {
                    return;
                }
                bench.listed.clear();
                bench.listed.extend(offers.iter().map(|(_, node)| *node).filter(|node| !listed.contains(node)));
                bench.chosen.clear();
                self.choose_more(target, LED.min(DEGREE - listed.len()), bench);
                listed.append(&mut bench.chosen);
                walk::set(list, &listed);
            });
            if lost <= rarely {
                break;
            }
        }
        missed
    }

    /// Takes nodes that are gone out of the lists of all others. Those who keep few neighbours choose others among the
    /// neighbours of the ones they lose (Singh et al., "FreshDiskANN: A Fast and Accurate Graph-Based ANN Index for
    /// Streaming Similarity Search", 2021). Returns those that are to be linked again: the ones left with the fewest, and hubs.
    pub fn mend(&self, level: &mut Level, gone: &[bool]) -> Vec<u32> {
        const NODES: usize = 4096;
        let mut changed = vec![Vec::new(); level.nodes.div_ceil(NODES)];
        let links = &*level;
        let bench = || Bench { again: true, ..Bench::default() };
        each_job(self.threads, changed.iter_mut().enumerate(), bench, |bench, (job, changed)| {
            for node in (job * NODES..links.nodes.min((job + 1) * NODES)).filter(|node| !gone[*node]) {
                if !links.of(node as u32).any(|other| gone[other as usize]) {
                    continue;
                }
                bench.listed.clear();
                bench.chosen.clear();
                for other in links.of(node as u32) {
                    match gone[other as usize] {
                        true => bench.listed.extend(links.of(other).filter(|next| !gone[*next as usize])),
                        false => bench.chosen.push(other),
                    }
                }
                if bench.chosen.len() < KEPT {
                    self.choose_more(node as u32, SETTLED, bench);
                }
                changed.push((node as u32, bench.chosen.clone()));
            }
        });
        let mut worn = Vec::new();
        for (node, list) in changed.into_iter().flatten() {
            level.set(node, &list);
            if list.len() < DEGREE / 4 || self.is_hub(node) {
                worn.push(node);
            }
        }
        (0..level.nodes as u32).filter(|node| gone[*node as usize]).for_each(|node| level.set(node, &[]));
        worn
    }

    /// Makes every node reachable from the first; returns how many were not.
    pub fn connect(&self, guide: &Guide, codes: &GuideCodes, level: &mut Level) -> usize {
        let nodes = level.nodes;
        let mut reached = vec![false; nodes];
        let mut waiting = vec![0u32];
        let mut bench = Bench::default();
        let mut repaired = 0;
        let mut unknown = 0;
        loop {
            while let Some(node) = waiting.pop() {
                if !std::mem::replace(&mut reached[node as usize], true) {
                    waiting.extend(level.of(node).filter(|neighbour| !reached[*neighbour as usize]));
                }
            }
            while unknown < nodes && reached[unknown] {
                unknown += 1;
            }
            if unknown == nodes {
                return repaired;
            }
            repaired += 1;
            // A reached node near it takes it in; where there is no room, in the place of its farthest neighbour,
            // which becomes a neighbour of the node taken in and so stays reachable.
            let lost = unknown as u32;
            guide.row_as_query(codes, unknown, &mut bench.query);
            let view = level.view((&codes.coarse, guide.lines), nodes);
            (self.kernels.walk)(&mut bench.walker, &view, &bench.query, Reach::wide(WIDTH));
            let near: Vec<u32> = bench.walker.nodes().filter(|node| reached[*node as usize]).collect();
            let room = near.iter().copied().find(|node| level.of(*node).count() < DEGREE);
            let host = room.or(near.first().copied()).unwrap_or(0);
            let mut list: Vec<u32> = level.of(host).collect();
            if list.len() == DEGREE {
                let mut own: Vec<u32> = level.of(lost).collect();
                own.truncate(DEGREE - 1);
                let moved = list.pop().filter(|moved| !own.contains(moved)); // a list names a node once
                own.extend(moved);
                level.set(lost, &own);
            }
            list.push(lost);
            level.set(host, &list);
            waiting.push(lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::flat::Flat;
    use crate::hnsw::Hnsw;
    use nearfield_kernels::kernels;
    use nearfield_kernels::project::Random;

    #[test]
    fn rows_that_no_neighbour_leads_to_are_found_and_so_are_others_near_them() {
        const ROWS: usize = 6000;
        const NEAR: usize = 120; // rows far from all others
        let mut random = Random::new(5);
        let rows: Vec<f32> =
            (0..ROWS * 24).map(|i| random.normal() + if i / 24 < NEAR && i % 24 == 0 { 12.0 } else { 0.0 }).collect();
        let mut flat = Flat::new(24, Metric::L2).unwrap();
        flat.add(&rows, None, 1).unwrap();
        let index = Hnsw::of(flat);
        let graph = index.build(1).unwrap();
        let is_near = |node: u32| (graph.rows[node as usize] as usize) < NEAR;
        let points = index.points(&graph.rows, 2);
        let mut level = Level { upper: Vec::new(), ..Level::clone(&graph.level) };
        for node in (0..ROWS as u32).filter(|node| !is_near(*node)) {
            let list: Vec<u32> = level.of(node).filter(|other| !is_near(*other)).collect();
            level.set(node, &list);
        }
        let cut = level.clone();
        let first = crate::walk::entries(ROWS) as u32; // walks may begin at these
        (0..first).filter(|node| is_near(*node)).for_each(|node| level.set(node, &[]));
        let nodes: Vec<u32> = (first..ROWS as u32).collect();
        let (led, other): (Vec<u32>, Vec<u32>) = nodes.iter().partition(|node| !is_near(**node) || *node % 2 == 0);
        let missed = |level: &mut Level, nodes: &[u32]| points.lead(&graph.guide, &graph.codes, level, nodes);
        assert!(missed(&mut level.clone(), &other) > 0, "they are cut off");
        assert!(missed(&mut level, &led) > 0);
        let lists = |level: &Level| (0..ROWS as u32).map(|node| level.of(node).collect::<Vec<_>>()).collect::<Vec<_>>();
        for (node, (before, after)) in (0u32..).zip(lists(&cut).into_iter().zip(lists(&level))) {
            let distinct: HashSet<u32> = after.iter().copied().collect();
            assert!(distinct.len() == after.len() && !distinct.contains(&node) && after.len() <= before.len() + LED);
            assert!(after.starts_with(&before) || node < first, "{node} keeps the neighbours it has");
        }
        assert_eq!(missed(&mut level, &other), 0, "of those nobody asked for");
    }

    #[test]
    fn neighbours_are_those_of_the_rule_told_slowly_and_few_shadow_each_other() {
        const ROWS: u32 = 240;
        let mut random = Random::new(7);
        let rows: Vec<f32> = (0..ROWS)
            .flat_map(|row| (0..16).map(move |j| (row, j)))
            .map(|(row, j)| random.normal() + if row % 6 == j { 9.0 } else { 0.0 })
            .collect();
        let mut flat = Flat::new(16, Metric::L2).unwrap();
        flat.add(&rows, None, 1).unwrap();
        let index = Hnsw::of(flat);
        let points = index.points(&(0..ROWS).collect::<Vec<_>>(), 1);
        let distance = |a: u32, b: u32| {
            let mut query = Vec::new();
            signed(points.code(b), &mut query);
            let dot = (kernels().dot_codes)(points.code(a), &query);
            points.candidate(By::Distance, a).distance(By::Distance, &points.candidate(By::Distance, b), dot)
        };
        for again in [false, true] {
            let mut bench = Bench { again, ..Bench::default() };
            let mut shadowed = 0;
            for node in (0..ROWS).step_by(11) {
                bench.listed = (0..ROWS).collect();
                points.choose(node, SETTLED, &mut bench);
                let mut others: Vec<u32> = (0..ROWS).filter(|other| *other != node).collect();
                others.sort_by_key(|other| (ordered(distance(node, *other)), *other));
                let mut chosen: Vec<(u32, bool)> = Vec::new(); // and whether one chosen before is nearer
                for other in others {
                    let from_node = distance(node, other);
                    let is_kept_away = |slack: f32| {
                        chosen.iter().any(|&(near, shadowed)| {
                            slack * distance(near, other) < from_node
                                && !(shadowed && from_node >= FAR * distance(node, near))
                        })
                    };
                    let slack = if again && chosen.len() < LENIENT { SLACK } else { 1.0 };
                    if chosen.len() < SETTLED && !is_kept_away(slack) {
                        chosen.push((other, is_kept_away(1.0)));
                    }
                }
                shadowed += chosen.iter().filter(|(_, shadowed)| *shadowed).count();
                let chosen: Vec<u32> = chosen.into_iter().map(|(other, _)| other).collect();
                assert_eq!(bench.chosen, chosen, "{node}, again: {again}");
            }
            assert_eq!(shadowed > 0, again);
        }
    }
}
