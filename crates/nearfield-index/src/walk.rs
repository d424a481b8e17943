//! One walk through a graph: best first, steered by guide codes.
//!
//! The pool holds the nearest nodes seen so far, as `key << 32 | node << 1 | expanded` in ascending order. A step
//! expands the nearest node that is not expanded yet; the walk ends when all in the pool are. This is the search of
//! Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
//! World graphs", 2018, in the form with one bounded pool of Fu et al. (NSG), 2019. A walk may also end earlier, when the
//! next node is farther by some share than the best ones found: the adaptive beam of Al-Jazzazi et al., "Distance
//! Adaptive Beam Search for Provably Accurate Graph-Based Nearest Neighbor Search", 2025.

use nearfield_kernels::guide::{GuideQuery, ordered, unordered};
use nearfield_kernels::{Kernels, Line, Metric, pages, prefetch};

/// Stands where a node has no further neighbour.
pub(crate) const NONE: u32 = u32::MAX;

/// Sixteen neighbours: a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Links(pub [u32; Links::WIDTH]);

impl Links {
    pub const WIDTH: usize = 16;
}

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

    /// Makes room for more nodes.
    pub fn grow(&mut self, nodes: usize) {
        let mut more = Self::new(nodes, self.width * Links::WIDTH);
        more.links[..self.links.len()].copy_from_slice(&self.links);
        *self = more;
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

/// How far a walk goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Nodes in the pool at the most.
    pub width: usize,
    /// The walk ends where the next node's squared distance is above that of the `depth`-th nearest by this share.
    pub depth: usize,
    pub slack: f32,
}

impl Reach {
    /// A walk that ends when all of the nearest `width` nodes are expanded.
    pub fn wide(width: usize) -> Self {
        Self { width, depth: usize::MAX, slack: 0.0 }
    }

    /// A walk for k answers that expands about as many nodes as one of this width on an average, fewer for easy queries
    /// and more for hard ones; the dot product is no distance, and its walks have a width. The slack is a matter of scale: which width gives which recall is measured.
    pub fn adaptive(metric: Metric, width: usize, k: usize) -> Self {
        const SLACK: f32 = 0.016; // for twice the width of the depth
        let depth = 2 * k.max(10);
        if width <= depth || metric == Metric::Dot {
            return Self::wide(width);
        }
        Self { width: 4 * width, depth, slack: SLACK * (width - depth) as f32 / depth as f32 }
    }
}

/// Room for walks, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    /// One bit a node.
    seen: Vec<u64>,
    /// Nodes whose bit is set.
    marked: Vec<u32>,
    fresh: Vec<u32>,
    ahead: Vec<u32>,
    below: Vec<u64>,
    /// The nearest nodes, see above.
    pub pool: Vec<u64>,
    /// Nodes scored and nodes expanded, until somebody takes the counts.
    pub scored: usize,
    pub hops: usize,
}

/// The node of an entry of the pool.
#[inline(always)]
pub(crate) fn node_of(entry: u64) -> u32 {
    entry as u32 >> 1
}

/// Neighbours of a node whose bit is not set. Without a branch on the bit, which nobody could predict.
#[inline(always)]
fn unseen(level: &Level, node: u32, seen: &[u64], into: &mut Vec<u32>) {
    into.resize(level.width * Links::WIDTH, 0);
    let (start, mut count) = (node as usize * level.width, 0);
    for links in &level.links[start..start + level.width] {
        for &neighbour in &links.0 {
            if neighbour == NONE {
                break;
            }
            into[count] = neighbour;
            count += usize::from(seen[neighbour as usize / 64] >> (neighbour % 64) & 1 == 0);
        }
    }
    into.truncate(count);
}

/// Asks for the guide codes of these nodes.
#[inline(always)]
fn ask(codes: &[Line], lines: usize, nodes: &[u32]) {
    for &node in nodes {
        for line in 0..lines {
            prefetch(codes, node as usize * lines + line);
        }
    }
}

impl Walker {
    fn clear_seen(&mut self) {
        for &node in &self.marked {
            self.seen[node as usize / 64] = 0;
        }
        self.marked.clear();
    }

    /// Walks down the levels, the highest last, and leaves the nearest `width` nodes of the lowest in the pool.
    pub fn descend(
        &mut self,
        kernels: &Kernels,
        (codes, lines): (&[Line], usize),
        levels: &[Level],
        query: &GuideQuery,
        reach: Reach,
    ) {
        const FIRST: usize = 16; // nodes looked at before the first step
        const BESIDE: usize = 4; // width above the lowest level
        let Some(top) = levels.last() else { return };
        let words = levels[0].nodes.div_ceil(64);
        if self.seen.len() < words {
            self.seen.resize(words, 0);
        }
        self.pool.clear();
        let first: Vec<u32> = (0..top.nodes.min(FIRST) as u32).collect();
        (kernels.score)(codes, lines, &first, query, u32::MAX, &mut self.pool);
        self.scored += first.len();
        self.pool.sort_unstable();
        for (i, level) in levels.iter().enumerate().rev() {
            let here = if i == 0 { reach } else { Reach::wide(BESIDE.min(reach.width)) };
            self.pool.truncate(here.width);
            for entry in &mut self.pool {
                *entry &= !1;
                let node = node_of(*entry);
                self.seen[node as usize / 64] |= 1 << (node % 64);
                self.marked.push(node);
            }
            self.walk(kernels, (codes, lines), level, query, here);
            self.clear_seen();
        }
    }

    /// Expands nodes until all in the pool are expanded. The pool holds where to start, marked as seen.
    fn walk(
        &mut self,
        kernels: &Kernels,
        (codes, lines): (&[Line], usize),
        level: &Level,
        query: &GuideQuery,
        Reach { width, depth, slack }: Reach,
    ) {
        let adaptive = query.square.is_finite() && depth <= width;
        let mut limit = u32::MAX;
        let mut next = 0;
        let mut fetched = NONE; // node whose neighbours' codes were asked for a step ago
        while let Some(entry) = self.pool.get_mut(next) {
            let node = node_of(*entry);
            if (*entry >> 32) as u32 > limit {
                break;
            }
            *entry |= 1;
            if node == fetched {
                std::mem::swap(&mut self.fresh, &mut self.ahead); // nothing was marked since
            } else {
                unseen(level, node, &self.seen, &mut self.fresh);
                ask(codes, lines, &self.fresh);
            }
            for &neighbour in &self.fresh {
                self.seen[neighbour as usize / 64] |= 1 << (neighbour % 64);
            }
            self.hops += 1;
            self.scored += self.fresh.len();
            self.marked.extend_from_slice(&self.fresh);
            // The step after this one is known unless this one finds a nearer node: its rows travel while these are
            // scored.
            next += 1;
            while self.pool.get(next).is_some_and(|entry| entry & 1 == 1) {
                next += 1;
            }
            if let Some(&entry) = self.pool.get(next) {
                fetched = node_of(entry);
                unseen(level, fetched, &self.seen, &mut self.ahead);
                ask(codes, lines, &self.ahead);
                if let Some(&entry) = self.pool.get(next + 1) {
                    self.fetch(level, node_of(entry));
                }
            }
            let bar = if self.pool.len() < width { u32::MAX } else { (self.pool[width - 1] >> 32) as u32 };
            self.below.clear();
            (kernels.score)(codes, lines, &self.fresh, query, bar.min(limit), &mut self.below);
            for i in 0..self.below.len() {
                let entry = self.below[i];
                if self.pool.len() == width {
                    if entry >= self.pool[width - 1] {
                        continue;
                    }
                    self.pool.pop();
                }
                let at = self.pool.partition_point(|other| *other < entry);
                self.pool.insert(at, entry);
                if at <= next + 1 {
                    next = next.min(at);
                    self.fetch(level, node_of(entry));
                }
            }
            if adaptive && self.pool.len() >= depth {
                let near = unordered((self.pool[depth - 1] >> 32) as u32);
                limit = ordered(near + slack * (near + query.square / 2.0));
            }
        }
    }

    #[inline(always)]
    fn fetch(&self, level: &Level, node: u32) {
        for line in 0..level.width {
            prefetch(&level.links, node as usize * level.width + line);
        }
    }
}
