//! The kind that chooses itself: exact while that is fast enough, a graph beyond.
//!
//! A search that states no recall is answered exactly up to 2^27 numbers (rows times dimension; 350,000 rows of 384), and
//! with the graph's usual recall above. One that states a recall below 1 walks a graph where there is one and a walk is
//! expected to be faster than a scan. From 2^26 numbers on rows that are added are put into a graph. Below, there is one
//! as soon as it would have paid: when scans for searches that stated a recall have taken longer than walks by as much as
//! a graph takes to build. So whoever states none never waits for a graph, and nobody loses more by waiting for
//! one than it costs (the rule of the ski rental: Karlin et al., "Competitive snoopy caching", 1988). Costs are expected
//! by counts alone, so the same requests in the same order are answered the same way everywhere.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flat::{Answers, Batch, Flat, Request};
use crate::hnsw::{self, Hnsw};
use crate::kind::Kind;
use crate::{Metric, Result, plan};

/// The place of this kind in index files.
const KIND: u32 = 5;

/// An index that is exact while that is fast enough.
#[derive(Debug)]
pub struct Auto {
    index: Hnsw,
    /// Nanoseconds that scans have taken where walks would have saved them.
    spent: AtomicU64,
}

impl Auto {
    /// An empty index.
    pub fn new(dimension: usize, metric: Metric) -> Result<Self> {
        Ok(Self::of(Hnsw::new(dimension, metric)?))
    }

    fn of(mut index: Hnsw) -> Self {
        if index.graph.is_none() {
            index.fewest = index.fewest.max(plan::GRAPH_FROM / index.exact().dimension());
        }
        Self { index, spent: AtomicU64::new(0) }
    }

    /// Reads a file that `save` wrote.
    pub fn load(path: &Path, threads: usize) -> Result<Self> {
        Ok(Self::of(Hnsw::load_kind(path, KIND, threads)?))
    }
}

impl Kind for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn vectors(&self) -> &Flat {
        self.index.exact()
    }

    fn beside(&self) -> usize {
        self.index.bytes()
    }

    fn keep_next_id(&mut self, next: i64) {
        self.index.keep_next_id(next);
    }

    fn keep_in(&mut self, folder: &Path) {
        self.index.keep_in(folder);
    }

    fn stage(&mut self, batch: Batch) {
        self.index.stage(batch);
    }

    fn add(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        self.index.add(vectors, ids, threads)
    }

    fn append(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        self.index.append(vectors, ids, threads)
    }

    fn settle(&mut self, threads: usize) {
        if self.owes() {
            self.demand();
        }
        self.index.fold(threads);
    }

    fn due(&self) -> bool {
        self.index.due() || self.owes()
    }

    fn owes(&self) -> bool {
        let (rows, dimension) = (self.vectors().len(), self.vectors().dimension());
        let has_paid = self.spent.load(Ordering::Relaxed) >= plan::build(rows, dimension);
        has_paid && self.index.graph.is_none() && rows >= hnsw::FEWEST
    }

    fn demand(&mut self) {
        self.index.fewest = hnsw::FEWEST;
        self.spent = AtomicU64::new(0);
    }

    fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize> {
        self.index.remove(ids, threads)
    }

    fn compact(&mut self, threads: usize) {
        self.index.compact(threads);
    }

    fn search(&self, request: &Request) -> Result<Answers> {
        let flat = self.vectors();
        if request.recall.is_none() && flat.len().saturating_mul(flat.dimension()) <= plan::EXACT_UP_TO {
            return flat.search(request);
        }
        let answers = self.index.search(request)?;
        if self.index.graph.is_none() && request.allow.is_none() && request.recall.is_some_and(|recall| recall < 1.0) {
            let count = request.count(flat.dimension());
            let saved = count as f64 * plan::saved(flat.len(), flat.dimension(), count, request.k);
            self.spent.fetch_add(saved as u64, Ordering::Relaxed);
        }
        Ok(answers)
    }

    fn frozen(&self) -> Option<Box<dyn Kind>> {
        Some(Box::new(Self { index: self.index.frozen(), spent: AtomicU64::new(0) }))
    }

    fn save(&self, path: &Path) -> Result<()> {
        self.index.save_kind(path, KIND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_below_the_bound_and_walks_above_it() {
        // The bound is lowered: what is tested is the rule, not its number.
        let mut state = 1u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32
        };
        let rows: Vec<f32> = (0..6000 * 64).map(|i| next() / (1 + i % 64) as f32).collect();
        let mut index = Auto::new(64, Metric::L2).unwrap();
        index.index.fewest = 5000;
        index.add(&rows[..4000 * 64], None, 2).unwrap();
        let asked = |recall| Request { recall, ..Request::new(&rows[..64], 10) };
        assert!(index.search(&asked(Some(0.5))).unwrap().exact);
        index.add(&rows[4000 * 64..], None, 2).unwrap();
        assert!(!index.search(&asked(Some(0.5))).unwrap().exact);
        assert!(index.search(&asked(None)).unwrap().exact && index.search(&asked(Some(1.0))).unwrap().exact);
        let path = std::env::temp_dir().join(format!("nearfield-auto-{}.nfi", std::process::id()));
        index.save(&path).unwrap();
        let loaded = crate::kind::load(&path, 2).unwrap();
        assert_eq!(loaded.name(), "auto");
        assert!(!loaded.search(&asked(Some(0.5))).unwrap().exact);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_graph_is_built_when_scans_have_cost_as_much_and_nobody_pays_who_states_no_recall() {
        let mut random = nearfield_kernels::project::Random::new(1);
        let rows: Vec<f32> = (0..6000 * 16).map(|i| random.normal() / (1 + i % 16) as f32).collect();
        let mut index = Auto::new(16, Metric::L2).unwrap();
        index.add(&rows, None, 2).unwrap();
        let asked = |recall| Request { recall, ..Request::new(&rows[..16], 10) };
        let built = |index: &Auto| index.beside() > 0;
        index.spent = AtomicU64::new(plan::build(6000, 16) - 1);
        for recall in [None, Some(1.0)] {
            assert!(index.search(&asked(recall)).unwrap().exact && !index.owes() && !index.due());
        }
        // Many at once share a scan, which is faster than as many walks.
        assert!(
            index.search(&Request { recall: Some(0.9), ..Request::new(&rows, 10) }).unwrap().exact && !index.owes()
        );
        assert!(index.search(&asked(Some(0.9))).unwrap().exact);
        let saved = plan::saved(6000, 16, 1, 10) as u64;
        assert_eq!(index.spent.load(Ordering::Relaxed), plan::build(6000, 16) - 1 + saved);
        assert!(index.due() && !built(&index));
        index.settle(2);
        assert!(built(&index) && !index.due());
        assert!(!index.search(&Request { recall: Some(0.9), ..Request::new(&rows[..16], 10) }).unwrap().exact);
        // It stays as rows come, go and are read from a file, though there are few.
        index.remove(&[0, 1, 2], 2).unwrap();
        index.add(&rows[..600 * 16], None, 2).unwrap();
        assert!(built(&index));
        let path = std::env::temp_dir().join(format!("nearfield-owed-{}.nfi", std::process::id()));
        index.save(&path).unwrap();
        let mut loaded = Auto::load(&path, 2).unwrap();
        std::fs::remove_file(path).unwrap();
        loaded.add(&rows[..800 * 16], None, 2).unwrap();
        assert!(built(&loaded));
    }

    #[test]
    fn who_demands_a_graph_gets_it_by_the_next_settle() {
        let mut random = nearfield_kernels::project::Random::new(2);
        let rows: Vec<f32> = (0..1500 * 8).map(|_| random.normal()).collect();
        let mut index = Auto::new(8, Metric::L2).unwrap();
        index.append(&rows, None, 2).unwrap();
        index.settle(2);
        assert_eq!(index.beside(), 0);
        index.demand();
        assert!(index.due());
        index.settle(2);
        assert!(index.beside() > 0 && !index.due());
    }
}
