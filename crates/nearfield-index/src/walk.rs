//! Where a graph's neighbours are kept, and how far a walk through it goes (`nearfield_kernels::walk`).

pub(crate) use nearfield_kernels::walk::{Graph as View, Links, NONE, Reach, Sieve, WIDEST, Walker};
use nearfield_kernels::{Line, Metric, pages};

/// The neighbours of nodes 0 to `nodes - 1`.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    pub nodes: usize,
    /// Cache lines of neighbours a node.
    pub width: usize,
    pub links: Vec<Links>,
}

impl Level {
    /// Nodes without neighbours.
    pub fn new(nodes: usize, degree: usize) -> Self {
        let width = degree.div_ceil(Links::WIDTH);
        Self { nodes, width, links: pages::filled(nodes * width, Links([NONE; Links::WIDTH])) }
    }

    /// Makes room for more nodes, or gives up the last ones.
    pub fn resize(&mut self, nodes: usize) {
        let (had, wanted) = (self.links.len(), nodes * self.width);
        pages::reserve(&mut self.links, wanted.saturating_sub(had));
        self.links.resize(wanted, Links([NONE; Links::WIDTH]));
        self.nodes = nodes;
    }

    /// The graph of these neighbours over guide codes of so many lines, the first `linked` nodes of which have some.
    pub fn view<'a>(&'a self, (codes, lines): (&'a [Line], usize), linked: usize) -> View<'a> {
        View { codes, lines, links: &self.links, width: self.width, entries: entries(linked), sieve: None }
    }

    /// Neighbours of a node.
    #[inline(always)]
    pub fn of(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let start = node as usize * self.width;
        let all = self.links[start..start + self.width].iter().flat_map(|links| links.0);
        all.take_while(|neighbour| *neighbour != NONE)
    }

    /// Replaces the neighbours of a node.
    pub fn set(&mut self, node: u32, neighbours: &[u32]) {
        let start = node as usize * self.width;
        for (links, part) in self.links[start..start + self.width].iter_mut().zip((0..).step_by(Links::WIDTH)) {
            links.0 = std::array::from_fn(|i| neighbours.get(part + i).copied().unwrap_or(NONE));
        }
    }
}

/// First nodes among which a walk looks for its start. As nodes are numbered at random, the nearest of them is about
/// the `nodes / entries`-th nearest of all; they lie side by side, so each costs a fraction of a node met on a walk.
pub(crate) fn entries(nodes: usize) -> usize {
    (nodes.isqrt() / 2).next_multiple_of(8).min(nodes)
}

/// By how many of the nearest nodes a walk for k answers ends.
pub(crate) fn depth(k: usize) -> usize {
    (7 * k.max(10)).div_ceil(5)
}

/// A walk for k answers that expands about as many nodes as one of this width on an average, fewer for easy queries
/// and more for hard ones; the dot product is no distance, and its walks have a width. The slack is a matter of scale:
/// which width gives which recall is measured.
pub(crate) fn adaptive(metric: Metric, width: usize, k: usize) -> Reach {
    const SLACK: f32 = 0.016; // for twice the width of the depth
    let depth = depth(k);
    if width <= depth || metric == Metric::Dot {
        return Reach::wide(width);
    }
    Reach { width: 4 * width, depth, slack: SLACK * (width - depth) as f32 / depth as f32 }
}
