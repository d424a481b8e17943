//! Writing an inverted index of one segment to an index file, and reading it back. Maxima are made again on loading.

use std::path::Path;

use crate::codec::{Header, Reader, Writer};
use crate::postings::{Segment, Values};
use crate::sparse::{Kind, Sparse};
use crate::text::RULES;
use crate::{Error, Result};

/// The place of this kind in index files.
pub(crate) const KIND: u32 = 16;

/// Numbers in the section that says how long the others are.
const SHAPE: usize = 6;

pub(crate) fn save(index: &Sparse, path: &Path) -> Result<()> {
    let rows = index.ids.len() as u64;
    let (metric, parameters) = match index.kind {
        Kind::Bm25 { k1, b } => (0, [k1, b]),
        Kind::TfIdf => (1, [0.0; 2]),
        Kind::Vectors => (2, [0.0; 2]),
    };
    let header = Header { kind: KIND, metric, dimension: RULES, rows, next_id: index.ids.next() };
    let mut file = Writer::create(path, header)?;
    let nothing = Segment::new(0, if metric == 2 { Values::Weights(Vec::new()) } else { Values::counts() });
    let segment = index.segments.first().unwrap_or(&nothing);
    let language = index.analyzer.language().unwrap_or_default().as_bytes();
    let (text, ends) = index.vocabulary.parts();
    let large: &[(usize, u32)] = if let Values::Counts { high, .. } = &segment.values { high } else { &[] };
    let shape = [language.len(), text.len(), ends.len(), segment.terms.len(), segment.rows.len(), large.len()];
    let wide = |number: &usize| *number as u64;
    file.section(b"ids     ", index.ids.len(), index.ids.live_ids(), i64::to_le_bytes)?;
    file.section(b"shape   ", SHAPE, shape.iter().map(wide), u64::to_le_bytes)?;
    file.section(b"factors ", 2, parameters.into_iter(), f64::to_le_bytes)?;
    file.section(b"language", language.len(), language.iter().copied(), u8::to_le_bytes)?;
    file.section(b"text    ", text.len(), text.bytes(), u8::to_le_bytes)?;
    file.section(b"ends    ", ends.len(), ends.iter().map(wide), u64::to_le_bytes)?;
    file.section(b"lengths ", index.lengths.len(), index.lengths.iter().copied(), u32::to_le_bytes)?;
    file.section(b"terms   ", segment.terms.len(), segment.terms.iter().copied(), u32::to_le_bytes)?;
    file.section(b"starts  ", segment.starts.len(), segment.starts.iter().map(wide), u64::to_le_bytes)?;
    file.section(b"rows    ", segment.rows.len(), segment.rows.iter().copied(), u32::to_le_bytes)?;
    match &segment.values {
        Values::Counts { low, .. } => file.section(b"counts  ", low.len(), low.iter().copied(), u8::to_le_bytes)?,
        Values::Weights(values) => {
            file.section(b"weights ", values.len(), values.iter().copied(), f32::to_le_bytes)?;
        }
    }
    file.section(b"large at", large.len(), large.iter().map(|(at, _)| *at as u64), u64::to_le_bytes)?;
    file.section(b"large   ", large.len(), large.iter().map(|(_, count)| *count), u32::to_le_bytes)?;
    file.finish()
}

pub(crate) fn load(path: &Path, threads: usize) -> Result<Sparse> {
    let (mut file, header) = Reader::open(path)?;
    if header.kind != KIND || header.metric > 2 {
        return Err(file.corrupt("it holds a kind of index that this version does not know"));
    }
    if header.dimension != RULES {
        return Err(file.corrupt("its words were made by other rules than those of this version"));
    }
    let count = usize::try_from(header.rows).map_err(|_| file.corrupt("it holds too many rows"))?;
    let ids = file.section(b"ids     ", count, i64::from_le_bytes)?;
    let shape = file.section(b"shape   ", SHAPE, u64::from_le_bytes)?;
    let sizes: Vec<usize> = shape.iter().map(|size| usize::try_from(*size).unwrap_or(usize::MAX)).collect();
    let parameters = file.section(b"factors ", 2, f64::from_le_bytes)?;
    let language = text(file.section(b"language", sizes[0], u8::from_le_bytes)?, &file)?;
    let words = text(file.section(b"text    ", sizes[1], u8::from_le_bytes)?, &file)?;
    let ends = narrow(file.section(b"ends    ", sizes[2], u64::from_le_bytes)?);
    let kind = match header.metric {
        0 => Kind::Bm25 { k1: parameters[0], b: parameters[1] },
        1 => Kind::TfIdf,
        _ => Kind::Vectors,
    };
    let mut index = Sparse::new(kind, Some(language.as_str()).filter(|name| !name.is_empty()))?;
    let vectors = kind == Kind::Vectors;
    index.lengths = file.section(b"lengths ", if vectors { 0 } else { count }, u32::from_le_bytes)?;
    index.words = index.lengths.iter().map(|length| u64::from(*length)).sum();
    let mut segment = Segment::new(0, Values::counts());
    segment.end = u32::try_from(count).map_err(|_| file.corrupt("it holds too many rows"))?;
    segment.terms = file.section(b"terms   ", sizes[3], u32::from_le_bytes)?;
    segment.starts = narrow(file.section(b"starts  ", sizes[3].saturating_add(1), u64::from_le_bytes)?);
    segment.rows = file.section(b"rows    ", sizes[4], u32::from_le_bytes)?;
    let (mut low, mut weights) = (Vec::new(), Vec::new());
    if vectors {
        weights = file.section(b"weights ", sizes[4], f32::from_le_bytes)?;
    } else {
        low = file.section(b"counts  ", sizes[4], u8::from_le_bytes)?;
    }
    let at = narrow(file.section(b"large at", sizes[5], u64::from_le_bytes)?);
    let large = file.section(b"large   ", sizes[5], u32::from_le_bytes)?;
    index.signed = weights.iter().any(|value| *value < 0.0);
    let ordered = segment.starts.is_sorted() && segment.starts.last() == Some(&segment.rows.len());
    let known = vectors || segment.terms.last().is_none_or(|term| (*term as usize) < ends.len());
    let whole = ends.is_sorted() && ends.iter().all(|end| words.is_char_boundary(*end));
    let placed = segment.rows.iter().all(|row| *row < segment.end);
    if !(ordered && known && whole && placed && segment.terms.is_sorted()) {
        return Err(file.corrupt("its sections do not fit together"));
    }
    segment.values = if vectors {
        Values::Weights(weights)
    } else {
        Values::Counts { low, high: at.into_iter().zip(large).collect() }
    };
    let mut start = 0;
    for end in ends {
        index.vocabulary.number(&words[start..end]);
        start = end;
    }
    file.finish()?;
    index.ids.extend(&index.ids.check_new(count, Some(&ids))?);
    index.ids.keep_next(header.next_id);
    if count > 0 {
        index.bound(&mut segment, threads);
        index.segments.push(segment);
    }
    Ok(index)
}

fn narrow(numbers: Vec<u64>) -> Vec<usize> {
    numbers.into_iter().map(|number| number as usize).collect()
}

fn text(bytes: Vec<u8>, file: &Reader) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| -> Error { file.corrupt("its words are not UTF-8") })
}
