//! The kind that chooses itself: exact while that is fast enough, a graph beyond.
//!
//! The rule depends on counts alone. Up to 2^26 numbers (rows times dimension; 175,000 rows of 384) there is no graph and
//! every answer is exact. Beyond, the graph is built, and a search that states a recall below 1 walks it where that is
//! expected to be faster than a scan. A search that states none is answered exactly up to 2^27 numbers, and with the
//! graph's usual recall above.

use std::path::Path;

use crate::flat::{Answers, Batch, Flat, Request};
use crate::hnsw::Hnsw;
use crate::kind::Kind;
use crate::{Metric, Result, plan};

/// The place of this kind in index files.
const KIND: u32 = 5;

/// An index that is exact while that is fast enough.
#[derive(Debug)]
pub struct Auto(Hnsw);

impl Auto {
    /// An empty index.
    pub fn new(dimension: usize, metric: Metric) -> Result<Self> {
        Ok(Self(Self::patient(Hnsw::new(dimension, metric)?)))
    }

    fn patient(mut graph: Hnsw) -> Hnsw {
        graph.fewest = graph.fewest.max(plan::GRAPH_FROM / graph.exact().dimension());
        graph
    }

    /// Reads a file that `save` wrote.
    pub fn load(path: &Path, threads: usize) -> Result<Self> {
        Ok(Self(Self::patient(Hnsw::load_kind(path, KIND, threads)?)))
    }
}

impl Kind for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn vectors(&self) -> &Flat {
        self.0.exact()
    }

    fn beside(&self) -> usize {
        self.0.bytes()
    }

    fn keep_next_id(&mut self, next: i64) {
        self.0.keep_next_id(next);
    }

    fn keep_in(&mut self, folder: &Path) {
        self.0.keep_in(folder);
    }

    fn stage(&mut self, batch: Batch) {
        self.0.stage(batch);
    }

    fn add(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        self.0.add(vectors, ids, threads)
    }

    fn append(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        self.0.append(vectors, ids, threads)
    }

    fn settle(&mut self, threads: usize) {
        self.0.fold(threads);
    }

    fn due(&self) -> bool {
        self.0.due()
    }

    fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize> {
        self.0.remove(ids, threads)
    }

    fn compact(&mut self, threads: usize) {
        self.0.compact(threads);
    }

    fn search(&self, request: &Request) -> Result<Answers> {
        let flat = self.vectors();
        if request.recall.is_none() && flat.len().saturating_mul(flat.dimension()) <= plan::EXACT_UP_TO {
            return flat.search(request);
        }
        self.0.search(request)
    }

    fn save(&self, path: &Path) -> Result<()> {
        self.0.save_kind(path, KIND)
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
        index.0.fewest = 5000;
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
}
