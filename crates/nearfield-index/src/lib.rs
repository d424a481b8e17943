//! Search structures: build, add, remove, search, save, load. Knows threads and files, not Python.
//!
//! * [`flat`] answers exactly: 8-bit codes say which rows could be among the best, and only those are read in full.
//! * [`hnsw`] answers approximately, at a recall it has measured on its own rows: a walk through a graph of neighbours.
//! * [`sparse`] answers exactly for texts (BM25, TF-IDF; the words are from [`text`]) and for sparse vectors.
//! * [`kind`] is the one face of all that hold dense vectors.
//! * [`columns`] answers filters on metadata with sets of rows; [`filter`] says what a filter is.
//! * [`ids`] maps the numbers users give to rows, [`pool`] runs the work, [`codec`] writes and reads files.

mod allow;
mod analysis;
pub mod codec;
pub mod columns;
mod columns_file;
mod error;
pub mod filter;
pub mod flat;
pub mod hnsw;
mod hnsw_build;
mod hnsw_file;
mod ids;
pub mod kind;
mod maxscore;
pub mod pool;
mod postings;
mod refine;
mod scan;
pub mod sparse;
mod sparse_file;
pub mod text;
mod values;
mod walk;

pub use allow::Allow;
pub use columns::Columns;
pub use error::{Error, Result};
pub use filter::{Filter, Pattern};
pub use flat::{Answers, Flat, Request};
pub use hnsw::Hnsw;
pub use kind::Kind;
pub use nearfield_kernels::{Kernels, Level, Metric, dispatch, kernels};
pub use sparse::Sparse;
