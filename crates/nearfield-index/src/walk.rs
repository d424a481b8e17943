//! Where a graph's neighbours are kept, and how far a walk through it goes (`nearfield_kernels::walk`).

use std::mem;

pub(crate) use nearfield_kernels::walk::{Graph as View, Links, NONE, Reach, Sieve, WIDEST, Walker};
use nearfield_kernels::{Line, Metric, pages};

/// The neighbours of nodes 0 to `nodes - 1`.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    pub nodes: usize,
    /// Cache lines of neighbours a node.
    pub width: usize,
    pub links: Vec<Links>,
    /// Neighbours of the first nodes among each other: the way in. Empty where there are few nodes.
    pub upper: Vec<Links>,
    /// Nodes in the pool of a walk through these.
    pub above: usize,
}

/// Walks through the upper level are hardly wider than the way in must be: what they miss is linked where they end.
const ABOVE: usize = 2;

impl Level {
    /// Nodes without neighbours.
    pub fn new(nodes: usize, degree: usize) -> Self {
        let width = degree.div_ceil(Links::WIDTH);
        let links = pages::filled(nodes * width, Links([NONE; Links::WIDTH]));
        Self { nodes, width, links, upper: Vec::new(), above: ABOVE }
    }

    /// Makes room for more nodes, or gives up the last ones.
    pub fn resize(&mut self, nodes: usize) {
        let (had, wanted) = (self.links.len(), nodes * self.width);
        pages::reserve(&mut self.links, wanted.saturating_sub(had));
        self.links.resize(wanted, Links([NONE; Links::WIDTH]));
        self.nodes = nodes;
    }

    /// The graph of these neighbours over guide codes of so many lines, the first `linked` nodes of which have some: what
    /// builders walk. Led by the upper level, they would meet nodes near to a point alone, and leave the long edges out.
    pub fn view<'a>(&'a self, (codes, lines): (&'a [Line], usize), linked: usize) -> View<'a> {
        let Level { width, above, .. } = *self;
        View { codes, lines, links: &self.links, width, above, entries: entries(linked), ..View::default() }
    }

    /// As `view`, with the upper level as the way in: what searches walk.
    pub fn led<'a>(&'a self, codes: (&'a [Line], usize), linked: usize) -> View<'a> {
        let above = self.upper.len() / self.width;
        let view = self.view(codes, linked);
        // As a graph shrinks, the upper level may have nodes that are not there any more, until it is brought up to date.
        if !(1..=linked).contains(&above) {
            return view;
        }
        View { upper: &self.upper, entries: entries(above), ..view }
    }

    /// All nodes in an order in which neighbours stand near each other: a walk that is among some nodes reads their neighbours
    /// next, and fewer pages where these lie side by side. The first stay in their places. Depth first, and all of a node's
    /// near neighbours at once. (On what order is worth see Coleman et al., "Graph Reordering for Cache-Efficient Near Neighbor
    /// Search", 2022.)
    pub fn side_by_side(&self, first: usize) -> Vec<u32> {
        let mut placed = vec![false; self.nodes];
        let mut order: Vec<u32> = (0..first as u32).collect();
        placed[..first].fill(true);
        let mut waiting = Vec::new();
        for start in 0..self.nodes as u32 {
            if !mem::replace(&mut placed[start as usize], true) {
                order.push(start);
            } else if start as usize >= first {
                continue; // where it was placed its neighbours were
            }
            waiting.push(start);
            while let Some(node) = waiting.pop() {
                let from = order.len();
                let near = self.of(node).take(Links::WIDTH);
                order.extend(near.filter(|other| !mem::replace(&mut placed[*other as usize], true)));
                waiting.extend(order[from..].iter().rev());
            }
        }
        order
    }

    /// Neighbours of a node.
    #[inline(always)]
    pub fn of(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let start = node as usize * self.width;
        listed(&self.links[start..start + self.width])
    }

    /// Where the neighbours of a node stand.
    pub fn list_mut(&mut self, node: u32) -> &mut [Links] {
        let start = node as usize * self.width;
        &mut self.links[start..start + self.width]
    }

    /// Replaces the neighbours of a node.
    pub fn set(&mut self, node: u32, neighbours: &[u32]) {
        set(self.list_mut(node), neighbours);
    }
}

/// The neighbours that stand here.
#[inline(always)]
pub(crate) fn listed(list: &[Links]) -> impl Iterator<Item = u32> + '_ {
    list.iter().flat_map(|links| links.0).take_while(|neighbour| *neighbour != NONE)
}

/// Replaces the neighbours that stand here.
pub(crate) fn set(list: &mut [Links], neighbours: &[u32]) {
    for (links, part) in list.iter_mut().zip((0..).step_by(Links::WIDTH)) {
        links.0 = std::array::from_fn(|i| neighbours.get(part + i).copied().unwrap_or(NONE));
    }
}

/// First nodes among which a walk looks for its start. As these are random rows, the nearest of them is about
/// the `nodes / entries`-th nearest of all; they lie side by side, so each costs a fraction of a node met on a walk.
pub(crate) fn entries(nodes: usize) -> usize {
    (nodes.isqrt() / 2).next_multiple_of(8).min(nodes)
}

/// Of so many nodes one is in the upper level.
const UPPER_SHARE: usize = 32;

/// Fewer nodes are no upper level: the table of the first is as good a way in.
const FEWEST_ABOVE: usize = if cfg!(test) { 32 } else { 8192 };

/// The first nodes of so many that are the upper level; 0 where there is none.
pub(crate) fn above(nodes: usize) -> usize {
    Some(nodes / UPPER_SHARE).filter(|above| *above >= FEWEST_ABOVE).unwrap_or(0)
}

/// The first nodes of so many that walks may begin with.
pub(crate) fn leading(nodes: usize) -> usize {
    above(nodes).max(entries(nodes))
}

/// The narrowest walk for k answers. The nearest row alone is found by less, but by fewer of those who are not like rows.
pub(crate) fn narrowest(k: usize) -> usize {
    k.max(10)
}

/// By how many of the nearest nodes a walk for k answers ends.
pub(crate) fn depth(k: usize) -> usize {
    (7 * narrowest(k)).div_ceil(5)
}

/// How far from the nearest of the rows others lie, as half squared distances; zero where nobody knows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Lie {
    /// Half of them lie no farther than this.
    pub usual: f32,
    /// Hardly any lies farther than this beyond it.
    pub spread: f32,
}

impl Lie {
    /// What such half squared distances tell.
    pub fn of(nearest: &mut [f32]) -> Self {
        nearest.sort_unstable_by(f32::total_cmp);
        let at = |share: usize| nearest.get(nearest.len() * share / 100).copied().unwrap_or(0.0).max(0.0);
        let (usual, farthest) = (at(50), at(99));
        if !farthest.is_finite() {
            return Self::default(); // products are no distances
        }
        Self { usual, spread: (farthest - usual).max(usual / 4.0) }
    }
}

/// A walk for k answers that expands about as many nodes as one of this width on an average, fewer for easy queries
/// and more for hard ones; the dot product is no distance, and its walks have a width. The slack is a matter of scale:
/// which width gives which recall is measured.
///
/// It is measured on rows. Queries of another kind, as people's questions are beside passages, lie farther from all rows,
/// and miss as many answers more as rows do that lie as far out: so a walk for these has more slack.
pub(crate) fn adaptive(metric: Metric, width: usize, k: usize, lie: Lie) -> Reach {
    const SLACK: f32 = 0.016; // for twice the width of the depth
    const OUTSIDE: f32 = 0.1; // more at the end of the spread
    if metric == Metric::Dot {
        return Reach::wide(width);
    }
    let depth = depth(k);
    let slack = SLACK * width.saturating_sub(depth) as f32 / depth as f32;
    let steep = if lie.spread > 0.0 { (OUTSIDE - slack / 2.0).max(0.0) / lie.spread } else { 0.0 };
    Reach { width: 4 * depth.max(width), depth: depth.min(width), slack, far: lie.usual, steep, keep: f32::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn neighbours_of_many_nodes_stay_on_large_pages_as_they_become_more() {
        use crate::mapped::is_in_large_pages;
        let mut level = Level::new(1 << 22, Links::WIDTH);
        level.set(5, &[7]);
        level.resize((1 << 22) + 1000);
        assert!(is_in_large_pages(level.list_mut(1 << 21).as_ptr()) && level.of(5).eq([7]));
    }

    #[test]
    fn neighbours_come_to_stand_side_by_side_and_no_node_is_lost_or_stands_twice() {
        // Three rings whose nodes stand in turn, and nodes that nobody leads to.
        let mut level = Level::new(304, Links::WIDTH);
        for node in 0..300 {
            level.set(node, &[(node + 3) % 300, (node + 297) % 300]);
        }
        let order = level.side_by_side(6);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..304) && order.starts_with(&[0, 1, 2, 3, 4, 5]));
        let is_beside = |pair: &&[u32]| level.of(pair[0]).any(|other| other == pair[1]);
        assert!(order.windows(2).filter(is_beside).count() >= 300 - 3 - 6);
        assert!(level.side_by_side(304).into_iter().eq(0..304));
    }

    #[test]
    fn only_what_lies_farther_out_than_half_of_the_rows_gets_more_slack_and_nothing_where_nobody_knows() {
        let mut nearest: Vec<f32> = (0..100).rev().map(|i| i as f32).collect();
        let lie = Lie::of(&mut nearest);
        assert_eq!(lie, Lie { usual: 50.0, spread: 49.0 });
        let reach = |width| adaptive(Metric::L2, width, 10, lie);
        assert_eq!((reach(10).depth, reach(10).slack, reach(10).far), (10, 0.0, 50.0));
        assert!((reach(10).steep * lie.spread - 0.1).abs() < 1e-6);
        assert!(reach(14).steep > reach(60).steep && reach(60).steep > 0.0, "wide walks have slack already");
        assert_eq!(reach(1000).steep, 0.0);
        for unknown in [Lie::default(), Lie::of(&mut []), Lie::of(&mut [f32::INFINITY; 8]), Lie::of(&mut [0.0; 8])] {
            assert_eq!(adaptive(Metric::Cosine, 60, 10, unknown).steep, 0.0);
        }
        // Rows all about as far from each other do not make everybody else an exception.
        assert_eq!(Lie::of(&mut [2.0; 50]).spread, 0.5);
        assert_eq!(adaptive(Metric::Dot, 60, 10, lie).depth, usize::MAX);
    }
}
