//! Records on their way to the catalog and back, many at once. Whatever is not plain is left to `nearfield/inputs.py`.

use std::path::PathBuf;

use nearfield_index::record::{self, Object};
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// Metadata from number `start` to before `stop` as JSON, as far as it is dictionaries of texts, numbers, truth values and
/// None.
#[pyfunction]
pub(crate) fn json_objects<'py>(items: &Bound<'py, PyList>, start: usize, stop: usize) -> PyResult<Bound<'py, PyList>> {
    let (found, mut object) = (PyList::empty(items.py()), Object::default());
    for item in items.iter().take(stop).skip(start) {
        let Ok(fields) = item.cast_exact::<PyDict>() else { break };
        object.anew();
        if !fields.iter().all(|(name, value)| written(&mut object, &name, &value).unwrap_or(false)) {
            break;
        }
        found.append(PyString::new(items.py(), object.finish()))?;
    }
    Ok(found)
}

fn written(object: &mut Object, name: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(name.cast_exact::<PyString>().is_ok_and(|name| name.to_str().is_ok_and(|name| object.name(name)))
        && if let Ok(text) = value.cast_exact::<PyString>() {
            object.text(text.to_str()?)
        } else if value.is_exact_instance_of::<PyInt>() {
            object.int(value.extract()?)
        } else if value.is_exact_instance_of::<PyFloat>() {
            object.float(value.extract()?)
        } else if let Ok(truth) = value.cast_exact::<PyBool>() {
            object.word(Some(truth.is_true()))
        } else {
            value.is_none() && object.word(None)
        })
}

/// The number of the first item that is no text, or holds half a surrogate pair. None counts as one where `or_none`, and
/// an empty text or one with a NUL character does not where `names`.
#[pyfunction]
pub(crate) fn first_not_text(items: &Bound<'_, PyList>, or_none: bool, names: bool) -> Option<usize> {
    items.iter().position(|item| match item.cast::<PyString>() {
        Ok(text) => text.to_str().map_or(true, |text| names && (text.is_empty() || text.contains('\0'))),
        Err(_) => !(or_none && item.is_none()),
    })
}

/// Records as a line of the catalog, side by side: key (counted up from `first`; its lower half is the row), id, checksum,
/// checksum of the document, metadata, document.
#[pyfunction]
pub(crate) fn record_lines<'py>(
    py: Python<'py>,
    first: u64,
    ids: Vec<Bound<'py, PyString>>,
    metadatas: Vec<Bound<'py, PyString>>,
    documents: Vec<Option<Bound<'py, PyString>>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let mut texts = Vec::with_capacity(ids.len());
    for ((id, metadata), document) in ids.iter().zip(&metadatas).zip(&documents) {
        texts.push((
            id.to_str()?,
            metadata.to_str()?,
            document.as_ref().map(|document| document.to_str()).transpose()?,
        ));
    }
    let sums: Vec<_> = py.detach(|| {
        let rows = (first..).map(|key| key as u32);
        let sum = |(row, (id, metadata, document))| {
            (record::checksum(row, id, metadata), record::document_checksum(row, document))
        };
        rows.zip(texts).map(sum).collect()
    });
    let mut values: Vec<Bound<'py, PyAny>> = Vec::with_capacity(6 * ids.len());
    for (at, (((id, metadata), document), sums)) in ids.into_iter().zip(metadatas).zip(documents).zip(sums).enumerate()
    {
        values.push((first + at as u64).into_pyobject(py)?.into_any());
        values.push(id.into_any());
        values.push(sums.0.into_pyobject(py)?.into_any());
        values.push(sums.1.into_pyobject(py)?.into_any());
        values.push(metadata.into_any());
        values.push(document.map_or_else(|| py.None().into_bound(py), Bound::into_any));
    }
    PyTuple::new(py, values)
}

/// The number of the first line (row, id, metadata, document and both checksums) that is not what was written.
#[pyfunction]
pub(crate) fn first_damaged(lines: &Bound<'_, PyList>) -> Option<usize> {
    type Line = (u32, PyBackedStr, PyBackedStr, Option<PyBackedStr>, u32, u32);
    let sound = |line: &Bound<'_, PyAny>| -> PyResult<bool> {
        let (row, id, metadata, document, crc, document_crc) = line.cast::<PyTuple>()?.extract::<Line>()?;
        let found = (record::checksum(row, &id, &metadata), record::document_checksum(row, document.as_deref()));
        Ok(found == (crc, document_crc))
    };
    lines.iter().position(|line| !sound(&line).unwrap_or(false))
}

/// The number of the first line (row, document and its checksum) that is not what was written.
#[pyfunction]
pub(crate) fn first_damaged_text(lines: &Bound<'_, PyList>) -> Option<usize> {
    let sound = |line: &Bound<'_, PyAny>| -> PyResult<bool> {
        let (row, document, crc) = line.cast::<PyTuple>()?.extract::<(u32, Option<PyBackedStr>, u32)>()?;
        Ok(record::document_checksum(row, document.as_deref()) == crc)
    };
    lines.iter().position(|line| !sound(&line).unwrap_or(false))
}

/// The CRC-32 of zlib, going on from `value`.
#[pyfunction]
pub(crate) fn crc32(py: Python<'_>, bytes: PyReadonlyArray1<'_, u8>, value: u32) -> PyResult<u32> {
    let bytes = bytes.as_slice()?;
    Ok(py.detach(|| record::crc32(bytes, value)))
}

/// Writes rows to a file that is there, from this byte on; returns their CRC-32, going on from `value`.
#[pyfunction]
pub(crate) fn write_rows(
    py: Python<'_>,
    path: PathBuf,
    start: u64,
    rows: PyReadonlyArray2<'_, f32>,
    value: u32,
) -> PyResult<u32> {
    let numbers = rows.as_slice()?;
    py.detach(|| record::write_rows(&path, start, numbers, value)).map_err(|error| match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, error.to_string())),
        None => error.into(),
    })
}

/// The number of the first row that holds NaN or infinity.
#[pyfunction]
pub(crate) fn first_not_finite(py: Python<'_>, rows: PyReadonlyArray2<'_, f32>) -> PyResult<Option<usize>> {
    let (numbers, dimension) = (rows.as_slice()?, rows.shape()[1]);
    Ok(py.detach(|| record::first_not_finite(numbers, dimension)))
}
