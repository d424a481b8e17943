//! Search structures: build, add, remove, search, save, load. Knows threads and files, not Python.
//!
//! * [`flat`] answers exactly: 8-bit codes say which rows could be among the best, and only those are read in full.
//! * [`ids`] maps the numbers users give to rows, [`pool`] runs the work, [`codec`] writes and reads files.

pub mod codec;
mod error;
pub mod flat;
mod ids;
pub mod pool;
mod refine;
mod scan;

pub use error::{Error, Result};
pub use flat::{Answers, Flat, Request};
pub use nearfield_kernels::{Kernels, Level, Metric, dispatch, kernels};
