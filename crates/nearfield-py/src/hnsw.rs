//! The graph index as a Python class, with the methods of `FlatIndex` and a recall for its searches.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock};

use nearfield_index::{Error, Flat, Hnsw, Request};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::flat::{Exported, metric};
use crate::raised;

type Counts = (usize, usize, usize, usize);
type Found<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>, Counts, (usize, bool));

/// As `FlatIndex`: many threads may search at once, adding and removing wait for them.
#[pyclass(module = "nearfield._native", frozen)]
pub(crate) struct HnswIndex(RwLock<Hnsw>);

impl HnswIndex {
    fn read<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Hnsw) -> T + Send) -> T {
        py.detach(|| work(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn write<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Hnsw) -> T + Send) -> T {
        py.detach(|| work(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)))
    }

    fn vectors<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Flat) -> T + Send) -> T {
        self.read(py, |index| work(index.exact()))
    }
}

#[pymethods]
impl HnswIndex {
    #[new]
    fn new(dimension: usize, metric_name: &str) -> PyResult<Self> {
        Ok(Self(RwLock::new(Hnsw::new(dimension, metric(metric_name)?).map_err(raised)?)))
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, threads: usize) -> PyResult<Self> {
        Ok(Self(RwLock::new(py.detach(|| Hnsw::load(&path, threads)).map_err(raised)?)))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.read(py, |index| index.save(&path)).map_err(raised)
    }

    #[getter]
    fn dimension(&self, py: Python<'_>) -> usize {
        self.vectors(py, Flat::dimension)
    }

    #[getter]
    fn metric(&self, py: Python<'_>) -> &'static str {
        self.vectors(py, |index| index.metric().name())
    }

    #[getter]
    fn next_id(&self, py: Python<'_>) -> i64 {
        self.vectors(py, Flat::next_id)
    }

    #[setter]
    fn set_next_id(&self, py: Python<'_>, next: i64) {
        self.write(py, |index| index.keep_next_id(next));
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.vectors(py, Flat::len)
    }

    /// Ids and vectors, in insertion order.
    fn export<'py>(&self, py: Python<'py>) -> PyResult<Exported<'py>> {
        let (ids, vectors, dimension) = self.vectors(py, |index| (index.ids(), index.vectors(), index.dimension()));
        let rows = ids.len();
        Ok((ids.into_pyarray(py), vectors.into_pyarray(py).reshape([rows, dimension])?))
    }

    #[pyo3(signature = (vectors, ids, threads))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: PyReadonlyArray2<'py, f32>,
        ids: Option<PyReadonlyArray1<'py, i64>>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let vectors = vectors.as_slice()?;
        let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
        let added = self.write(py, |index| index.add(vectors, ids, threads)).map_err(raised)?;
        Ok(added.into_pyarray(py))
    }

    fn remove(&self, py: Python<'_>, ids: PyReadonlyArray1<'_, i64>, threads: usize) -> PyResult<usize> {
        let ids = ids.as_slice()?;
        self.write(py, |index| index.remove(ids, threads)).map_err(raised)
    }

    /// Ids, scores, (rows scanned, rows reread, bytes read, threads), and (nodes expanded, whether exact).
    #[pyo3(signature = (queries, k, allow, threads, recall))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        k: usize,
        allow: Option<PyReadonlyArray1<'py, i64>>,
        threads: usize,
        recall: Option<f64>,
    ) -> PyResult<Found<'py>> {
        let rows = queries.as_array().nrows();
        let queries = queries.as_slice()?;
        if let Some(place) = queries.iter().position(|x| !x.is_finite()) {
            let row = place / (queries.len() / rows);
            let message = format!("query {row} holds NaN or infinity: every number must be finite");
            return Err(raised(Error::Invalid(message)));
        }
        let allow = allow.as_ref().map(|ids| ids.as_slice()).transpose()?;
        let signal = Mutex::new(None);
        let interrupt = || match Python::attach(|py| py.check_signals()) {
            Ok(()) => false,
            Err(error) => {
                *signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                true
            }
        };
        let request = Request { queries, k, threads, allow, interrupt: &interrupt };
        let recall = recall.unwrap_or(nearfield_index::hnsw::DEFAULT_RECALL);
        let answers = self.read(py, |index| index.search(&request, recall));
        if let Some(error) = signal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let answers = answers.map_err(raised)?;
        let counts = (answers.rows_scanned, answers.rows_reread, answers.bytes_read, answers.threads);
        let walk = (answers.hops, answers.exact);
        let ids = answers.ids.into_pyarray(py).reshape([rows, k])?;
        Ok((ids, answers.scores.into_pyarray(py).reshape([rows, k])?, counts, walk))
    }
}

/// The kind of the index in a file: "flat" or "hnsw".
#[pyfunction]
pub(crate) fn kind_of(py: Python<'_>, path: PathBuf) -> PyResult<&'static str> {
    let read = py.detach(|| nearfield_index::codec::Reader::open(&path)).map_err(raised)?;
    match read.1.kind {
        0 => Ok("flat"),
        1 => Ok("hnsw"),
        _ => Err(raised(read.0.corrupt("it holds a kind of index that this version does not know"))),
    }
}
