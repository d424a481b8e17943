//! A graph whose rows come and go.
//!
//! Rows added are scanned beside the graph, and nodes of rows removed are walked through but not answered, until there
//! are enough of both. Then a *fold* takes the dead nodes out of the lists of the others, gives their places to the new
//! rows and links these to the frozen graph: the batches of Singh et al., "FreshDiskANN: A Fast and Accurate Graph-Based
//! ANN Index for Streaming Similarity Search", 2021. There is a whole graph to choose from, so they choose as builders do
//! the second time. Twice as many nodes as came are then linked once more, in turn, and those through which most walks go
//! as soon as they lose a neighbour, so that a graph which has changed for long is as good as one that was built at once.
//!
//! Nodes stay without gaps, and the first of them, which are the way in, in a random order: a node from farther back is moved
//! where one of the first is gone or more of them are wanted, and a new one takes the place of one of the first as often as
//! chance would have it.
//! The graph is built again when there are several times as many rows, or when guide codes suit them much less than those
//! they were made for. A fold is the same for any number of threads.

use std::sync::{Arc, OnceLock};

use nearfield_kernels::guide::{Guide, GuideCodes, GuideQuery, Source};
use nearfield_kernels::project::Random;
use nearfield_kernels::quantize;
use nearfield_kernels::{BLOCK, Factors, Line, Metric, kernels, pages};

use crate::Result;
use crate::hnsw::{Graph, Hnsw, shuffle};
use crate::hnsw_build::Points;
use crate::pool::each_job;
use crate::walk::{Links, NONE, leading};

/// Changes that make a fold worth while, beside a share of the nodes.
const FOLD: usize = 512;

/// Of so many nodes one must have changed.
const FOLD_SHARE: usize = 128;

/// Of so many nodes one must have changed before the widths of walks are measured again.
const MEASURE_SHARE: usize = 8;

/// Rows that serve as queries then: no fewer, and no more.
const ASKED: [usize; 2] = [256, 1024];

/// How many times as many rows there must be for the graph to be built again.
const GROWN: usize = 4;

/// The share of what guide codes kept of rows when they were made that they must keep of later ones.
const KEPT: f64 = 0.9;

/// Of so many nodes one must have come with rows that guide codes do not suit before the graph is built again.
const UNSUITED_SHARE: usize = 8;

/// Codes that are looked at for the share they keep, at the most.
const SAMPLE: usize = 1024;

/// Nodes that are linked once more for each that came or went.
const SWEPT: usize = 2;

/// What has happened to a graph since it was built.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Change {
    /// Nodes there were.
    pub built: usize,
    /// The share of the squared norm of their rows that guide codes kept.
    pub kept: f64,
    /// Nodes that came and went in all, and since the widths of walks were measured.
    pub folded: usize,
    pub unmeasured: usize,
    /// Nodes that came with rows which guide codes do not suit.
    pub unsuited: usize,
    /// The node to be linked once more next.
    pub swept: usize,
}

impl Change {
    /// Nothing, yet.
    pub fn since(built: usize, guide: &Guide, codes: &GuideCodes) -> Self {
        Self { built, kept: kept(guide, codes), ..Self::default() }
    }
}

/// The share of the squared norm of rows that their guide codes keep.
fn kept(guide: &Guide, codes: &GuideCodes) -> f64 {
    let (mut scratch, rows) = (GuideQuery::default(), codes.coarse.len() / guide.lines);
    let sample = (0..rows).step_by(rows.div_ceil(SAMPLE).max(1)).map(|row| guide.kept(codes, row, &mut scratch));
    let (kept, all) = sample.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    if all > 0.0 { kept / all } else { 1.0 }
}

impl Hnsw {
    /// Removes vectors by id, as [`crate::Flat::remove`]; walks still pass through their nodes until the next fold.
    pub fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize> {
        let (rows, had) = (self.flat.take_out(ids)?, self.graph.is_some());
        if let Some(graph) = &mut self.graph {
            let inside = |row: &&u32| (**row as usize) < graph.covered && graph.outside.binary_search(row).is_err();
            graph.dead += rows.iter().filter(inside).count();
        }
        if had {
            self.fold(threads);
        }
        if self.flat.is_wasteful() {
            self.give_back(threads);
        }
        Ok(rows.len())
    }

    /// Gives back the room of removed rows, and builds the graph again if it has changed since it was built: what is
    /// left is what a new index of these rows has.
    pub fn compact(&mut self, threads: usize) {
        self.give_back(threads);
        let rows = self.flat.ids.rows();
        let changed = |graph: &Graph| graph.dead > 0 || graph.covered < rows || graph.change.folded > 0;
        if self.graph.as_ref().is_some_and(changed) {
            self.flat.frame_again(threads);
            self.graph = (self.flat.len() >= self.fewest).then(|| self.build(threads)).flatten();
        }
    }

    /// Gives back the room of removed rows: the others are numbered anew.
    fn give_back(&mut self, threads: usize) {
        if let Some(mut graph) = self.graph.take() {
            graph.covered = (0..graph.covered).filter(|row| self.flat.ids.is_live(*row)).count();
            graph.rows = self.renumbered(&graph.rows).collect();
            graph.outside = self.renumbered(&graph.outside).filter(|row| *row != NONE).collect();
            graph.places = OnceLock::new();
            self.graph = Some(graph);
        }
        self.flat.compact(threads);
    }

    /// Brings the graph up to date where enough has changed, and builds it where there is none yet.
    pub(crate) fn fold(&mut self, threads: usize) {
        let (live, rows) = (self.flat.len(), self.flat.ids.rows());
        let Some(mut graph) = self.graph.take() else {
            if live >= self.fewest {
                self.graph = self.build(threads);
            }
            return;
        };
        if live < self.fewest / 2 {
            return; // a scan is as fast
        }
        let changes = rows - graph.covered + graph.dead;
        if changes > FOLD + graph.rows.len() / FOLD_SHARE {
            let grown = live >= GROWN * graph.change.built;
            if grown || !self.change(&mut graph, threads) {
                self.graph = self.build(threads);
                return;
            }
        }
        self.graph = Some(graph);
    }

    /// Takes dead nodes out of a graph and links new rows. False where it is to be built again instead.
    fn change(&self, graph: &mut Graph, threads: usize) -> bool {
        let flat = &self.flat;
        let (fresh, codes) = self.coded(graph, threads);
        let nodes = graph.rows.len();
        if !fresh.is_empty() && kept(&graph.guide, &codes) < KEPT * graph.change.kept {
            graph.change.unsuited += fresh.len();
            if graph.change.unsuited > nodes / UNSUITED_SHARE {
                return false;
            }
        }
        let is_live = |row: u32| row != NONE && flat.ids.is_live(row as usize);
        let gone: Vec<bool> = graph.rows.iter().map(|row| !is_live(*row)).collect();
        let dead = gone.iter().filter(|gone| **gone).count();
        let linked: Vec<u32> = graph.rows.iter().copied().filter(|row| is_live(*row)).collect();
        if linked.len() + fresh.len() < FOLD {
            return false;
        }
        let removed = graph.rows.iter().copied().filter(|row| *row != NONE && !is_live(*row));
        let mut asked: Vec<u32> = fresh.iter().copied().chain(removed).collect();

        let led = graph.rows[..graph.level.upper.len() / graph.level.width].to_vec();

        // New points stand behind the others until they have their places.
        let mut all: Vec<u32> = graph.rows.iter().map(|row| if is_live(*row) { *row } else { NONE }).collect();
        all.extend(&fresh);
        let mut points = self.points(&all, threads);
        let worn = points.mend(Arc::make_mut(&mut graph.level), &gone);
        let mut random = Random::new((graph.change.folded + nodes) as u64);
        let at = arranged(&gone, fresh.len(), &mut random);
        let now = rearrange(graph, &mut points, &at, &codes, threads);
        let changes = dead + fresh.len();
        graph.change.folded += changes;
        graph.change.unmeasured += changes;
        if graph.change.unmeasured > linked.len() / MEASURE_SHARE && asked.len() >= ASKED[0] {
            shuffle(&mut asked);
            asked.truncate(ASKED[1]);
            self.measure_again(graph, &linked, &asked, threads);
            graph.change.unmeasured = 0;
        }
        let came: Vec<u32> = now[nodes..].to_vec();
        let count = graph.rows.len();
        let Graph { guide, codes, level, change, .. } = graph;
        let level = Arc::make_mut(level);
        points.link(guide, codes, level, &came, linked.len());
        let swept = (SWEPT * came.len().max(dead)).min(count);
        let sweep = (0..swept).map(|i| ((change.swept + i) % count) as u32);
        let mut again: Vec<u32> = sweep.chain(worn.iter().map(|node| now[*node as usize])).collect();
        again.sort_unstable();
        again.dedup();
        change.swept = (change.swept + swept) % count;
        points.link(guide, codes, level, &again, count);
        let mut touched = [came, again].concat();
        if count > nodes {
            let mut at: Vec<u32> = (0..count as u32).collect();
            // More of them are the first now, and only these stood in a random order.
            for place in leading(nodes)..leading(count).min(nodes) {
                at.swap(place, place + random.below((nodes - place) as u32) as usize);
            }
            for node in nodes..count {
                let place = random.below(node as u32 + 1) as usize;
                if place < leading(count) {
                    at.swap(place, node);
                }
            }
            let none = graph.guide.room(0);
            let now = rearrange(graph, &mut points, &at, &none, threads);
            touched.iter_mut().for_each(|node| *node = now[*node as usize]);
        }
        let changed = led.iter().zip(&graph.rows).map(|(before, row)| before != row).collect();
        let level = Arc::make_mut(&mut graph.level);
        points.raise(&graph.guide, &graph.codes, level, changed);
        points.lead(&graph.guide, &graph.codes, level, &touched);
        points.connect(&graph.guide, &graph.codes, level);
        (graph.linked, graph.covered, graph.dead) = (count, flat.ids.rows(), 0);
        graph.places = OnceLock::new();
        true
    }

    /// The rows that are not in the graph and can be, in a random order, and their guide codes. Others are kept outside.
    fn coded(&self, graph: &mut Graph, threads: usize) -> (Vec<u32>, GuideCodes) {
        let (flat, guide, long) = (&self.flat, &graph.guide, quantize::lines(self.flat.dimension));
        let mut rows: Vec<u32> =
            (graph.covered as u32..flat.ids.rows() as u32).filter(|row| flat.ids.is_live(*row as usize)).collect();
        shuffle(&mut rows);
        let mut coded: Vec<(usize, GuideCodes)> = rows.chunks(PER_JOB).map(|_| (0, guide.room(0))).collect();
        let most = guide.bias * 65_535.0 * 1.001; // what a guide code can say of the norm
        each_job(threads, coded.iter_mut().zip(rows.chunks_mut(PER_JOB)), Vec::new, |moved, ((count, into), rows)| {
            let (mut codes, mut sources) = (vec![Line::ZERO; rows.len() * long], Vec::new());
            for place in 0..rows.len() {
                let row = rows[place] as usize;
                let vector = flat.vectors.row(row);
                let (norm, code) = (flat.norms.get(row).copied(), *count * long);
                let (code, mut factors) = (&mut codes[code..code + long], Factors::ABSENT);
                guide.frame.encode(vector, norm, moved, code, &mut factors, 0);
                let signed: Vec<Line> = code.iter().map(|line| Line(line.0.map(|byte| byte ^ 128))).collect();
                let (scale, sigma) = (factors.scale[0], guide.frame.sigma() as f32);
                let square = scale * scale * (kernels().dot_codes)(code, &signed) as f32;
                let lift = if flat.metric == Metric::Cosine && norm == Some(0.0) { sigma * sigma } else { 0.0 };
                let source = Source { scale, bias: (square + lift) / 2.0 };
                if factors.residual[0].is_finite() && self.is_coded(rows[place]) && source.bias <= most {
                    rows.swap(*count, place);
                    sources.push(source);
                    *count += 1;
                }
            }
            *into = guide.room(*count);
            guide.encode(kernels(), &codes[..*count * long], &sources, into.arrays_mut().map(|lines| &mut lines[..]));
        });
        let (mut fresh, mut outside) = (Vec::new(), std::mem::take(&mut graph.outside));
        for ((count, _), rows) in coded.iter().zip(rows.chunks(PER_JOB)) {
            fresh.extend(&rows[..*count]);
            outside.extend(&rows[*count..]);
        }
        outside.retain(|row| flat.ids.is_live(*row as usize));
        outside.sort_unstable();
        graph.outside = outside;
        let mut codes = guide.room(0);
        for (_, part) in coded {
            for (codes, part) in codes.arrays_mut().into_iter().zip(part.arrays()) {
                codes.extend(part);
            }
        }
        (fresh, codes)
    }

    /// Whether a row is small enough to have a code.
    pub(crate) fn is_coded(&self, row: u32) -> bool {
        self.flat.factors[row as usize / BLOCK].residual[row as usize % BLOCK].is_finite()
    }
}

/// Rows that one thread codes at a time.
const PER_JOB: usize = 256;

/// Which node stands at each place when the gaps are closed: nodes that stay, and `fresh` new ones, numbered after the
/// others. The places where walks begin get nodes from farther back, which have neighbours already.
fn arranged(gone: &[bool], fresh: usize, random: &mut Random) -> Vec<u32> {
    let nodes = gone.len();
    let mut at: Vec<u32> = (0..nodes as u32).map(|node| if gone[node as usize] { NONE } else { node }).collect();
    let dead = gone.iter().filter(|gone| **gone).count();
    let first = leading(nodes.max(nodes - dead + fresh)).min(nodes);
    for place in (0..first).filter(|place| gone[*place]) {
        let start = random.below((nodes - first).max(1) as u32) as usize;
        let behind = (0..nodes - first).map(|i| first + (start + i) % (nodes - first));
        if let Some(from) = { behind }.find(|from| at[*from] != NONE) {
            at.swap(place, from);
        }
    }
    let mut new = nodes as u32..(nodes + fresh) as u32;
    let mut holes: Vec<usize> = (0..nodes).filter(|place| at[*place] == NONE).collect();
    for place in holes.drain(..fresh.min(holes.len())) {
        at[place] = new.next().expect("there are as many");
    }
    at.extend(new);
    for place in holes {
        while at.last() == Some(&NONE) {
            at.pop();
        }
        if place >= at.len() {
            break;
        }
        at[place] = at.pop().expect("the last one is no gap");
    }
    at
}

/// Puts node `at[place]` at each place; those beyond the graph's are new ones with these guide codes. Returns the place
/// of each node, NONE for those that have none.
pub(crate) fn rearrange(
    graph: &mut Graph,
    points: &mut Points,
    at: &[u32],
    codes: &GuideCodes,
    threads: usize,
) -> Vec<u32> {
    let (nodes, lines, width) = (graph.rows.len(), graph.guide.lines, graph.level.width);
    let mut now = vec![NONE; nodes + codes.coarse.len() / lines];
    (0u32..).zip(at).for_each(|(place, node)| now[*node as usize] = place);
    points.rearrange(at);
    graph.rows = pages::filled(at.len(), NONE);
    graph.rows.iter_mut().zip(points.rows()).for_each(|(place, row)| *place = row);
    let stays = |place: usize, node: u32| place as u32 == node && place < nodes;
    let moved: Vec<(usize, u32)> =
        at.iter().copied().enumerate().filter(|(place, node)| !stays(*place, *node)).collect();
    for (codes, new) in Arc::make_mut(&mut graph.codes).arrays_mut().into_iter().zip(codes.arrays()) {
        if !codes.is_empty() {
            carry(codes, new, (nodes, at.len()), &moved, Line([0; 64]), threads);
        }
    }
    let unlinked = Links([NONE; Links::WIDTH]);
    let new = vec![unlinked; (now.len() - nodes) * width];
    let level = Arc::make_mut(&mut graph.level);
    carry(&mut level.links, &new, (nodes, at.len()), &moved, unlinked, threads);
    level.nodes = at.len();
    if !moved.is_empty() {
        each_job(
            threads,
            level.links.chunks_mut(PER_JOB * 64),
            || (),
            |(), links| {
                for link in links.iter_mut().flat_map(|links| &mut links.0).filter(|link| **link != NONE) {
                    *link = now[*link as usize];
                }
            },
        );
    }
    now
}

/// Moves what is known of nodes to their new places: for each of `before` nodes several values of `values`, for the new
/// ones as many of `new`.
fn carry<T: Copy + Send + Sync>(
    values: &mut Vec<T>,
    new: &[T],
    (before, after): (usize, usize),
    moved: &[(usize, u32)],
    filler: T,
    threads: usize,
) {
    let each = values.len() / before;
    let mut carried = pages::filled(moved.len() * each, filler);
    let jobs = carried.chunks_mut(PER_JOB * each).zip(moved.chunks(PER_JOB));
    each_job(
        threads,
        jobs,
        || (),
        |(), (carried, moved)| {
            for (carried, (_, node)) in carried.chunks_mut(each).zip(moved) {
                let node = *node as usize;
                carried.copy_from_slice(match node.checked_sub(before) {
                    None => &values[node * each..(node + 1) * each],
                    Some(node) => &new[node * each..(node + 1) * each],
                });
            }
        },
    );
    pages::reserve(values, (after * each).saturating_sub(values.len()));
    values.resize(after * each, filler);
    for ((place, _), carried) in moved.iter().zip(carried.chunks(each)) {
        values[place * each..(place + 1) * each].copy_from_slice(carried);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::Request;
    use crate::hnsw::{Bench, Plan};
    use crate::walk::{Level, Reach, Walker, above};

    fn rows(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count * 24).map(|i| random.normal() / (1 + i % 24) as f32).collect()
    }

    /// Nodes that a walk can reach from the first.
    fn reached(graph: &Graph) -> usize {
        let (mut seen, mut waiting) = (vec![false; graph.rows.len()], vec![0]);
        while let Some(node) = waiting.pop() {
            if !std::mem::replace(&mut seen[node as usize], true) {
                waiting.extend(graph.level.of(node));
            }
        }
        seen.iter().filter(|seen| **seen).count()
    }

    /// The upper level as a graph of its own.
    fn upper(graph: &Graph) -> Level {
        let (links, width) = (graph.level.upper.clone(), graph.level.width);
        Level { nodes: links.len() / width, links, ..Level::new(0, width * Links::WIDTH) }
    }

    #[test]
    fn the_way_in_stays_as_good_as_a_new_one() {
        let mut index = Hnsw::new(24, Metric::L2).unwrap();
        index.add(&rows(6000, 1), None, 2).unwrap();
        for turn in 0..10u64 {
            let ids = index.exact().ids();
            index.remove(&ids[..600], 2).unwrap();
            index.add(&rows(600, 2 + turn), None, 2).unwrap();
        }
        let graph = index.graph.as_ref().unwrap();
        assert!(graph.change.folded >= 6000, "it was folded, not built again");
        let points = index.points(&graph.rows, 2);
        let mut fresh = Level::clone(&graph.level);
        points.raise(&graph.guide, &graph.codes, &mut fresh, vec![true; above(graph.rows.len())]);
        // How many of the first nodes are found from the table of the first few, by walks through the upper level alone.
        let found = |level: &Level| {
            let (mut walker, mut query, nodes) = (Walker::default(), GuideQuery::default(), above(graph.rows.len()));
            let upper = Level { nodes, links: level.upper.clone(), upper: Vec::new(), ..*level };
            let view = upper.view((&graph.codes.coarse, graph.guide.lines), nodes);
            let is_found = |node: &u32| {
                graph.guide.row_as_query(&graph.codes, *node as usize, &mut query);
                (kernels().walk)(&mut walker, &view, &query, Reach::wide(8));
                walker.nodes().any(|found| found == *node)
            };
            (0..nodes as u32).filter(is_found).count()
        };
        let (changed, new) = (found(&graph.level), found(&fresh));
        assert!(10 * changed >= 9 * new && 10 * new >= 9 * above(graph.rows.len()), "{changed} {new}");
    }

    #[test]
    fn the_way_in_leads_to_every_cluster_though_nodes_of_one_stand_side_by_side() {
        const CLUSTERS: usize = 30;
        let mut random = Random::new(8);
        let mut draw = |count: usize| -> Vec<f32> {
            let centre = |row: usize, i: usize| {
                if row % CLUSTERS % 24 == i { 9.0 + (row % CLUSTERS / 24) as f32 * 9.0 } else { 0.0 }
            };
            (0..count * 24).map(|i| random.normal() + centre(i / 24, i % 24)).collect()
        };
        let mut index = Hnsw::new(24, Metric::L2).unwrap();
        index.add(&draw(3000), None, 2).unwrap();
        let graph = index.graph.as_ref().unwrap();
        let cluster = |graph: &Graph, node: usize| graph.rows[node] as usize % CLUSTERS;
        let is_beside = |node: &usize| cluster(graph, *node) == cluster(graph, *node + 1);
        let (first, linked) = (leading(graph.rows.len()), 3000 - 375); // an eighth was held out
        assert!(2 * (first..linked - 1).filter(is_beside).count() > linked - first, "one in thirty by chance");
        for _ in 0..8 {
            index.add(&draw(900), None, 2).unwrap();
        }
        let graph = index.graph.as_ref().unwrap();
        assert!(graph.change.built == 3000 && graph.rows.len() > 9000, "it was folded, not built again");
        let mut counts = [0; CLUSTERS];
        (0..above(graph.rows.len())).for_each(|node| counts[cluster(graph, node)] += 1);
        assert!(counts.iter().all(|count| (1..=30).contains(count)), "about ten each: {counts:?}");
    }

    #[test]
    fn the_way_in_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.nfi");
        let mut index = Hnsw::new(24, Metric::Cosine).unwrap();
        index.add(&rows(4000, 1), None, 2).unwrap();
        index.save(&path).unwrap();
        let read = Hnsw::load(&path, 2).unwrap();
        let [wrote, read] = [&index, &read].map(|index| upper(index.graph.as_ref().unwrap()));
        assert_eq!(wrote.nodes, above(4000 - 500));
        assert!(wrote.links.iter().map(|links| links.0).eq(read.links.iter().map(|links| links.0)));
    }

    #[test]
    fn no_node_is_lost_and_none_points_to_one_that_is_gone() {
        for metric in Metric::ALL {
            let mut index = Hnsw::new(24, metric).unwrap();
            index.add(&rows(3000, 1), None, 2).unwrap();
            let mut random = Random::new(2);
            for turn in 0..12u64 {
                let mut ids = index.exact().ids();
                (0..ids.len()).for_each(|i| ids.swap(i, random.below(i as u32 + 1) as usize));
                ids.truncate([700, 40, 1300][turn as usize % 3]);
                index.remove(&ids, 2).unwrap();
                index.add(&rows([900, 300, 700][turn as usize % 3], 3 + turn), None, 2).unwrap();
                let graph = index.graph.as_ref().unwrap();
                let flat = index.exact();
                let live = |row: &&u32| **row != NONE && flat.ids.is_live(**row as usize);
                let mut held: Vec<u32> = graph.rows.iter().filter(live).copied().collect();
                assert_eq!(held.len() + graph.dead, graph.rows.len());
                held.extend((graph.covered as u32..flat.ids.rows() as u32).filter(|row| live(&row)));
                held.extend(graph.outside.iter().filter(live));
                held.sort_unstable();
                held.dedup();
                assert_eq!(held.len(), flat.len(), "every row is in the graph or beside it, once");
                assert_eq!(reached(graph), graph.rows.len());
                assert!((0..graph.rows.len() as u32).all(|node| graph.level.of(node).all(|other| other != node)));
                let upper = upper(graph);
                assert_eq!(upper.nodes, above(graph.rows.len()), "{metric:?} {turn}");
                let ways = (0..upper.nodes as u32).map(|node| upper.of(node).count());
                assert!(ways.sum::<usize>() >= 4 * upper.nodes, "who is new there is linked");
                let is_one = |(node, other): (u32, u32)| (other as usize) < upper.nodes && other != node;
                let mut all = (0..upper.nodes as u32).flat_map(|node| upper.of(node).map(move |other| (node, other)));
                assert!(all.all(is_one));
            }
            assert!(index.graph.as_ref().unwrap().change.folded > 3000, "it was folded, not built again");
        }
    }

    #[test]
    fn gaps_are_closed_and_the_way_in_has_neighbours() {
        let mut random = Random::new(1);
        for (nodes, dead, fresh) in
            [(1000, 0, 300), (1000, 300, 300), (1000, 300, 10), (1000, 300, 700), (1000, 990, 0)]
        {
            let mut gone = vec![false; nodes];
            while gone.iter().filter(|gone| **gone).count() < dead {
                gone[random.below(nodes as u32) as usize] = true;
            }
            let at = arranged(&gone, fresh, &mut random);
            let mut nodes_now = at.clone();
            nodes_now.sort_unstable();
            let wanted: Vec<u32> = (0..(nodes + fresh) as u32)
                .filter(|node| !gone.get(*node as usize).is_some_and(|gone| *gone))
                .collect();
            assert_eq!(nodes_now, wanted);
            let first = leading(at.len()).min(nodes - dead);
            assert!(at[..first].iter().all(|node| (*node as usize) < nodes));
        }
    }

    /// Nodes that walks of several widths score, and the logarithm of the share of the ten largest products they miss.
    fn curve(index: &Hnsw, queries: &[f32], widths: &[usize]) -> Vec<(f64, f64)> {
        let (graph, mut bench) = (index.graph.as_ref().unwrap(), Bench::default());
        let beside = index.beside_graph(graph, |row| index.exact().ids.is_live(row as usize));
        let truth = index.exact().search(&Request::new(queries, 10)).unwrap();
        let mut walks = |width: usize| {
            let plan = Plan { beside: &beside, ..Plan::new(24, Reach::wide(width), (10, width), graph.linked) };
            let (mut scored, mut missed) = (0, 0);
            for (query, ids) in queries.chunks(24).zip(truth.ids.chunks(10)) {
                let (best, _) = index.walk(kernels(), graph, query, &plan, &mut bench);
                scored += bench.walker.scored;
                missed += 10 - best.iter().filter(|one| ids.contains(&index.exact().ids.of(one.row))).count();
            }
            (scored as f64, f64::from(missed as u32 + 1).ln())
        };
        widths.iter().map(|width| walks(*width)).collect()
    }

    #[test]
    fn walks_for_products_miss_no_more_after_all_rows_were_replaced() {
        let mut random = Random::new(9);
        let mut draw = |count: usize| -> Vec<f32> {
            let row = |_| {
                let norm = (0.3 * random.normal()).exp();
                (0..24).map(|_| norm * random.normal()).collect::<Vec<f32>>()
            };
            (0..count).flat_map(row).collect()
        };
        let (old, new, queries) = (draw(4200), draw(4200), draw(200));
        let [mut index, mut fresh] = [(); 2].map(|()| Hnsw::new(24, Metric::Dot).unwrap());
        index.add(&old, None, 2).unwrap();
        let ids = index.exact().ids();
        for (gone, come) in ids.chunks(300).zip(new.chunks(300 * 24)) {
            index.remove(gone, 2).unwrap();
            index.add(come, None, 2).unwrap();
        }
        fresh.add(&new, None, 2).unwrap();
        assert!(index.graph.as_ref().unwrap().change.folded > 8000, "it was folded, not built again");
        let (changed, new) =
            (curve(&index, &queries, &[12, 16, 24, 36, 54, 80]), curve(&fresh, &queries, &[16, 24, 36, 54]));
        // Misses at as many nodes scored: the curve of the changed one is a line from point to point.
        let drift = new.iter().map(|&(scored, missed)| {
            let above = changed.iter().position(|point| point.0 >= scored).unwrap().max(1);
            let [(from, low), (to, high)] = [changed[above - 1], changed[above]];
            low + (high - low) * (scored / from).ln() / (to / from).ln() - missed
        });
        let drift = drift.sum::<f64>() / new.len() as f64;
        assert!(drift < 0.05, "{drift} {changed:?} {new:?}");
    }

    #[test]
    fn walks_take_hardly_more_steps_for_as_many_rows_after_all_were_replaced() {
        let (old, new, queries) = (rows(6000, 1), rows(6000, 2), rows(200, 3));
        let [mut index, mut fresh] = [(); 2].map(|()| Hnsw::new(24, Metric::L2).unwrap());
        let ids = index.add(&old, None, 2).unwrap();
        for (gone, come) in ids.chunks(300).zip(new.chunks(300 * 24)) {
            index.remove(gone, 2).unwrap();
            index.add(come, None, 2).unwrap();
        }
        fresh.add(&new, None, 2).unwrap();
        assert!(index.graph.as_ref().unwrap().change.folded > 11_000, "it was folded, not built again");
        let [changed, new] = [index, fresh].map(|index| {
            let (graph, mut bench) = (index.graph.as_ref().unwrap(), Bench::default());
            let plan = Plan::new(24, Reach::wide(60), (10, 60), graph.linked);
            let (mut hops, mut scored) = (0, 0);
            for query in queries.chunks(24) {
                index.walk(kernels(), graph, query, &plan, &mut bench);
                (hops, scored) = (hops + bench.walker.hops, scored + bench.walker.scored);
            }
            hops as f64 / scored as f64
        });
        assert!(changed < 1.1 * new, "{changed} {new}");
    }

    #[test]
    fn rows_of_another_kind_get_guide_codes_of_their_own() {
        let mut index = Hnsw::new(512, Metric::L2).unwrap();
        let mut random = Random::new(5);
        // The first rows vary in some dimensions, the later ones in the others.
        let mut draw = |count: usize, late: bool| -> Vec<f32> {
            (0..count * 512)
                .map(|i| if (i % 512 >= 240) == late { random.normal() } else { 0.01 * random.normal() })
                .collect()
        };
        index.add(&draw(2400, false), None, 2).unwrap();
        for _ in 0..2 {
            index.add(&draw(700, true), None, 2).unwrap();
        }
        let change = index.graph.as_ref().unwrap().change;
        assert_eq!(change.built, 3100);
    }
}
