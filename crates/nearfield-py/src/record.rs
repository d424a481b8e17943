//! Records on their way to the catalog and back, many at once. Whatever is not plain is left to `nearfield/inputs.py`.

use nearfield_index::record::{self, Object};
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// Metadata from number `start` on as JSON, as far as it is dictionaries of texts, numbers, truth values and None.
#[pyfunction]
pub(crate) fn json_objects<'py>(items: &Bound<'py, PyList>, start: usize) -> PyResult<Bound<'py, PyList>> {
    let (found, mut object) = (PyList::empty(items.py()), Object::default());
    for item in items.iter().skip(start) {
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

/// The checksums of records in the rows from `first` on, and of their documents.
#[pyfunction]
pub(crate) fn checksums(
    first: u32,
    ids: Vec<PyBackedStr>,
    metadatas: Vec<PyBackedStr>,
    documents: Vec<Option<PyBackedStr>>,
) -> (Vec<u32>, Vec<u32>) {
    let row = |at: usize| first.wrapping_add(at as u32);
    let records = ids.iter().zip(&metadatas).enumerate();
    let records = records.map(|(at, (id, metadata))| record::checksum(row(at), id, metadata));
    let documents = documents.iter().enumerate();
    let documents = documents.map(|(at, document)| record::document_checksum(row(at), document.as_deref()));
    (records.collect(), documents.collect())
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

/// The CRC-32 of zlib, going on from `value`.
#[pyfunction]
pub(crate) fn crc32(py: Python<'_>, bytes: PyReadonlyArray1<'_, u8>, value: u32) -> PyResult<u32> {
    let bytes = bytes.as_slice()?;
    Ok(py.detach(|| record::crc32(bytes, value)))
}

/// The number of the first row that holds NaN or infinity.
#[pyfunction]
pub(crate) fn first_not_finite(py: Python<'_>, rows: PyReadonlyArray2<'_, f32>) -> PyResult<Option<usize>> {
    let (numbers, dimension) = (rows.as_slice()?, rows.shape()[1]);
    Ok(py.detach(|| record::first_not_finite(numbers, dimension)))
}
