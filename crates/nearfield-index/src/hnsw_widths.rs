//! How wide walks through a graph must be for a recall: measured when it is built and again as it changes, on rows that
//! are not in it, against the exact answers. And how far out a query lies.

use std::sync::atomic::{AtomicUsize, Ordering};

use nearfield_kernels::kernels;

use crate::flat::{Answers, Request};
use crate::hnsw::{Bench, Graph, Hnsw, Plan};
use crate::pool::each_job;
use crate::walk::{Lie, adaptive, depth, narrowest};

/// Nodes that are looked around for the recall of one width, about: fewer rows are asked for wide ones.
const LOOKED_AROUND: usize = 192 << 10;

/// Of many nodes one in so many. There walks are wide, and one that goes astray misses all its answers: a few hundred rows tell
/// little of these.
const LOOKED_AROUND_SHARE: usize = 2;

/// The fewest rows that are asked for it.
const FEWEST_ASKED: usize = 96;

/// So many are enough where many answers are wanted.
const ENOUGH: usize = 256;

/// Recalls for which the width of walks is measured.
pub(crate) const TARGETS: [f64; 7] = [0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998];

/// Numbers of answers for which the width of walks is measured.
pub(crate) const DEPTHS: [usize; 4] = [1, 10, 30, 100];

/// Where a pool of so many nodes does not reach a recall, one of any size hardly does.
const WIDEST_WALK: usize = 1 << 13;

/// Width of a walk for each depth and target.
pub(crate) type Widths = [[u32; TARGETS.len()]; DEPTHS.len()];

/// The first targets, whose widths are measured again as a graph changes.
const AGAIN: usize = 5;

/// A pool of so many nodes costs more than reading all codes: what it does not reach is left to the scan.
pub(crate) fn widest(nodes: usize, k: usize) -> usize {
    (nodes / 16).min(WIDEST_WALK).max(8 * narrowest(k))
}

/// Standard errors by which the recall of the held-out rows must exceed a target: they are a sample.
const CAUTION: f64 = 0.75;

/// Of so many queries as many as tell enough about walks for k answers: many answers a query tell as much with fewer.
fn telling(queries: usize, k: usize) -> usize {
    if k > 10 { queries.min(ENOUGH) } else { queries }
}

/// The recall to be reached among the rows `linked` for this one among all rows of the graph, the others of which are linked
/// afterwards: at equal width misses grow about as the root of the number of rows.
fn before_all(target: f64, linked: &[u32], graph: &Graph) -> f64 {
    let growth = (graph.rows.len() as f64 / linked.len().max(1) as f64).max(1.0);
    1.0 - (1.0 - target) / growth.sqrt()
}

impl Hnsw {
    /// Measures how wide a walk must be among the rows `linked`: `asked`, which are not among them, are the queries.
    pub(crate) fn calibrate(&self, graph: &mut Graph, linked: &[u32], asked: &[u32], threads: usize) {
        let (nodes, targets) = (linked.len(), TARGETS.map(|target| before_all(target, linked, graph)));
        let (queries, truth) = self.questions(linked, asked, threads);
        graph.lie = self.lie(graph, &queries, threads);
        let mut widths = [[0; TARGETS.len()]; DEPTHS.len()];
        let looked_around = LOOKED_AROUND.max(nodes / LOOKED_AROUND_SHARE);
        for (&k, widths) in DEPTHS.iter().zip(&mut widths) {
            // Rows without any order need pools of thousands, each costlier than all narrow ones together: fewer queries
            // must do there.
            let most = telling(asked.len(), k);
            let queries =
                |width: usize| &queries[..self.flat.dimension * most.min((looked_around / width).max(FEWEST_ASKED))];
            let (mut reached, mut curve) = (0, Vec::<(f64, f64)>::new());
            let (mut width, widest) = (narrowest(k), widest(nodes, k));
            while reached < TARGETS.len() {
                let recall = self.reached(graph, queries(width), &truth, (k.min(nodes), width), threads);
                curve.push((width as f64, curve.last().map_or(recall, |last| recall.max(last.1))));
                let is_over = |target: f64| curve[curve.len() - 1].1 >= target;
                while reached < TARGETS.len() && (is_over(targets[reached]) || width >= widest) {
                    let sufficient = moved(&curve, targets[reached]).max(curve[0].0).ceil() as usize;
                    widths[reached] = if is_over(targets[reached]) { sufficient } else { nodes } as u32;
                    reached += 1;
                }
                width = (width + width.div_ceil(2)).min(nodes);
            }
        }
        graph.widths = widths;
    }

    /// These rows as queries, and the best of the rows `linked` for each of them.
    fn questions(&self, linked: &[u32], asked: &[u32], threads: usize) -> (Vec<f32>, Answers) {
        let mut linked = linked.to_vec();
        linked.sort_unstable();
        let queries: Vec<f32> = asked.iter().flat_map(|row| self.flat.vectors.row(*row as usize)).copied().collect();
        let request = Request { threads, ..Request::new(&queries, DEPTHS[DEPTHS.len() - 1]) };
        let truth = self.flat.search_listed(Some(&linked), &request).expect("nothing interrupts it");
        (queries, truth)
    }

    /// How far from the nearest node these queries lie.
    fn lie(&self, graph: &Graph, queries: &[f32], threads: usize) -> Lie {
        let dimension = self.flat.dimension;
        let reach = adaptive(self.flat.metric, 4 * depth(1), 1, Lie::default());
        let plan = Plan::new(dimension, reach, (1, reach.width), graph.linked);
        let mut nearest = vec![0.0; queries.len() / dimension];
        let jobs = queries.chunks(dimension).zip(&mut nearest);
        each_job(threads, jobs, Bench::default, |bench, (query, nearest)| {
            self.walk(kernels(), graph, query, &plan, bench);
            let key = bench.walker.keyed().next().map_or(f32::INFINITY, |(key, _)| key);
            *nearest = key + bench.guide.query.square / 2.0;
        });
        Lie::of(&mut nearest)
    }

    /// The recall that walks of this width reach for these queries, less what so few of them may flatter it by, where these
    /// are the true answers, the first k of which count.
    fn reached(
        &self,
        graph: &Graph,
        queries: &[f32],
        truth: &Answers,
        (k, width): (usize, usize),
        threads: usize,
    ) -> f64 {
        let flat = &self.flat;
        let (found, squares) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let reach = adaptive(flat.metric, width, k, graph.lie);
        let plan = Plan::new(flat.dimension, reach, (k, width), graph.linked);
        let step = DEPTHS[DEPTHS.len() - 1];
        let jobs = queries.chunks(flat.dimension).zip(truth.ids.chunks(step)).zip(truth.scores.chunks(step));
        each_job(threads, jobs, Bench::default, |bench, ((query, ids), scores)| {
            let worst = scores[..k].iter().copied().fold(f32::INFINITY, f32::min);
            let (best, _) = self.walk(kernels(), graph, query, &plan, bench);
            // A row that ties with the last true answer is as good as that one.
            let right = best.iter().filter(|ranked| {
                flat.metric.score(ranked.rank) >= worst || ids[..k].contains(&flat.ids.of(ranked.row))
            });
            let right = right.count();
            found.fetch_add(right, Ordering::Relaxed);
            squares.fetch_add(right * right, Ordering::Relaxed);
        });
        let asked = (queries.len() / flat.dimension) as f64;
        let mean = found.into_inner() as f64 / asked;
        let error = ((squares.into_inner() as f64 / asked - mean * mean).max(0.0) / asked).sqrt();
        (mean - error * CAUTION) / k as f64
    }

    /// Width of a walk that reaches this recall for k answers, on rows like those in the graph.
    pub(crate) fn width(&self, graph: &Graph, k: usize, recall: f64) -> usize {
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
        let part = DEPTHS.iter().rposition(|depth| *depth < k).unwrap_or(0).min(DEPTHS.len() - 2);
        let (low, high) = (at(&graph.widths[part]), at(&graph.widths[part + 1]));
        let [shallow, deep] = [DEPTHS[part], DEPTHS[part + 1]].map(|depth| depth as f64);
        let share = (k as f64 - shallow).max(0.0) / (deep - shallow);
        ((low + share * (high - low)).ceil() as usize).max(k)
    }

    /// Measures the recall of the widths there are, among the rows `linked`, for `asked`, which are not among them, as
    /// queries, and moves each width to where its target is reached. The widest cost as much as all others together, and
    /// move as the one before them does.
    pub(crate) fn measure_again(&self, graph: &mut Graph, linked: &[u32], asked: &[u32], threads: usize) {
        let (queries, truth) = self.questions(linked, asked, threads);
        graph.lie = self.lie(graph, &queries, threads);
        let mut widths = graph.widths;
        let targets = TARGETS.map(|target| before_all(target, linked, graph));
        for (widths, k) in widths.iter_mut().zip(DEPTHS.map(|k| k.min(linked.len()))) {
            let queries = &queries[..self.flat.dimension * telling(asked.len(), k)];
            let widest = widest(linked.len(), k);
            let (measured, rest) = widths.split_at_mut(AGAIN);
            let mut curve: Vec<(f64, f64)> = Vec::new();
            for width in measured.iter().map(|width| (*width as usize).clamp(narrowest(k), widest)) {
                if curve.last().is_none_or(|last| last.0 < width as f64) {
                    let recall = self.reached(graph, queries, &truth, (k, width), threads);
                    curve.push((width as f64, curve.last().map_or(recall, |last| recall.max(last.1))));
                }
            }
            let (last, mut now) = (f64::from(measured[AGAIN - 1]), 0.0);
            for (width, target) in measured.iter_mut().zip(targets) {
                now = moved(&curve, target).max(narrowest(k) as f64);
                *width = if now > widest as f64 { linked.len() } else { now.ceil() as usize } as u32;
            }
            for width in rest {
                let wanted = (f64::from(*width) * now / last).ceil() as usize;
                *width = if wanted > widest { linked.len() } else { wanted } as u32;
            }
        }
        graph.widths = widths;
    }
}

/// The width at which a curve of (width, recall) reaches a target. From point to point misses fall at least as fast as by an
/// equal share for every step, and as the inverse of the width where the curve ends.
fn moved(curve: &[(f64, f64)], target: f64) -> f64 {
    let misses = |recall: f64| (1.0 - recall).max(1e-4);
    let Some(above) = curve.iter().position(|point| point.1 >= target) else {
        let (width, recall) = curve[curve.len() - 1];
        return width * misses(recall) / misses(target);
    };
    let (width, recall) = curve[above];
    if above == 0 {
        return width * misses(recall) / misses(target);
    }
    let (from, low) = curve[above - 1];
    let share = (misses(low).ln() - misses(target).ln()) / (misses(low).ln() - misses(recall).ln());
    from + share.clamp(0.0, 1.0) * (width - from)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use nearfield_kernels::Metric;
    use nearfield_kernels::project::Random;

    const DIMENSION: usize = 24;

    fn rows(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count * DIMENSION).map(|i| random.normal() / (1.0 + (i % DIMENSION) as f32).sqrt()).collect()
    }

    /// True answers to each of these queries, and those of them that walks for this recall find.
    fn answers(index: &Hnsw, queries: &[f32], recall: f64) -> (Vec<i64>, Vec<i64>) {
        let request = Request { threads: 2, recall: Some(1.0), ..Request::new(queries, 10) };
        let truth = index.search(&request).unwrap();
        let mut found = Vec::new();
        for (query, ids) in queries.chunks(DIMENSION).zip(truth.ids.chunks(10)) {
            let request = Request { recall: Some(recall), ..Request::new(query, 10) };
            let got: HashSet<i64> = index.search(&request).unwrap().ids.into_iter().collect();
            found.extend(ids.iter().filter(|id| got.contains(*id)));
        }
        (truth.ids, found)
    }

    #[test]
    fn widths_measured_among_few_rows_are_enough_for_the_many_that_come_at_once() {
        let mut index = Hnsw::new(DIMENSION, Metric::L2).unwrap();
        index.add(&rows(4000, 1), None, 2).unwrap();
        index.add(&rows(11_000, 2), None, 2).unwrap();
        let graph = index.graph.as_ref().unwrap();
        assert!(graph.change.built == 4000 && graph.linked > 14_000, "they were linked, the graph was not built again");
        for target in [0.95, 0.98] {
            let (truth, found) = answers(&index, &rows(600, 3), target);
            let reached = found.len() as f64 / truth.len() as f64;
            assert!(reached >= target - 0.025, "{reached} of {target}");
        }
    }

    #[test]
    fn rows_that_asked_for_widths_are_found_as_often_as_those_that_answered() {
        let mut index = Hnsw::new(DIMENSION, Metric::L2).unwrap();
        index.add(&rows(8192, 1), None, 2).unwrap();
        let graph = index.graph.as_ref().unwrap();
        let asked: HashSet<i64> = graph.rows[7168..].iter().map(|row| index.flat.ids.of(*row)).collect();
        let (truth, found) = answers(&index, &rows(2000, 2), 0.9);
        let among = |ids: &[i64]| ids.iter().filter(|id| asked.contains(*id)).count() as f64;
        let [all, theirs] = [found.len() as f64 / truth.len() as f64, among(&found) / among(&truth)];
        assert!(theirs >= all - 0.03, "{theirs} of rows that asked, {all} of all");
    }

    #[test]
    fn one_answer_is_looked_for_as_widely_as_ten_though_rows_would_be_found_by_less() {
        let mut index = Hnsw::new(DIMENSION, Metric::L2).unwrap();
        let is_wide = |index: &Hnsw| index.graph.as_ref().unwrap().widths[0].iter().all(|width| *width >= 10);
        index.add(&rows(2048, 1), None, 2).unwrap();
        assert!(is_wide(&index), "built");
        index.add(&rows(1024, 2), None, 2).unwrap();
        assert!(is_wide(&index) && index.graph.as_ref().unwrap().change.built == 2048, "measured again");
    }

    #[test]
    fn many_answers_to_few_queries_are_no_reason_to_ask_fewer_still() {
        assert_eq!([1, 10, 30, 100].map(|k| telling(1024, k)), [1024, 1024, 256, 256]);
        assert_eq!([1, 10, 30, 100].map(|k| telling(180, k)), [180; 4]);
    }

    #[test]
    fn the_widest_walk_among_few_rows_is_no_narrower_than_the_narrowest() {
        assert!([1, 2, 10, 100].iter().all(|&k| [0, 10, 100, 1000].iter().all(|&n| widest(n, k) >= narrowest(k))));
    }

    #[test]
    fn a_width_lies_between_those_that_miss_more_and_fewer_answers() {
        let curve = [(10.0, 0.6), (15.0, 0.9), (22.0, 0.9), (33.0, 0.99)];
        assert!((moved(&curve, 0.8) - (10.0 + 5.0 / 2.0)).abs() < 1e-9, "half of the misses in half of the steps");
        assert_eq!((moved(&curve, 0.9), moved(&curve, 0.99)), (15.0, 33.0));
        let between = [0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995].map(|target| moved(&curve, target));
        assert!(between.is_sorted(), "{between:?}");
        assert!(
            (moved(&curve, 0.995) - 66.0).abs() < 1e-6,
            "half of the misses at twice the width, where the curve ends"
        );
    }
}
