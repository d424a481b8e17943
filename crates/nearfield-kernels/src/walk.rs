//! One walk through a graph: best first, steered by guide codes.
//!
//! The pool holds the nearest nodes seen so far, as `key << 32 | node << 1 | expanded` in ascending order. A step
//! expands the nearest node that is not expanded yet; the walk ends when all in the pool are. This is the search of
//! Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
//! World graphs", 2018, in the form with one bounded pool of Fu et al. (NSG), 2019. A walk may also end earlier, when the
//! next node is farther by some share than the best ones found: the adaptive beam of Al-Jazzazi et al., "Distance
//! Adaptive Beam Search for Provably Accurate Graph-Based Nearest Neighbor Search", 2025.
//!
//! Three steps are always on their way: while the neighbours of one node are scored, the codes of the next two's travel.
//! So a node is chosen before the neighbours of those before it are known, and no step waits for memory alone. Neighbours of
//! the nodes next in the pool travel as well: most of these are expanded soon.
//!
//! The loop is compiled once for every SIMD level, with that level's [`Steps`]; all of them walk the same way.

use crate::guide::{GuideQuery, ordered, unordered};
use crate::{Line, pages, prefetch};

/// Stands where a node has no further neighbour.
pub const NONE: u32 = u32::MAX;

/// Sixteen neighbours: a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Links(pub [u32; Links::WIDTH]);

impl Links {
    /// Neighbours in a line.
    pub const WIDTH: usize = 16;
}

/// A graph over rows of guide codes. Neighbours of a node stand first in its links.
#[derive(Clone, Copy, Debug, Default)]
pub struct Graph<'a> {
    /// Guide codes, `lines` a node.
    pub codes: &'a [Line],
    /// Lines of a guide code.
    pub lines: usize,
    /// Neighbours, `width` lines a node.
    pub links: &'a [Links],
    /// Lines of neighbours a node, at most [`WIDEST`].
    pub width: usize,
    /// Neighbours of the first nodes among each other, `width` lines a node: a walk through these alone finds where to
    /// start. Empty where there is no such level.
    pub upper: &'a [Links],
    /// Nodes in the pool of that walk.
    pub above: usize,
    /// A walk starts from the nearest of this many first nodes; where there is an upper level, in that one.
    pub entries: usize,
    /// Which nodes may be answered, where not all may.
    pub sieve: Option<Sieve<'a>>,
}

/// Which nodes may be answered. A walk passes through the others as well, but it ends by those that may: where the next
/// node is farther by some share than the `depth`-th nearest *of these*.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sieve<'a> {
    /// Row of each node, NONE for nodes that may not be answered.
    pub rows: &'a [u32],
    /// A bit a row.
    pub bits: &'a [u64],
    /// Steps after which a walk looks where it stands, and gives up where it is expected to take too long.
    pub patience: usize,
    /// Steps that are too many.
    pub budget: usize,
    /// Nodes that may be answered which a walk expands before it ends, about.
    pub expanded: usize,
}

impl Sieve<'_> {
    /// Whether a node may be answered.
    #[inline(always)]
    pub fn holds(&self, node: u32) -> bool {
        let row = self.rows[node as usize];
        row != NONE && self.bits[row as usize / 64] >> (row % 64) & 1 == 1
    }
}

/// Lines of neighbours that a node has at the most.
pub const WIDEST: usize = 8;

/// How far a walk goes.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Nodes in the pool at the most.
    pub width: usize,
    /// The walk ends where the next node's squared distance is above that of the `depth`-th nearest by this share.
    pub depth: usize,
    /// The share.
    pub slack: f32,
    /// Half the squared distance to the nearest beyond which a query lies far from all, and its walk goes farther.
    pub far: f32,
    /// What the share grows by for each unit beyond it.
    pub steep: f32,
    /// Nodes stay in the pool while they are behind the `depth`-th nearest by less than this, as by
    /// [`GuideQuery::behind`], even where the walk does not reach them any more.
    pub keep: f32,
}

impl Reach {
    /// A walk that ends when all of the nearest `width` nodes are expanded.
    pub fn wide(width: usize) -> Self {
        Self { width, depth: usize::MAX, slack: 0.0, far: 0.0, steep: 0.0, keep: f32::INFINITY }
    }

    /// The key up to which nodes are expanded, where the `depth`-th nearest and the nearest have these keys.
    #[inline(always)]
    fn limit(&self, near: u64, nearest: u64, square: f32) -> u32 {
        let [near, nearest] = [near, nearest].map(|entry| unordered((entry >> 32) as u32));
        let share = self.slack + self.steep * (nearest + square / 2.0 - self.far).max(0.0);
        ordered(near + share * (near + square / 2.0))
    }
}

/// What a SIMD level does its own way. Buffers are longer than what is in them by [`SPARE`]; in lists of rows, rows that
/// there are stand in the spare places too.
pub(crate) trait Steps {
    /// Puts neighbours whose bit is not set into `fresh` and returns how many.
    fn unseen(links: &[Links], seen: &[u32], fresh: &mut [u32]) -> usize;
    /// Puts entries of the first `count` rows whose key is below the bar into `found`, in the order of the rows; returns
    /// how many.
    fn score(graph: &Graph, rows: &[u32], count: usize, query: &GuideQuery, bar: u32, found: &mut [u64]) -> usize;
    /// Puts an entry in its place among the first `length` of the pool, beyond which all bits are set; returns it.
    fn insert(pool: &mut [u64], length: usize, entry: u64) -> usize;
}

/// Places that a level may write to beyond what it returns.
pub(crate) const SPARE: usize = 16;

/// Room for walks, kept from one to the next.
#[derive(Debug, Default)]
pub struct Walker {
    /// One bit a node.
    seen: Vec<u32>,
    /// Nodes of the graph of the last walk.
    nodes: usize,
    /// Nodes whose bit is set.
    marked: Vec<u32>,
    /// Nodes that the last steps have met: the first list is scored next, the last one is being filled.
    met: [Vec<u32>; UNDER_WAY + 1],
    found: Vec<u64>,
    /// The nearest nodes, see above, and places with all bits set beyond them.
    pool: Vec<u64>,
    length: usize,
    /// Nodes scored by the last walk.
    pub scored: usize,
    /// Nodes expanded by the last walk.
    pub hops: usize,
    /// Entries of the nearest nodes that may be answered, where there is a sieve.
    answerable: Vec<u64>,
    /// Whether the last walk gave up, or found too few of them.
    pub starved: bool,
}

/// The node of an entry of the pool.
#[inline(always)]
fn node_of(entry: u64) -> u32 {
    entry as u32 >> 1
}

/// Nodes that a walk starts from.
const STARTS: usize = 2;

/// Steps whose nodes are met and not scored yet: the codes of these are on their way.
const UNDER_WAY: usize = 2;

/// Nodes next in the pool whose neighbours are asked for.
const LIKELY: usize = 4;

/// First nodes scored at a time.
const AT_ONCE: usize = Links::WIDTH * WIDEST;

impl Walker {
    /// The nearest nodes of the last walk, nearest first: `key << 32 | node << 1 | expanded`, keys as by [`ordered`].
    pub fn nearest(&self) -> &[u64] {
        &self.pool[..self.length]
    }

    /// Guide keys and nodes, nearest first.
    pub fn keyed(&self) -> impl Iterator<Item = (f32, u32)> + '_ {
        self.pool[..self.length].iter().map(|entry| (unordered((entry >> 32) as u32), node_of(*entry)))
    }

    /// The nodes alone.
    pub fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.pool[..self.length].iter().map(|entry| node_of(*entry))
    }

    fn prepare(&mut self, graph: &Graph, width: usize) {
        let nodes = graph.links.len() / graph.width;
        let words = nodes.div_ceil(32) + 1;
        if self.seen.len() < words {
            self.seen = pages::filled(words, 0);
        }
        for buffer in &mut self.met {
            if self.nodes != nodes {
                buffer.clear(); // what is left in spare places must be nodes of this graph
            }
            buffer.resize(AT_ONCE + SPARE, 0);
        }
        self.nodes = nodes;
        self.found.resize(AT_ONCE + SPARE, 0);
        let room = (width.max(STARTS) + 1).next_multiple_of(8) + SPARE;
        if self.pool.len() < room {
            self.pool.resize(room, u64::MAX);
        }
        self.pool[..self.length].fill(u64::MAX);
        (self.length, self.scored, self.hops) = (0, 0, 0);
        self.answerable.clear();
        self.starved = false;
    }

    fn forget(&mut self) {
        // A few kilobytes are cleared faster as they lie than bit by bit.
        if self.seen.len() <= 16 * self.marked.len() {
            self.seen.fill(0);
        } else {
            self.marked.iter().for_each(|node| self.seen[*node as usize / 32] = 0);
        }
        self.marked.clear();
    }

    /// Makes the nearest nodes of a walk the start of another.
    fn descend(&mut self, starts: usize) {
        self.forget();
        let left = starts.min(self.length);
        self.pool[left..self.length].fill(u64::MAX);
        self.pool[..left].iter_mut().for_each(|entry| *entry &= !1);
        self.length = left;
    }

    /// Takes the nodes out of the pool whose keys are above a limit.
    #[inline(always)]
    fn drop_beyond(&mut self, limit: u32) {
        while self.length > 0 && (self.pool[self.length - 1] >> 32) as u32 > limit {
            self.length -= 1;
            self.pool[self.length] = u64::MAX;
        }
    }

    /// Puts `count` of `found` into the pool; returns the first place that changed.
    #[inline(always)]
    fn take<S: Steps>(&mut self, count: usize, width: usize) -> usize {
        let mut first = usize::MAX;
        for i in 0..count {
            let entry = self.found[i];
            if self.length == width && entry >= self.pool[width - 1] {
                continue;
            }
            first = first.min(S::insert(&mut self.pool, self.length, entry));
            if self.length == width {
                self.pool[width] = u64::MAX;
            } else {
                self.length += 1;
            }
        }
        first
    }
}

impl Walker {
    /// Keeps the nearest `depth` nodes that may be answered, those of the first `count` of `found` among them. Nothing of
    /// `found` is needed after it.
    #[inline(always)]
    fn sift(&mut self, count: usize, depth: usize, sieve: &Sieve) {
        let last = self.answerable.get(depth - 1).copied().unwrap_or(u64::MAX);
        let mut kept = 0;
        for i in 0..count {
            let entry = self.found[i]; // without a branch on what nobody could predict
            self.found[kept] = entry;
            kept += usize::from(entry < last) & usize::from(sieve.holds(node_of(entry)));
        }
        for &entry in &self.found[..kept] {
            let full = self.answerable.len() == depth;
            if full && entry >= self.answerable[depth - 1] {
                continue;
            }
            if full {
                self.answerable.pop();
            }
            let at = self.answerable.partition_point(|other| *other < entry);
            self.answerable.insert(at, entry);
        }
    }
}

/// The key below which a node must be to enter the pool.
#[inline(always)]
fn bar(pool: &[u64], length: usize, width: usize) -> u32 {
    if length < width { u32::MAX } else { (pool[width - 1] >> 32) as u32 }
}

/// Walks for one query and leaves the nearest nodes in the pool.
#[inline(always)]
pub(crate) fn walk<S: Steps, const SIEVED: bool>(walker: &mut Walker, graph: &Graph, query: &GuideQuery, reach: Reach) {
    assert!((1..=WIDEST).contains(&graph.width) && reach.width > 0);
    let starts = STARTS.min(reach.width);
    let above = graph.above.max(starts);
    walker.prepare(graph, reach.width.max(above));
    for first in (0..graph.entries).step_by(AT_ONCE) {
        let count = AT_ONCE.min(graph.entries - first);
        for (place, node) in walker.met[0].iter_mut().zip(first as u32..).take(count) {
            *place = node;
        }
        let bar = bar(&walker.pool, walker.length, starts);
        let count = S::score(graph, &walker.met[0], count, query, bar, &mut walker.found);
        walker.take::<S>(count, starts);
    }
    walker.scored = graph.entries;
    if !graph.upper.is_empty() {
        let upper = Graph { links: graph.upper, upper: &[], sieve: None, ..*graph };
        expand::<S, false>(walker, &upper, query, Reach::wide(above));
        walker.descend(starts);
    }
    expand::<S, SIEVED>(walker, graph, query, reach);
}

/// Goes from the nodes in the pool on to nearer neighbours.
#[inline(always)]
fn expand<S: Steps, const SIEVED: bool>(walker: &mut Walker, graph: &Graph, query: &GuideQuery, reach: Reach) {
    let Reach { width, depth, keep, .. } = reach;
    for i in 0..walker.length {
        let node = node_of(walker.pool[i]);
        walker.seen[node as usize / 32] |= 1 << (node % 32);
        walker.marked.push(node);
        fetch(graph, node);
    }
    let adaptive = query.square.is_finite() && depth <= width;
    let sieve = graph.sieve.as_ref().filter(|_| SIEVED);
    let mut answerable = 0; // of those expanded
    if let Some(sieve) = sieve.filter(|_| adaptive) {
        walker.found[..walker.length].copy_from_slice(&walker.pool[..walker.length]);
        walker.sift(walker.length, depth, sieve);
    }
    let (mut limit, mut nearest) = (u32::MAX, [u64::MAX; 2]); // the latter: the `depth`-th nearest node and the nearest
    // The first place not expanded, the node whose neighbours are on their way, and how many neighbours of those before it
    // wait to be scored.
    let (mut next, mut chosen, mut waiting) = (0, NONE, [0; UNDER_WAY]);
    loop {
        while next < walker.length && walker.pool[next] & 1 == 1 {
            next += 1;
        }
        let mut following = NONE;
        if next < walker.length && (walker.pool[next] >> 32) as u32 <= limit {
            following = node_of(walker.pool[next]);
            walker.pool[next] |= 1;
            next += 1;
            fetch(graph, following);
            let likely = next..walker.length.min(next + LIKELY);
            walker.pool[likely].iter().for_each(|entry| fetch(graph, node_of(*entry)));
            if let Some(sieve) = sieve {
                answerable += usize::from(sieve.holds(following));
                if walker.hops >= sieve.patience
                    && walker.hops.is_multiple_of(16)
                    && answerable < sieve.expanded
                    && walker.hops * sieve.expanded > sieve.budget * answerable.max(1)
                {
                    walker.starved = true;
                    break;
                }
            }
        } else if waiting == [0; UNDER_WAY] && chosen == NONE {
            break;
        }
        let mut coming = 0;
        if chosen != NONE {
            let start = chosen as usize * graph.width;
            coming = S::unseen(&graph.links[start..start + graph.width], &walker.seen, &mut walker.met[UNDER_WAY]);
            let (met, seen) = (&walker.met[UNDER_WAY][..coming], &mut walker.seen[..]);
            for node in met {
                (0..graph.lines).for_each(|line| prefetch(graph.codes, *node as usize * graph.lines + line));
                seen[*node as usize / 32] |= 1 << (node % 32);
            }
            walker.marked.extend_from_slice(met);
            walker.hops += 1;
            walker.scored += coming;
        }
        if waiting[0] > 0 {
            let bar = bar(&walker.pool, walker.length, width).min(limit);
            let count = S::score(graph, &walker.met[0], waiting[0], query, bar, &mut walker.found);
            next = next.min(walker.take::<S>(count, width));
            let last = match sieve {
                _ if !adaptive => None,
                Some(sieve) => {
                    walker.sift(count, depth, sieve);
                    walker.answerable.get(depth - 1)
                }
                None => walker.pool[..walker.length].get(depth - 1),
            };
            if let Some(measured) = last.map(|last| [*last, walker.pool[0]]).filter(|measured| *measured != nearest) {
                limit = reach.limit(measured[0], measured[1], query.square);
                let near = unordered((measured[0] >> 32) as u32);
                walker.drop_beyond(limit.max(ordered(query.behind(near, keep))));
                (nearest, next) = (measured, next.min(walker.length));
            }
        }
        walker.met.rotate_left(1);
        waiting[0] = coming;
        waiting.rotate_left(1);
        chosen = following;
    }
    walker.starved |= sieve.is_some() && adaptive && walker.answerable.len() < depth;
    walker.forget();
}

/// Scores all of these nodes for one query and leaves the nearest `width` in the pool.
#[inline(always)]
pub(crate) fn sweep<S: Steps>(walker: &mut Walker, graph: &Graph, query: &GuideQuery, nodes: &[u32], width: usize) {
    assert!((1..=WIDEST).contains(&graph.width) && width > 0);
    let ask = |nodes: &[u32]| {
        for node in nodes {
            (0..graph.lines).for_each(|line| prefetch(graph.codes, *node as usize * graph.lines + line));
        }
    };
    walker.prepare(graph, width);
    ask(&nodes[..nodes.len().min(AT_ONCE)]);
    // Most of the nearest so far will not stay: they are put in order at the end, and thinned out now and then.
    let (nearest, mut bar) = (&mut walker.answerable, u32::MAX);
    for first in (0..nodes.len()).step_by(AT_ONCE) {
        let (now, later) = nodes[first..].split_at(AT_ONCE.min(nodes.len() - first));
        ask(&later[..later.len().min(AT_ONCE)]);
        walker.met[0][..now.len()].copy_from_slice(now);
        let count = S::score(graph, &walker.met[0], now.len(), query, bar, &mut walker.found);
        nearest.extend_from_slice(&walker.found[..count]);
        if nearest.len() > 2 * width + AT_ONCE {
            bar = (*nearest.select_nth_unstable(width - 1).1 >> 32) as u32;
            nearest.truncate(width);
        }
    }
    nearest.sort_unstable();
    nearest.truncate(width);
    walker.pool[..nearest.len()].copy_from_slice(nearest);
    (walker.length, walker.scored) = (nearest.len(), nodes.len());
}

#[inline(always)]
fn fetch(graph: &Graph, node: u32) {
    for line in 0..graph.width {
        prefetch(graph.links, node as usize * graph.width + line);
    }
}

/// [`Steps::unseen`] in plain Rust.
#[inline(always)]
pub(crate) fn unseen(links: &[Links], seen: &[u32], fresh: &mut [u32]) -> usize {
    let mut count = 0;
    for &node in links.iter().flat_map(|links| &links.0).take_while(|node| **node != NONE) {
        fresh[count] = node; // without a branch on the bit, which nobody could predict
        count += usize::from(seen[node as usize / 32] >> (node % 32) & 1 == 0);
    }
    count
}

/// [`Steps::insert`] in plain Rust.
#[inline(always)]
pub(crate) fn insert(pool: &mut [u64], length: usize, entry: u64) -> usize {
    let at = pool[..length].partition_point(|other| *other < entry);
    pool.copy_within(at..length, at + 1);
    pool[at] = entry;
    at
}
