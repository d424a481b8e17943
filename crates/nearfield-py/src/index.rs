//! An index of any kind as a Python class. Arguments arrive checked and contiguous from `nearfield/index.py`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use nearfield_index::{Allow, Answers, Error, Kind, Metric, Request, dispatch, kind};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};

use crate::raised;

type Part<'py> = (PathBuf, u64, usize, Option<PyReadonlyArray1<'py, u32>>);
type Exported<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray2<f32>>);
/// Rows scanned, rows reread, bytes read, threads, hops, whether exact, effort, expected recall; the way chosen, queries
/// that a scan had to answer after it, nanoseconds of the stages of walks.
type Counts = ((usize, usize, usize, usize, usize, bool, usize, f64), &'static str, usize, [u64; 3]);
type Answer<'py> = (Bound<'py, PyArrayDyn<i64>>, Bound<'py, PyArrayDyn<f32>>);
type Found<'py> = (Bound<'py, PyArrayDyn<i64>>, Bound<'py, PyArrayDyn<f32>>, Option<Counts>);

/// Many threads may search at once; adding and removing wait for them. The lock is only ever waited for without the
/// GIL: a search holds the lock and takes the GIL now and then to look for Ctrl-C.
#[pyclass(module = "nearfield._native", frozen)]
pub(crate) struct Index {
    kind: RwLock<Box<dyn Kind>>,
    dimension: usize,
    /// Whether its owner says when it is settled, so that no search does.
    is_tended: AtomicBool,
}

impl Index {
    fn read<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&dyn Kind) -> T + Send) -> T {
        py.detach(|| work(&**self.kind.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn write<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut dyn Kind) -> T + Send) -> T {
        py.detach(|| work(&mut **self.kind.write().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What may be answered: ids, or a mask with a place for every id.
#[derive(FromPyObject)]
pub(crate) enum Allowed<'py> {
    Mask(PyReadonlyArray1<'py, bool>),
    Ids(PyReadonlyArray1<'py, i64>),
}

impl Allowed<'_> {
    pub(crate) fn get(&self) -> PyResult<Allow<'_>> {
        Ok(match self {
            Self::Mask(mask) => Allow::Mask(mask.as_slice()?),
            Self::Ids(ids) => Allow::Ids(ids.as_slice()?),
        })
    }
}

#[pymethods]
impl Index {
    #[new]
    #[pyo3(signature = (dimension, metric, kind, folder=None))]
    fn new(dimension: usize, metric: &str, kind: &str, folder: Option<PathBuf>) -> PyResult<Self> {
        dispatch::forced().map_err(|message| raised(Error::Invalid(message)))?;
        let metric = Metric::from_name(metric).ok_or_else(|| {
            let names = Metric::ALL.map(Metric::name).join(", ");
            raised(Error::Invalid(format!("unknown metric {metric:?}: use one of {names}")))
        })?;
        let mut index = kind::create(kind, dimension, metric).map_err(raised)?;
        folder.iter().for_each(|folder| index.keep_in(folder));
        Ok(Self { kind: RwLock::new(index), dimension, is_tended: AtomicBool::new(false) })
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, threads: usize, verify: bool, folder: Option<PathBuf>) -> PyResult<Self> {
        let load = || {
            let mut index = kind::load(&path, threads)?;
            folder.iter().for_each(|folder| index.keep_in(folder));
            if verify { index.vectors().verify().map(|()| index) } else { Ok(index) }
        };
        let index = py.detach(load).map_err(raised)?;
        let dimension = index.vectors().dimension();
        Ok(Self { kind: RwLock::new(index), dimension, is_tended: AtomicBool::new(false) })
    }

    /// As it is now, see `Kind::frozen`.
    fn frozen(&self, py: Python<'_>) -> Option<Self> {
        let kind = RwLock::new(self.read(py, |index| index.frozen())?);
        Some(Self { kind, dimension: self.dimension, is_tended: AtomicBool::new(true) })
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.read(py, |index| index.save(&path)).map_err(raised)
    }

    #[getter]
    fn kind(&self, py: Python<'_>) -> &'static str {
        self.read(py, |index| index.name())
    }

    #[getter]
    fn dimension(&self) -> usize {
        self.dimension
    }

    #[getter]
    fn metric(&self, py: Python<'_>) -> &'static str {
        self.read(py, |index| index.vectors().metric().name())
    }

    /// Bytes in memory of the vectors and their codes, and of what stands beside them; bytes of vectors in files.
    #[getter]
    fn bytes(&self, py: Python<'_>) -> (usize, usize, usize) {
        self.read(py, |index| (index.vectors().bytes(), index.beside(), index.vectors().mapped()))
    }

    #[getter]
    fn next_id(&self, py: Python<'_>) -> i64 {
        self.read(py, |index| index.vectors().next_id())
    }

    #[setter]
    fn set_next_id(&self, py: Python<'_>, next: i64) {
        self.write(py, |index| index.keep_next_id(next));
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.read(py, |index| index.vectors().len())
    }

    /// Ids and vectors, in insertion order.
    fn export<'py>(&self, py: Python<'py>) -> PyResult<Exported<'py>> {
        let (ids, vectors, dimension) = self.read(py, |index| {
            let flat = index.vectors();
            (flat.ids(), flat.vectors(), flat.dimension())
        });
        let rows = ids.len();
        Ok((ids.into_pyarray(py), vectors.into_pyarray(py).reshape([rows, dimension])?))
    }

    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: PyReadonlyArray2<'py, f32>,
        ids: Option<PyReadonlyArray1<'py, i64>>,
        threads: usize,
        settle: bool,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let vectors = vectors.as_slice()?;
        let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
        self.is_tended.fetch_or(!settle, Ordering::Relaxed);
        let added = self.write(py, |index| match settle {
            true => index.add(vectors, ids, threads),
            false => index.append(vectors, ids, threads),
        });
        Ok(added.map_err(raised)?.into_pyarray(py))
    }

    fn settle(&self, py: Python<'_>, threads: usize) {
        self.is_tended.store(true, Ordering::Relaxed);
        self.write(py, |index| index.settle(threads));
    }

    fn demand(&self, py: Python<'_>) {
        self.write(py, |index| index.demand());
    }

    /// Whether `settle` would take long.
    #[getter]
    fn due(&self, py: Python<'_>) -> bool {
        self.read(py, |index| index.due())
    }

    /// As `add`, of the rows of all arrays that an iterator gives, together.
    fn add_pieces<'py>(
        &self,
        py: Python<'py>,
        pieces: Bound<'py, PyAny>,
        ids: Option<PyReadonlyArray1<'py, i64>>,
        threads: usize,
        settle: bool,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        self.is_tended.fetch_or(!settle, Ordering::Relaxed);
        let mut batch = self.read(py, |index| index.vectors().batch());
        for piece in pieces.try_iter()? {
            let piece = piece?;
            let rows = piece.cast::<PyArray2<f32>>()?.readonly();
            let rows = rows.as_slice()?;
            py.detach(|| batch.push(rows)).map_err(raised)?;
        }
        let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
        let add = |index: &mut dyn Kind| {
            index.stage(batch);
            if settle { index.add(&[], ids, threads) } else { index.append(&[], ids, threads) }
        };
        Ok(self.write(py, add).map_err(raised)?.into_pyarray(py))
    }

    /// As `add_pieces`, of rows that stay in files: path, first byte, rows, and which of them (None: all).
    fn add_files(
        &self,
        py: Python<'_>,
        files: Vec<Part<'_>>,
        ids: PyReadonlyArray1<'_, i64>,
        threads: usize,
        settle: bool,
    ) -> PyResult<()> {
        self.is_tended.fetch_or(!settle, Ordering::Relaxed);
        let mut batch = self.read(py, |index| index.vectors().batch());
        for (path, start, rows, slots) in files {
            let slots = slots.map(|slots| slots.as_slice().map(<[u32]>::to_vec)).transpose()?;
            batch.push_file(&path, start, rows, slots).map_err(raised)?;
        }
        let ids = ids.as_slice()?;
        let add = |index: &mut dyn Kind| {
            index.stage(batch);
            if settle { index.add(&[], Some(ids), threads) } else { index.append(&[], Some(ids), threads) }
        };
        self.write(py, add).map_err(raised).map(|_| ())
    }

    fn remove(&self, py: Python<'_>, ids: PyReadonlyArray1<'_, i64>, threads: usize) -> PyResult<usize> {
        let ids = ids.as_slice()?;
        self.write(py, |index| index.remove(ids, threads)).map_err(raised)
    }

    fn compact(&self, py: Python<'_>, threads: usize) {
        self.write(py, |index| index.compact(threads));
    }

    /// The usual search, if all arguments are of the very types it takes; otherwise None, and `search` is to be asked,
    /// for which Python looks at them more closely. Answers are those of `search`, without counts.
    #[allow(clippy::too_many_arguments)]
    fn answer<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        threads: usize,
        recall: &Bound<'py, PyAny>,
        exact: bool,
        allow: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Answer<'py>>> {
        let Ok(queries) = queries.cast::<PyArrayDyn<f32>>() else { return Ok(None) };
        let k = if k.is_exact_instance_of::<PyInt>() { k.extract::<u32>().unwrap_or(0) } else { 0 };
        let recall = match recall.cast_exact::<PyFloat>() {
            Ok(recall) => Some(recall.value()),
            Err(_) if recall.is_none() => None,
            Err(_) => return Ok(None),
        };
        let shape = queries.shape();
        let is_shaped = matches!(shape.len(), 1 | 2) && shape.last() == Some(&self.dimension);
        let is_ready = queries.is_c_contiguous() && queries.data().is_aligned();
        if !is_shaped || !is_ready || k == 0 || recall.is_some_and(|recall| !(recall > 0.0 && recall <= 1.0)) {
            return Ok(None);
        }
        let mask = match allow.cast::<PyArray1<bool>>() {
            Ok(mask) if mask.is_c_contiguous() && mask.len() >= self.next_id(py).max(0) as usize => {
                Some(mask.try_readonly()?)
            }
            Err(_) if allow.is_none() => None,
            _ => return Ok(None),
        };
        let allow = mask.as_ref().map(|mask| mask.as_slice().map(Allow::Mask)).transpose()?;
        let (rows, k) = ((shape.len() > 1).then(|| shape[0]), k as usize);
        let (queries, recall) = (queries.try_readonly()?, if exact { Some(1.0) } else { recall });
        let found = self.found(py, queries.as_slice()?, k, allow, threads, recall, false)?;
        Ok(Some((shaped(py, found.ids, rows, k)?, shaped(py, found.scores, rows, k)?)))
    }

    /// Ids and scores, of shape (k,) for one query and (q, k) for several, and counts of the work done if a report is
    /// wanted.
    #[pyo3(signature = (queries, k, allow, threads, recall, exact, report=false))]
    #[allow(clippy::too_many_arguments)]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArrayDyn<'py, f32>,
        k: usize,
        allow: Option<Allowed<'py>>,
        threads: usize,
        recall: Option<f64>,
        exact: bool,
        report: bool,
    ) -> PyResult<Found<'py>> {
        let rows = (queries.ndim() > 1).then(|| queries.shape()[0]);
        let allow = allow.as_ref().map(Allowed::get).transpose()?;
        let recall = if exact { Some(1.0) } else { recall };
        let found = self.found(py, queries.as_slice()?, k, allow, threads, recall, report)?;
        let counts = report.then(|| {
            let work = (found.rows_scanned, found.rows_reread, found.bytes_read, found.threads);
            let counts = (work.0, work.1, work.2, work.3, found.hops, found.exact, found.effort, found.expected);
            (counts, found.plan, found.rescued, found.stages)
        });
        Ok((shaped(py, found.ids, rows, k)?, shaped(py, found.scores, rows, k)?, counts))
    }
}

impl Index {
    /// Answers, with the GIL released but for looks at Ctrl-C.
    #[allow(clippy::too_many_arguments)]
    fn found(
        &self,
        py: Python<'_>,
        queries: &[f32],
        k: usize,
        allow: Option<Allow<'_>>,
        threads: usize,
        recall: Option<f64>,
        timed: bool,
    ) -> PyResult<Answers> {
        let signal = Mutex::new(None);
        let interrupt = || match Python::attach(|py| py.check_signals()) {
            Ok(()) => false,
            Err(error) => {
                *signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                true
            }
        };
        let request = Request { queries, k, threads, allow, recall, interrupt: &interrupt, timed };
        let (answers, owes) = self.read(py, |index| (index.search(&request), index.owes()));
        if owes && !self.is_tended.load(Ordering::Relaxed) {
            self.write(py, |index| index.settle(threads));
        }
        match signal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => answers.map_err(raised),
        }
    }
}

/// Answers as an array: one row, or as many as there are queries.
fn shaped<'py, T: numpy::Element + Copy>(
    py: Python<'py>,
    answers: Vec<T>,
    rows: Option<usize>,
    k: usize,
) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    match rows {
        Some(rows) => answers.into_pyarray(py).reshape(vec![rows, k]),
        None => Ok(PyArray1::from_slice(py, &answers).to_dyn().clone()), // few numbers are copied faster than adopted
    }
}
