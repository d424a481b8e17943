//! The one face of every kind of index: made by name, or read from a file that says its kind.

use std::fmt::Debug;
use std::path::Path;

use crate::codec::Reader;
use crate::flat::{Answers, Batch, Flat, Request};
use crate::hnsw::Hnsw;
use crate::probe::{Probed, Structure};
use crate::{Auto, Error, Ivf, IvfPq, Lsh, Metric, Result};

/// A kind of index: exact vectors, and a way of searching them.
pub trait Kind: Debug + Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// The vectors, and exact answers from them.
    fn vectors(&self) -> &Flat;
    /// Bytes of what stands beside the vectors and their codes: a graph, lists, tables. 0 where there is nothing (yet).
    fn beside(&self) -> usize {
        0
    }
    /// As [`Flat::keep_next_id`].
    fn keep_next_id(&mut self, next: i64);
    /// As [`Flat::keep_in`].
    fn keep_in(&mut self, folder: &Path);
    /// As [`Flat::stage`].
    fn stage(&mut self, batch: Batch);
    /// Adds vectors (row-major) under the ids given, or under the next ones; all or none of them.
    fn add(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>>;
    /// As `add`, but leaves what stands beside the vectors as it is: until `settle`, new rows are scanned beside it.
    fn append(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        self.add(vectors, ids, threads)
    }
    /// Brings what stands beside the vectors up to date where that pays.
    fn settle(&mut self, _threads: usize) {}
    /// Whether `settle` has so much to do that nobody should wait for it.
    fn due(&self) -> bool {
        false
    }
    /// Whether searches have cost so much that `settle` would have paid by now.
    fn owes(&self) -> bool {
        false
    }
    /// Has the next `settle` build what stands beside the vectors, though there may be few.
    fn demand(&mut self) {}
    /// Removes vectors by id; all or none of them. Returns how many were removed.
    fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize>;
    /// Gives back the room of removed rows, and builds what stands beside the vectors again if they have changed since.
    fn compact(&mut self, threads: usize);
    /// The best k rows of every query.
    fn search(&self, request: &Request) -> Result<Answers>;
    /// As it is now, for whoever writes it to a file while the index goes on changing: a copy that shares codes, links and rows
    /// with it. What changes meanwhile is copied then, rows in memory excepted. None where a kind has no such copy.
    fn frozen(&self) -> Option<Box<dyn Kind>> {
        None
    }
    /// Writes it to a file.
    fn save(&self, path: &Path) -> Result<()>;
}

/// The methods that every kind has under the same names.
macro_rules! forwarded {
    () => {
        fn keep_next_id(&mut self, next: i64) {
            self.keep_next_id(next);
        }
        fn keep_in(&mut self, folder: &Path) {
            self.keep_in(folder);
        }
        fn stage(&mut self, batch: Batch) {
            self.stage(batch);
        }
        fn add(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
            self.add(vectors, ids, threads)
        }
        fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize> {
            self.remove(ids, threads)
        }
        fn compact(&mut self, threads: usize) {
            self.compact(threads);
        }
        fn search(&self, request: &Request) -> Result<Answers> {
            self.search(request)
        }
        fn save(&self, path: &Path) -> Result<()> {
            self.save(path)
        }
    };
}

impl Kind for Flat {
    fn name(&self) -> &'static str {
        NAMES[0]
    }
    fn vectors(&self) -> &Flat {
        self
    }
    forwarded!();
}

impl Kind for Hnsw {
    fn name(&self) -> &'static str {
        NAMES[1]
    }
    fn vectors(&self) -> &Flat {
        self.exact()
    }
    fn beside(&self) -> usize {
        self.bytes()
    }
    fn append(&mut self, vectors: &[f32], ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        self.append(vectors, ids, threads)
    }
    fn frozen(&self) -> Option<Box<dyn Kind>> {
        Some(Box::new(self.frozen()))
    }
    fn settle(&mut self, threads: usize) {
        self.fold(threads);
    }
    fn due(&self) -> bool {
        self.due()
    }
    forwarded!();
}

#[allow(private_bounds)]
impl<S: Structure> Kind for Probed<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn vectors(&self) -> &Flat {
        self.exact()
    }
    fn beside(&self) -> usize {
        self.bytes()
    }
    forwarded!();
}

/// Every kind, in the order of their codes on disk.
pub const NAMES: [&str; 6] = ["flat", "hnsw", "ivf", "ivf_pq", "lsh", "auto"];

/// An empty index of the kind of that name.
pub fn create(name: &str, dimension: usize, metric: Metric) -> Result<Box<dyn Kind>> {
    match name {
        "flat" => Ok(Box::new(Flat::new(dimension, metric)?)),
        "hnsw" => Ok(Box::new(Hnsw::new(dimension, metric)?)),
        "ivf" => Ok(Box::new(Ivf::new(dimension, metric)?)),
        "ivf_pq" => Ok(Box::new(IvfPq::new(dimension, metric)?)),
        "lsh" => Ok(Box::new(Lsh::new(dimension, metric)?)),
        "auto" => Ok(Box::new(Auto::new(dimension, metric)?)),
        _ => Err(Error::Invalid(format!("unknown kind {name:?}: use one of {}", NAMES.join(", ")))),
    }
}

/// Reads an index of whatever kind from its file. The vectors stay there: see [`Flat::verify`].
pub fn load(path: &Path, threads: usize) -> Result<Box<dyn Kind>> {
    let (file, header) = Reader::open(path)?;
    match NAMES.get(header.kind as usize) {
        Some(&"flat") => Ok(Box::new(Flat::load(path, threads)?)),
        Some(&"hnsw") => Ok(Box::new(Hnsw::load(path, threads)?)),
        Some(&"ivf") => Ok(Box::new(Ivf::load(path, threads)?)),
        Some(&"ivf_pq") => Ok(Box::new(IvfPq::load(path, threads)?)),
        Some(&"lsh") => Ok(Box::new(Lsh::load(path, threads)?)),
        Some(&"auto") => Ok(Box::new(Auto::load(path, threads)?)),
        _ => Err(file.corrupt("it holds a kind of index that this version does not know")),
    }
}
