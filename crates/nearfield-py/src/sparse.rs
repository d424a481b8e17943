//! The inverted index as a Python class. Arguments arrive checked and contiguous from `nearfield/sparse.py`.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock};

use nearfield_index::sparse::{Kind, Queries, Request, Sparse, Vectors};
use nearfield_index::{Error, text};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::index::Allowed;
use crate::raised;

type Found<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>, (usize, usize, usize, usize));
/// Rows of a sparse matrix: where each begins and the last ends, the places of its numbers, the numbers.
type Rows<'py> = (PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, f32>);

/// As `FlatIndex`: many threads may search at once, adding and removing wait for them.
#[pyclass(module = "nearfield._native", frozen)]
pub(crate) struct SparseIndex(RwLock<Sparse>);

impl SparseIndex {
    fn read<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Sparse) -> T + Send) -> T {
        py.detach(|| work(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn write<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Sparse) -> T + Send) -> T {
        py.detach(|| work(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)))
    }

    fn found<'py>(
        &self,
        py: Python<'py>,
        queries: Queries<'_, PyBackedStr>,
        count: usize,
        k: usize,
        allow: Option<Allowed<'py>>,
        threads: usize,
    ) -> PyResult<Found<'py>> {
        let allow = allow.as_ref().map(Allowed::get).transpose()?;
        let signal = Mutex::new(None);
        let interrupt = || match Python::attach(|py| py.check_signals()) {
            Ok(()) => false,
            Err(error) => {
                *signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                true
            }
        };
        let request = Request { k, threads, allow, interrupt: &interrupt };
        let answers = self.read(py, |index| index.search(queries, &request));
        if let Some(error) = signal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let answers = answers.map_err(raised)?;
        let counts = (answers.rows_scanned, answers.rows_reread, answers.bytes_read, answers.threads);
        let ids = answers.ids.into_pyarray(py).reshape([count, k])?;
        Ok((ids, answers.scores.into_pyarray(py).reshape([count, k])?, counts))
    }
}

#[pymethods]
impl SparseIndex {
    #[new]
    #[pyo3(signature = (kind, language, k1, b))]
    fn new(kind: &str, language: Option<&str>, k1: f64, b: f64) -> PyResult<Self> {
        let kind = match kind {
            "bm25" => Kind::Bm25 { k1, b },
            "tfidf" => Kind::TfIdf,
            "vectors" => Kind::Vectors,
            other => return Err(raised(Error::Invalid(format!("unknown kind {other:?}")))),
        };
        Ok(Self(RwLock::new(Sparse::new(kind, language).map_err(raised)?)))
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, threads: usize) -> PyResult<Self> {
        Ok(Self(RwLock::new(py.detach(|| Sparse::load(&path, threads)).map_err(raised)?)))
    }

    fn save(&self, py: Python<'_>, path: PathBuf, threads: usize) -> PyResult<()> {
        self.read(py, |index| index.save(&path, threads)).map_err(raised)
    }

    /// Kind, language, k1 and b (0 where they have no meaning).
    #[getter]
    fn settings(&self, py: Python<'_>) -> (&'static str, Option<&'static str>, f64, f64) {
        self.read(py, |index| {
            let language = index.analyzer().language();
            match index.kind() {
                Kind::Bm25 { k1, b } => ("bm25", language, k1, b),
                Kind::TfIdf => ("tfidf", language, 0.0, 0.0),
                Kind::Vectors => ("vectors", language, 0.0, 0.0),
            }
        })
    }

    #[getter]
    fn next_id(&self, py: Python<'_>) -> i64 {
        self.read(py, Sparse::next_id)
    }

    #[getter]
    fn nbytes(&self, py: Python<'_>) -> usize {
        self.read(py, Sparse::bytes)
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.read(py, Sparse::len)
    }

    #[pyo3(signature = (texts, ids, threads))]
    fn add_texts<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
        ids: Option<PyReadonlyArray1<'py, i64>>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
        let added = self.write(py, |index| index.add_texts(&texts, ids, threads)).map_err(raised)?;
        Ok(added.into_pyarray(py))
    }

    #[pyo3(signature = (rows, ids, threads))]
    fn add_vectors<'py>(
        &self,
        py: Python<'py>,
        rows: Rows<'py>,
        ids: Option<PyReadonlyArray1<'py, i64>>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
        let starts = starts(&rows)?;
        let vectors = Vectors { starts: &starts, places: rows.1.as_slice()?, values: rows.2.as_slice()? };
        let added = self.write(py, |index| index.add_vectors(vectors, ids, threads)).map_err(raised)?;
        Ok(added.into_pyarray(py))
    }

    fn contains<'py>(&self, py: Python<'py>, ids: PyReadonlyArray1<'py, i64>) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let ids = ids.as_slice()?;
        Ok(self.read(py, |index| index.contains(ids)).into_pyarray(py))
    }

    fn remove(&self, py: Python<'_>, ids: PyReadonlyArray1<'_, i64>, threads: usize) -> PyResult<usize> {
        let ids = ids.as_slice()?;
        self.write(py, |index| index.remove(ids, threads)).map_err(raised)
    }

    /// Ids, scores, and (postings scored, of these looked up, bytes read, threads).
    #[pyo3(signature = (texts, k, allow, threads))]
    fn search_texts<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
        k: usize,
        allow: Option<Allowed<'py>>,
        threads: usize,
    ) -> PyResult<Found<'py>> {
        self.found(py, Queries::Texts(&texts), texts.len(), k, allow, threads)
    }

    #[pyo3(signature = (rows, k, allow, threads))]
    fn search_vectors<'py>(
        &self,
        py: Python<'py>,
        rows: Rows<'py>,
        k: usize,
        allow: Option<Allowed<'py>>,
        threads: usize,
    ) -> PyResult<Found<'py>> {
        let starts = starts(&rows)?;
        let vectors = Vectors { starts: &starts, places: rows.1.as_slice()?, values: rows.2.as_slice()? };
        self.found(py, Queries::Vectors(vectors), starts.len() - 1, k, allow, threads)
    }

    /// What the words of a text are searched by.
    fn terms(&self, py: Python<'_>, text: PyBackedStr) -> Vec<String> {
        self.read(py, |index| {
            let analyzer = index.analyzer();
            analyzer.words(&text).filter_map(|(_, word)| Some(analyzer.term(word)?.into_owned())).collect()
        })
    }

    /// Places of the query's words in a text, in characters.
    fn highlights(&self, py: Python<'_>, text: PyBackedStr, query: PyBackedStr) -> Vec<(usize, usize)> {
        let found = self.read(py, |index| index.analyzer().highlights(&text, &query));
        found.into_iter().map(|range| (range.start, range.end)).collect()
    }
}

fn starts(rows: &Rows<'_>) -> PyResult<Vec<usize>> {
    Ok(rows.0.as_slice()?.iter().map(|start| *start as usize).collect())
}

/// Languages with stems and stop words.
#[pyfunction]
pub(crate) fn languages() -> Vec<&'static str> {
    text::languages().collect()
}
