//! Columns of metadata as a Python class. Filters arrive as JSON from `nearfield/filters.py`.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use nearfield_index::{Columns, Error, Filter, Pattern};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::raised;

type Mask<'py> = Bound<'py, PyArray1<bool>>;

/// The lock is only ever waited for without the GIL.
#[pyclass(module = "nearfield._native", name = "Columns", frozen)]
#[derive(Default)]
pub(crate) struct ColumnsIndex(RwLock<Columns>);

impl ColumnsIndex {
    fn read<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Columns) -> T + Send) -> T {
        py.detach(|| work(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn write<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Columns) -> T + Send) -> T {
        py.detach(|| work(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn same_length(places: usize, columns: &Columns) -> Result<(), Error> {
    let rows = columns.next_row();
    if places == rows { Ok(()) } else { Err(Error::Invalid(format!("the mask has {places} places for {rows} rows"))) }
}

#[pymethods]
impl ColumnsIndex {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Ok(Self(RwLock::new(py.detach(|| Columns::load(&path)).map_err(raised)?)))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.read(py, |columns| columns.save(&path)).map_err(raised)
    }

    #[getter]
    fn next_row(&self, py: Python<'_>) -> usize {
        self.read(py, Columns::next_row)
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.read(py, Columns::live)
    }

    fn add(
        &self,
        py: Python<'_>,
        rows: PyReadonlyArray1<'_, i64>,
        metadata: Vec<PyBackedStr>,
        next_row: usize,
    ) -> PyResult<()> {
        let rows = rows.as_slice()?;
        self.write(py, |columns| columns.add(rows, metadata.iter().map(|json| &**json), next_row)).map_err(raised)
    }

    fn replace(&self, py: Python<'_>, rows: PyReadonlyArray1<'_, i64>, metadata: Vec<PyBackedStr>) -> PyResult<()> {
        let rows = rows.as_slice()?;
        self.write(py, |columns| columns.replace(rows, metadata.iter().map(|json| &**json))).map_err(raised)
    }

    fn remove(&self, py: Python<'_>, rows: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        let rows = rows.as_slice()?;
        self.write(py, |columns| columns.remove(rows)).map_err(raised)
    }

    /// The rows that pass; None: all that live.
    fn matches<'py>(&self, py: Python<'py>, filter: Option<&str>) -> PyResult<Mask<'py>> {
        let everything = Filter::All(Vec::new());
        let filter = filter.map(Filter::from_json).transpose().map_err(raised)?.unwrap_or(everything);
        Ok(self.read(py, |columns| columns.matches(&filter)).into_pyarray(py))
    }

    /// The rows of a mask, sorted.
    fn sorted<'py>(
        &self,
        py: Python<'py>,
        mask: PyReadonlyArray1<'py, bool>,
        by: Vec<(String, bool)>,
        start: usize,
        stop: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let mask = mask.as_slice()?;
        let sorted = self.read(py, |columns| {
            same_length(mask.len(), columns)?;
            Ok(columns.sorted(mask, &by, start, stop.unwrap_or(usize::MAX)))
        });
        Ok(sorted.map_err(raised)?.into_pyarray(py))
    }

    /// The values of a field and how many rows have them, as JSON.
    fn facet(
        &self,
        py: Python<'_>,
        mask: PyReadonlyArray1<'_, bool>,
        field: &str,
        limit: Option<usize>,
    ) -> PyResult<String> {
        let mask = mask.as_slice()?;
        let counted = self.read(py, |columns| {
            same_length(mask.len(), columns)?;
            Ok(columns.facet(mask, field, limit.unwrap_or(usize::MAX)))
        });
        counted.map_err(raised)
    }
}

/// Which documents pass a filter on documents.
#[pyfunction]
pub(crate) fn documents_matching<'py>(
    py: Python<'py>,
    filter: &str,
    documents: Vec<Option<PyBackedStr>>,
) -> PyResult<Mask<'py>> {
    let filter = Filter::from_json(filter).map_err(raised)?;
    let accepts = |text: &Option<PyBackedStr>| filter.accepts(text.as_deref());
    let mask: Vec<bool> = py.detach(|| documents.iter().map(accepts).collect());
    Ok(mask.into_pyarray(py))
}

/// Raises `InvalidInput` where a pattern is no regular expression.
#[pyfunction]
pub(crate) fn check_pattern(pattern: String) -> PyResult<()> {
    Pattern::try_from(pattern).map(drop).map_err(raised)
}
