//! The Python binding, `nearfield._native`: plain values across, the GIL released, no logic.

mod columns;
mod index;
mod record;
mod sparse;

use std::path::PathBuf;

use nearfield_index::{Error, Memory, codec, dispatch, kernels, pool, wal};
use pyo3::prelude::*;
use pyo3::types::PyDict;

#[global_allocator]
static MEMORY: Memory = Memory;

/// The Python exception for an error: a class of `nearfield.errors`, or OSError.
fn raised(error: Error) -> PyErr {
    let class = match &error {
        Error::Invalid(_) => "InvalidInput",
        Error::AlreadyExists(_) => "AlreadyExists",
        Error::NotFound(_) => "NotFound",
        Error::Corrupt(_) => "Corrupt",
        Error::TooNew(_) => "FormatTooNew",
        Error::Interrupted => return pyo3::exceptions::PyKeyboardInterrupt::new_err(()),
        Error::Io(_) => {
            let Error::Io(error) = error else { unreachable!() };
            return error.into();
        }
    };
    let message = error.to_string();
    Python::attach(|py| match py.import("nearfield.errors").and_then(|errors| errors.getattr(class)) {
        Ok(class) => class.call1((message,)).map_or_else(|error| error, PyErr::from_value),
        Err(error) => error,
    })
}

/// What this binary is: version, profile, and the SIMD levels in use and available.
#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    dispatch::forced().map_err(|message| raised(Error::Invalid(message)))?;
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    info.set_item("simd", kernels().level.name())?;
    let available: Vec<&str> = dispatch::available().iter().map(|kernels| kernels.level.name()).collect();
    info.set_item("simd_available", available)?;
    Ok(info)
}

/// One thread for every core that this process may run on.
#[pyfunction]
fn default_threads() -> usize {
    pool::default_threads()
}

/// Where a write-ahead log of SQLite is broken: the first frame that is not read, and the commits behind it.
#[pyfunction]
fn broken_log(py: Python<'_>, path: PathBuf) -> PyResult<Option<(usize, usize)>> {
    let found = py.detach(|| std::fs::read(path).map(|log| wal::broken(&log)))?;
    Ok(found.map(|found| (found.frame, found.commits)))
}

/// Checks every checksum of an index file, of whatever kind.
#[pyfunction]
fn check_file(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| codec::check(&path)).map_err(raised)
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<index::Index>()?;
    module.add_class::<sparse::SparseIndex>()?;
    module.add_function(wrap_pyfunction!(sparse::languages, module)?)?;
    module.add_class::<columns::ColumnsIndex>()?;
    module.add_function(wrap_pyfunction!(columns::check_pattern, module)?)?;
    module.add_function(wrap_pyfunction!(columns::documents_matching, module)?)?;
    module.add_function(wrap_pyfunction!(record::json_objects, module)?)?;
    module.add_function(wrap_pyfunction!(record::first_not_text, module)?)?;
    module.add_function(wrap_pyfunction!(record::record_lines, module)?)?;
    module.add_function(wrap_pyfunction!(record::first_damaged, module)?)?;
    module.add_function(wrap_pyfunction!(record::first_damaged_text, module)?)?;
    module.add_function(wrap_pyfunction!(record::crc32, module)?)?;
    module.add_function(wrap_pyfunction!(record::first_not_finite, module)?)?;
    module.add_function(wrap_pyfunction!(record::write_rows, module)?)?;
    module.add_function(wrap_pyfunction!(broken_log, module)?)?;
    module.add_function(wrap_pyfunction!(check_file, module)?)?;
    module.add_function(wrap_pyfunction!(build_info, module)?)?;
    module.add_function(wrap_pyfunction!(default_threads, module)?)
}
