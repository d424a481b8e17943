//! Searches of a graph among the rows that a filter lets through, by the cheapest of three ways:
//!
//! * a *walk* passes through all nodes and ends by those that may be answered: where the next node is farther by some
//!   share than the nearest of these. To find k of them it must look around as many nodes as hold k, so it is as wide as a
//!   walk for k divided by the share let through;
//! * a *sweep* scores the guide codes of all rows let through, a cache line each, and looks closer at the nearest;
//! * a *scan* of their 8-bit codes is exact.
//!
//! A walk whose filter lies away from the query finds few of them; it gives up after a tenth of what the other ways take.

use nearfield_kernels::guide::GuideQuery;
use nearfield_kernels::{Kernels, Metric};

use crate::allow::Allowed;
use crate::flat::{Answers, Request};
use crate::hnsw::{Graph, Hnsw, Plan};
use crate::walk::{Lie, NONE, Reach, View, Walker, adaptive, depth};
use crate::{Result, plan};

/// The recall of a filtered search where the caller does not say.
pub(crate) const DEFAULT_RECALL: f64 = 0.99;

/// A filtered walk goes as far as for this share of the misses: what may be answered lies where the filter puts it, not as
/// the rows do that the widths were measured with.
const MISSES: f64 = 0.3;

/// Of so many nodes a sweep looks at one first.
const SAMPLED: usize = 16;

/// The nodes of the rows let through.
pub(crate) struct Swept {
    nodes: Vec<u32>,
    sample: Vec<u32>,
}

impl Swept {
    fn of(graph: &Graph, allowed: &Allowed) -> Self {
        let places = graph.places.get_or_init(|| {
            let mut places = vec![NONE; graph.covered];
            for (node, row) in (0..).zip(&graph.rows).filter(|(_, row)| **row != NONE) {
                places[*row as usize] = node;
            }
            places
        });
        let nodes = allowed.listed(|row| places.get(row as usize).copied().filter(|node| *node != NONE));
        let sample = nodes.iter().copied().step_by(SAMPLED).collect();
        Self { nodes, sample }
    }

    /// Leaves the nearest of these nodes in the walker, as many as get a closer look. False where more than these may be
    /// among the nearest k for all that guide codes tell, as where the filter lies away from the query and the rows are
    /// about as far as each other. A sample tells it early, most often.
    pub fn sweep(
        &self,
        kernels: &Kernels,
        walker: &mut Walker,
        graph: &View,
        query: &GuideQuery,
        plan: &Plan,
        error: f32,
    ) -> bool {
        let mut tells = |nodes: &[u32], width: usize, kth: usize| {
            (kernels.sweep)(walker, graph, query, nodes, width);
            let key = |place: usize| walker.keyed().nth(place).map(|(key, _)| key);
            match (key(kth), key(width - 1)) {
                (Some(kth), Some(last)) => last > query.behind(kth, plan.margin * error),
                _ => true,
            }
        };
        tells(&self.sample, 3 * plan.wanted / SAMPLED + 1, plan.kth() / SAMPLED)
            && (tells(&self.nodes, plan.wanted, plan.kth()) || self.nodes.len() <= plan.wanted)
    }
}

impl Hnsw {
    /// The best k of the rows allowed, for every query.
    pub(crate) fn search_among(&self, graph: &Graph, request: &Request, allowed: &Allowed) -> Result<Answers> {
        let flat = &self.flat;
        let asked = request.recall.unwrap_or(DEFAULT_RECALL);
        let recall = 1.0 - (1.0 - asked) * MISSES;
        let beside = self.beside_graph(graph, |row| allowed.holds(row));
        let (inside, nodes) = (allowed.count() - beside.len(), graph.rows.len());
        let k = request.k.min(allowed.count());
        let count = request.queries.len() / flat.dimension;
        let is_adaptive = flat.metric != Metric::Dot;
        let together = flat.is_dense(allowed);
        let read = if together { flat.ids.rows() } else { allowed.count() };
        let scan = plan::scan(read, together, flat.dimension, count);
        let extra = if beside.is_empty() { 0.0 } else { plan::scan(beside.len(), false, flat.dimension, 1) };
        let sweep = extra + plan::sweep(inside, graph.guide.lines, k);
        // Where keys are no distances, nobody knows what they may be off by.
        let sweep = if is_adaptive { sweep } else { f64::INFINITY };
        let [deep, deepest] = plan::depth(k, inside, nodes);
        // Nor how far to go: there the pool must hold enough for every query.
        let deep = if is_adaptive { deep } else { deepest };
        let width = self.width(graph, deep, recall).min(nodes);
        let reach = adaptive(flat.metric, width, deep, Lie::default());
        let through = extra + plan::walk(width, reach.depth);
        let exactly = |request: &Request| flat.search_allowed(Some(allowed), request);
        if inside == 0 || scan < sweep.min(through) {
            return exactly(request);
        }
        let shallow = self.width(graph, k, recall);
        let walk = Plan::new(flat.dimension, reach, (k, shallow), inside);
        let walk = Plan { timed: request.timed, allowed: Some(allowed), beside: &beside, ..walk };
        let sweeping = |request: &Request| {
            let swept = Swept::of(graph, allowed);
            let plan = Plan { reach: Reach::wide(shallow), swept: Some(&swept), ..walk };
            let (mut answers, crowded) = self.walks(graph, request, &plan)?;
            flat.rescue(request, &crowded, &mut answers, exactly)?;
            Ok(answers)
        };
        let mut answers = if sweep <= through {
            sweeping(request)?
        } else {
            let mut walk = walk;
            if is_adaptive {
                // It is by the rows that may be answered that the walk ends.
                let depth = (depth(deep) * inside).div_ceil(nodes).max(k);
                walk.reach = Reach { width: 4 * width, depth, ..walk.reach };
                (walk.sieve.budget, walk.sieve.patience) = plan::budget(scan.min(sweep));
                walk.sieve.expanded = walk.reach.depth * 2;
            }
            let (mut answers, starved) = self.walks(graph, request, &walk)?;
            flat.rescue(request, &starved, &mut answers, |again| match sweep <= scan {
                true => sweeping(again),
                false => exactly(again),
            })?;
            answers
        };
        answers.expected = asked;
        Ok(answers)
    }
}
