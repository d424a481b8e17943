//! The exact index as a Python class. Arguments arrive checked and contiguous from `nearfield/index.py`.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock};

use nearfield_index::{Error, Flat, Metric, Request, dispatch};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::raised;

pub(crate) type Exported<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray2<f32>>);
type Found<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>, (usize, usize, usize, usize));

/// Many threads may search at once; adding and removing wait for them. The lock is only ever waited for without the
/// GIL: a search holds the lock and takes the GIL now and then to look for Ctrl-C.
#[pyclass(module = "nearfield._native", frozen)]
pub(crate) struct FlatIndex(RwLock<Flat>);

impl FlatIndex {
    fn read<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Flat) -> T + Send) -> T {
        py.detach(|| work(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn write<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Flat) -> T + Send) -> T {
        py.detach(|| work(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The metric of that name, once NEARFIELD_SIMD is known to be one that can be had.
pub(crate) fn metric(name: &str) -> PyResult<Metric> {
    dispatch::forced().map_err(|message| raised(Error::Invalid(message)))?;
    Metric::from_name(name).ok_or_else(|| {
        let names = Metric::ALL.map(Metric::name).join(", ");
        raised(Error::Invalid(format!("unknown metric {name:?}: use one of {names}")))
    })
}

#[pymethods]
impl FlatIndex {
    #[new]
    fn new(dimension: usize, metric: &str) -> PyResult<Self> {
        Ok(Self(RwLock::new(Flat::new(dimension, self::metric(metric)?).map_err(raised)?)))
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, threads: usize) -> PyResult<Self> {
        Ok(Self(RwLock::new(py.detach(|| Flat::load(&path, threads)).map_err(raised)?)))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.read(py, |index| index.save(&path)).map_err(raised)
    }

    #[getter]
    fn dimension(&self, py: Python<'_>) -> usize {
        self.read(py, Flat::dimension)
    }

    #[getter]
    fn metric(&self, py: Python<'_>) -> &'static str {
        self.read(py, |index| index.metric().name())
    }

    #[getter]
    fn next_id(&self, py: Python<'_>) -> i64 {
        self.read(py, Flat::next_id)
    }

    #[setter]
    fn set_next_id(&self, py: Python<'_>, next: i64) {
        self.write(py, |index| index.keep_next_id(next));
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.read(py, Flat::len)
    }

    /// Ids and vectors, in insertion order.
    fn export<'py>(&self, py: Python<'py>) -> PyResult<Exported<'py>> {
        let (ids, vectors, dimension) = self.read(py, |index| (index.ids(), index.vectors(), index.dimension()));
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

    /// Ids, scores, and (rows scanned, rows reread, bytes read, threads).
    #[pyo3(signature = (queries, k, allow, threads))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        k: usize,
        allow: Option<PyReadonlyArray1<'py, i64>>,
        threads: usize,
    ) -> PyResult<Found<'py>> {
        let rows = queries.as_array().nrows();
        let queries = queries.as_slice()?;
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
        let answers = self.read(py, |index| index.search(&request));
        if let Some(error) = signal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let answers = answers.map_err(raised)?;
        let counts = (answers.rows_scanned, answers.rows_reread, answers.bytes_read, answers.threads);
        let ids = answers.ids.into_pyarray(py).reshape([rows, k])?;
        Ok((ids, answers.scores.into_pyarray(py).reshape([rows, k])?, counts))
    }
}
