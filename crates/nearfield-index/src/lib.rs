//! Search structures: build, add, remove, search, save, load. Knows threads and files, not Python.
//!
//! * [`flat`] answers exactly: 8-bit codes say which rows could be among the best, and only those are read in full.
//!   `exact.rs` shares such searches out among threads.
//! * [`hnsw`] answers approximately, at a recall it has measured on its own rows: a walk through a graph of neighbours.
//! * [`ivf`], [`ivf_pq`] and [`lsh`] look into a part of the rows; what they have in common is in [`probe`].
//! * [`sparse`] answers exactly for texts (BM25, TF-IDF; the words are from [`text`]) and for sparse vectors.
//! * [`Auto`] is exact while that is fast enough and a graph beyond; `plan.rs` says where walks are faster than scans.
//! * `filtered.rs` chooses between walk, sweep and scan for searches of a graph with a filter.
//! * [`kind`] is the one face of all that hold dense vectors.
//! * [`columns`] answers filters on metadata with sets of rows; [`filter`] says what a filter is.
//! * `vectors.rs` keeps rows in full: in memory, or in files that `mapped.rs` lets the system read when they are looked at.
//! * [`record`] has what the catalog keeps of records: metadata as JSON, checksums.
//! * [`wal`] looks whether SQLite will read its log to the end.
//! * [`ids`] maps the numbers users give to rows, [`pool`] runs the work, `patience.rs` asks whether to go on, [`codec`] writes and reads files.

mod allow;
mod analysis;
mod auto;
mod batch;
pub mod codec;
pub mod columns;
mod columns_file;
mod error;
mod exact;
pub mod filter;
mod filtered;
pub mod flat;
mod groups;
pub mod hnsw;
mod hnsw_build;
mod hnsw_change;
mod hnsw_file;
mod hnsw_widths;
mod ids;
pub mod ivf;
pub mod ivf_pq;
pub mod kind;
pub mod lsh;
mod mapped;
mod maxscore;
mod one_term;
mod partition;
mod patience;
mod plan;
pub mod pool;
mod postings;
pub mod probe;
pub mod record;
mod refine;
mod scan;
pub mod sparse;
mod sparse_file;
pub mod text;
mod values;
mod vectors;
pub mod wal;
mod walk;
mod writeback;

pub use allow::Allow;
pub use auto::Auto;
pub use columns::Columns;
pub use error::{Error, Result};
pub use filter::{Filter, Pattern};
pub use flat::{Answers, Batch, Flat, Request};
pub use hnsw::Hnsw;
pub use ivf::Ivf;
pub use ivf_pq::IvfPq;
pub use kind::Kind;
pub use lsh::Lsh;
pub use nearfield_kernels::pages::Memory;
pub use nearfield_kernels::{Kernels, Level, Metric, dispatch, kernels};
pub use sparse::Sparse;
