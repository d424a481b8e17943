//! One inverted index for BM25, TF-IDF and sparse vectors. Its answers are exact: those of scoring every document.
//!
//! * BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009), as Lucene computes
//!   it: the sum over the words of the query of `idf * tf / (tf + k1 * (1 - b + b * length / mean))`, with
//!   `idf = ln(1 + (n - df + 0.5) / (df + 0.5))`.
//! * TF-IDF, Lucene's classic similarity: the sum of `idf² * sqrt(tf / length)`, `idf = 1 + ln((n + 1) / (df + 1))`.
//! * Vectors: the dot product.
//!
//! `n`, `df` and the mean length are those of the documents that are there when the search begins. A word that stands
//! in a query twice counts twice. A document without any word of the query is no answer.

use std::path::Path;
use std::sync::Mutex;

use nearfield_kernels::pages::reserve;
use nearfield_kernels::prefetch;

use crate::allow::{Allow, Allowed};
use crate::analysis;
use crate::flat::Answers;
use crate::ids::Ids;
use crate::maxscore::{Best, Impacts, Search, Weighted, Within, Work};
use crate::patience::Patience;
use crate::pool;
use crate::postings::{Segment, Values, count};
use crate::text::{Analyzer, Vocabulary};
use crate::{Error, Result};

/// How scores are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Of texts: how soon a word repeated stops counting, and how much the length of a document matters.
    Bm25 {
        /// 0 or more.
        k1: f64,
        /// From 0 to 1.
        b: f64,
    },
    /// Of texts.
    TfIdf,
    /// Of sparse vectors.
    Vectors,
}

/// Sparse vectors, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    /// Where each begins, and the end of the last one.
    pub starts: &'a [usize],
    /// Places of the numbers; no place twice in a vector.
    pub places: &'a [u32],
    /// The numbers. Zero is the same as none.
    pub values: &'a [f32],
}

/// What to search with.
#[derive(Clone, Copy, Debug)]
pub enum Queries<'a, T> {
    /// For BM25 and TF-IDF.
    Texts(&'a [T]),
    /// For vectors.
    Vectors(Vectors<'a>),
}

/// How to search.
pub struct Request<'a> {
    /// Answers wanted for each query.
    pub k: usize,
    /// Threads to use at the most.
    pub threads: usize,
    /// What may be answered; None allows all.
    pub allow: Option<Allow<'a>>,
    /// Asked now and then on the calling thread; true stops the search.
    pub interrupt: &'a (dyn Fn() -> bool + Sync),
}

/// A posting is looked up for the cost of adding up this many.
const LOOK_UP: usize = 8;

/// Where more than one row in so many is allowed, looking up the allowed ones is never thought of.
const LISTED: usize = 16;

/// An inverted index of texts or sparse vectors.
#[derive(Debug)]
pub struct Sparse {
    pub(crate) kind: Kind,
    pub(crate) analyzer: Analyzer,
    pub(crate) ids: Ids,
    /// Words of every row; empty for vectors.
    pub(crate) lengths: Vec<u32>,
    /// Words of the rows that are there.
    pub(crate) words: u64,
    pub(crate) vocabulary: Vocabulary,
    /// Of rows that ascend; each has at least twice the rows of the next.
    pub(crate) segments: Vec<Segment>,
    /// Whether a negative number was ever added.
    pub(crate) signed: bool,
}

impl Sparse {
    /// An empty index. The language decides about stems and stop words of texts.
    pub fn new(kind: Kind, language: Option<&str>) -> Result<Self> {
        if let Kind::Bm25 { k1, b } = kind {
            if !(k1.is_finite() && k1 >= 0.0) {
                return Err(Error::Invalid(format!("k1 must be a number of at least 0, got {k1}")));
            }
            if !(0.0..=1.0).contains(&b) {
                return Err(Error::Invalid(format!("b must be a number from 0 to 1, got {b}")));
            }
        }
        Ok(Self {
            kind,
            analyzer: Analyzer::new(language)?,
            ids: Ids::default(),
            lengths: Vec::new(),
            words: 0,
            vocabulary: Vocabulary::default(),
            segments: Vec::new(),
            signed: false,
        })
    }

    /// How scores are computed.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The rules that make words of texts.
    pub fn analyzer(&self) -> &Analyzer {
        &self.analyzer
    }

    /// Documents or vectors that are there.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One above the largest id ever given.
    pub fn next_id(&self) -> i64 {
        self.ids.next()
    }

    /// Which of these ids are there.
    pub fn contains(&self, ids: &[i64]) -> Vec<bool> {
        ids.iter().map(|id| self.ids.row(*id).is_some()).collect()
    }

    /// Bytes in memory, but for the ids.
    pub fn bytes(&self) -> usize {
        let segments: usize = self.segments.iter().map(Segment::bytes).sum();
        segments + self.vocabulary.bytes() + self.lengths.capacity() * size_of::<u32>()
    }

    /// Adds texts under the ids given, or under the next ones; all or none of them.
    pub fn add_texts<T: AsRef<str> + Sync>(
        &mut self,
        texts: &[T],
        ids: Option<&[i64]>,
        threads: usize,
    ) -> Result<Vec<i64>> {
        assert!(self.kind != Kind::Vectors);
        let new = self.ids.check_new(texts.len(), ids)?;
        let first = self.ids.rows() as u32;
        let (segment, lengths) = analysis::segment(&self.analyzer, &mut self.vocabulary, texts, first, threads);
        self.ids.extend(&new);
        self.words += lengths.iter().map(|length| u64::from(*length)).sum::<u64>();
        reserve(&mut self.lengths, lengths.len());
        self.lengths.extend(lengths);
        self.append(segment, threads);
        Ok(new)
    }

    /// Adds vectors under the ids given, or under the next ones; all or none of them.
    pub fn add_vectors(&mut self, vectors: Vectors, ids: Option<&[i64]>, threads: usize) -> Result<Vec<i64>> {
        assert!(self.kind == Kind::Vectors);
        let new = self.ids.check_new(vectors.starts.len() - 1, ids)?;
        self.signed |= vectors.values.iter().any(|value| *value < 0.0);
        let first = self.ids.rows() as u32;
        let mut postings: Vec<(u32, u32, f32)> = Vec::with_capacity(vectors.places.len());
        for (row, range) in (first..).zip(vectors.starts.windows(2)) {
            let range = range[0]..range[1];
            let entries = vectors.places[range.clone()].iter().zip(&vectors.values[range]);
            postings.extend(entries.filter(|(_, value)| **value != 0.0).map(|(place, value)| (*place, row, *value)));
        }
        postings.sort_unstable_by_key(|(term, row, _)| (*term, *row));
        let mut segment = Segment::new(first, Values::Weights(Vec::with_capacity(postings.len())));
        segment.end = first + new.len() as u32;
        for run in postings.chunk_by(|one, other| one.0 == other.0) {
            segment.push(run[0].0, run.iter().map(|(_, row, _)| *row), |values| {
                let Values::Weights(weights) = values else { unreachable!("made above") };
                weights.extend(run.iter().map(|(_, _, value)| *value));
            });
        }
        self.ids.extend(&new);
        self.append(segment, threads);
        Ok(new)
    }

    /// Takes in a segment of new rows, and merges it with those before it that are not twice as large.
    fn append(&mut self, segment: Segment, threads: usize) {
        let mut size = segment.end - segment.first;
        if size == 0 {
            return;
        }
        let mut parts = vec![segment];
        while let Some(last) = self.segments.pop_if(|last| last.end - last.first < 2 * size) {
            size += last.end - last.first;
            parts.push(last);
        }
        parts.reverse();
        let ids = &self.ids;
        let live = |row: u32| ids.is_live(row as usize).then_some(row);
        let removed = parts.iter().any(Segment::has_removed);
        let mut merged = match parts.len() {
            1 => parts.remove(0),
            _ => Segment::merge(&parts, if removed { Some(&live) } else { None }, threads),
        };
        self.bound(&mut merged, threads);
        self.segments.push(merged);
    }

    pub(crate) fn bound(&self, segment: &mut Segment, threads: usize) {
        let mean = self.mean();
        let lengths = &self.lengths;
        let length = |row: u32| f64::from(lengths[row as usize]);
        match self.kind {
            Kind::Bm25 { k1, b } => {
                let impact = |tf: f64, row| tf / (tf + k1 * (1.0 - b) + k1 * b / mean * length(row));
                segment.bound(mean, &impact, threads);
            }
            Kind::TfIdf => segment.bound(mean, &|tf: f64, row| (tf / length(row)).sqrt(), threads),
            Kind::Vectors => segment.bound(mean, &|value, _| value, threads),
        }
    }

    /// The mean number of words in a document.
    fn mean(&self) -> f64 {
        (self.words as f64 / self.len().max(1) as f64).max(f64::MIN_POSITIVE)
    }

    /// Removes documents or vectors by id; all or none of them. Returns how many were removed.
    pub fn remove(&mut self, ids: &[i64], threads: usize) -> Result<usize> {
        let rows = self.ids.remove(ids)?;
        for &row in &rows {
            self.words -= self.lengths.get(row as usize).copied().map_or(0, u64::from);
            let place = self.segments.partition_point(|segment| segment.end <= row);
            self.segments[place].remove(row);
        }
        if self.ids.rows() > 2 * self.ids.len() + 1024 {
            *self = self.compacted(threads);
        }
        Ok(rows.len())
    }

    /// The same index without what was removed, in one segment.
    pub(crate) fn compacted(&self, threads: usize) -> Self {
        let mut next = 0;
        let numbers: Vec<Option<u32>> = (0..self.ids.rows())
            .map(|row| {
                let live = self.ids.is_live(row);
                next += u32::from(live);
                live.then(|| next - 1)
            })
            .collect();
        let mut fresh = Self::new(self.kind, self.analyzer.language()).expect("they were accepted before");
        fresh.signed = self.signed;
        fresh.words = self.words;
        fresh.ids.keep_next(self.ids.next());
        fresh.ids.extend(&self.ids.live_ids().collect::<Vec<i64>>());
        let kept = |(length, number): (&u32, &Option<u32>)| number.map(|_| *length);
        fresh.lengths = self.lengths.iter().zip(&numbers).filter_map(kept).collect();
        if next > 0 {
            let mut merged = Segment::merge(&self.segments, Some(&|row| numbers[row as usize]), threads);
            (merged.first, merged.end) = (0, next);
            if self.kind != Kind::Vectors {
                for term in &mut merged.terms {
                    *term = fresh.vocabulary.number(self.vocabulary.word(*term)); // ascending, as they come
                }
            }
            fresh.bound(&mut merged, threads);
            fresh.segments.push(merged);
        }
        fresh
    }

    /// Live documents that have a term.
    fn frequency(&self, term: u32) -> usize {
        let of = |segment: &Segment| {
            let place = segment.find(term);
            place.map_or(0, |place| segment.frequency(place, |row| self.ids.is_live(row as usize)))
        };
        self.segments.iter().map(of).sum()
    }

    /// The terms of a text and their weights, largest first.
    fn weigh_text(&self, text: &str) -> Vec<Weighted> {
        let mut terms: Vec<Weighted> = Vec::new();
        for (_, word) in self.analyzer.words(text) {
            let term = self.analyzer.term(word).and_then(|term| self.vocabulary.find(&term));
            let Some(term) = term else { continue };
            match terms.iter_mut().find(|known| known.term == term) {
                Some(known) => known.weight += 1.0,
                None => terms.push(Weighted { term, weight: 1.0 }),
            }
        }
        let n = self.len() as f64;
        for known in &mut terms {
            let df = self.frequency(known.term) as f64;
            known.weight *= match self.kind {
                _ if df == 0.0 => 0.0,
                Kind::Bm25 { .. } => (1.0 + (n - df + 0.5) / (df + 0.5)).ln(),
                _ => (1.0 + ((n + 1.0) / (df + 1.0)).ln()).powi(2),
            };
        }
        terms.retain(|known| known.weight > 0.0);
        terms.sort_by(|one, other| other.weight.total_cmp(&one.weight));
        terms
    }

    fn weigh_vector(&self, vectors: &Vectors, query: usize) -> Vec<Weighted> {
        let range = vectors.starts[query]..vectors.starts[query + 1];
        let top = |term: u32| {
            let tops = self.segments.iter().filter_map(|segment| Some(segment.tops[segment.find(term)?]));
            tops.fold(0.0, f32::max)
        };
        let entries = vectors.places[range.clone()].iter().zip(&vectors.values[range]);
        let known = entries.filter(|(_, weight)| **weight != 0.0).map(|(term, weight)| {
            let weight = f64::from(*weight);
            (weight.abs() * f64::from(top(*term)), Weighted { term: *term, weight })
        });
        let mut terms: Vec<(f64, Weighted)> = known.collect();
        terms.sort_by(|one, other| other.0.total_cmp(&one.0));
        terms.into_iter().map(|(_, weighted)| weighted).collect()
    }

    /// The best k documents of every query, exactly; ties in the order they were added.
    pub fn search<T: AsRef<str> + Sync>(&self, queries: Queries<T>, request: &Request) -> Result<Answers> {
        assert!(request.k >= 1 && matches!(queries, Queries::Vectors(_)) == (self.kind == Kind::Vectors));
        let count = match queries {
            Queries::Texts(texts) => texts.len(),
            Queries::Vectors(vectors) => vectors.starts.len() - 1,
        };
        let mut answers = Answers { exact: true, ..Answers::default() };
        let places = count.saturating_mul(request.k);
        let room = answers.ids.try_reserve_exact(places).and_then(|()| answers.scores.try_reserve_exact(places));
        room.map_err(|_| Error::Invalid(format!("no memory for {places} answers (queries times k): ask for fewer")))?;
        answers.ids.resize(places, -1);
        answers.scores.resize(places, f32::NEG_INFINITY);
        answers.threads = request.threads.min(count).max(1);
        let allowed = request.allow.map(|allow| Allowed::new(allow, &self.ids));
        let listed = allowed.as_ref().filter(|allowed| allowed.count() * LISTED < self.ids.rows()).map(Allowed::rows);
        let holds = |row: u32| match &allowed {
            Some(allowed) => allowed.holds(row),
            None => self.ids.is_live(row as usize),
        };
        let all = allowed.is_none() && self.ids.len() == self.ids.rows();
        let within = Within { holds: if all { None } else { Some(&holds) }, listed: listed.as_deref() };
        let jobs = answers.ids.chunks_mut(request.k).zip(answers.scores.chunks_mut(request.k)).enumerate();
        let (jobs, total) = (Mutex::new(jobs), Mutex::new(Work::default()));
        let patience = Patience::new(request.interrupt);
        pool::run(answers.threads, |_| {
            let mut work = Work::default();
            while !patience.is_over() {
                let job = jobs.lock().expect("taking a job does not panic").next();
                let Some((query, (ids, scores))) = job else { break };
                let terms = match &queries {
                    Queries::Texts(texts) => self.weigh_text(texts[query].as_ref()),
                    Queries::Vectors(vectors) => self.weigh_vector(vectors, query),
                };
                let best = self.best(&terms, request.k, within, &mut work);
                for (i, found) in best.into_sorted().into_iter().enumerate() {
                    (ids[i], scores[i]) = (self.ids.of(found.row), found.score);
                }
            }
            let mut total = total.lock().expect("adding does not panic");
            total.postings += work.postings;
            total.looked_up += work.looked_up;
            total.bytes += work.bytes;
        });
        if patience.was_over() {
            return Err(Error::Interrupted);
        }
        let total = total.into_inner().expect("adding does not panic");
        let size = if self.kind == Kind::Vectors { 8 } else { 9 }; // row, value, and the length of the row
        answers.rows_scanned = total.postings + total.looked_up;
        answers.rows_reread = total.looked_up;
        answers.bytes_read = answers.rows_scanned * size + total.bytes;
        Ok(answers)
    }

    fn best(&self, terms: &[Weighted], k: usize, within: Within, work: &mut Work) -> Best {
        let mut best = Best::new(k.min(self.len().max(1)));
        for segment in &self.segments {
            let length =
                |term: &Weighted| segment.find(term.term).map_or(0, |at| segment.starts[at + 1] - segment.starts[at]);
            let few = |rows: &&[u32]| rows.len() * terms.len() * LOOK_UP < terms.iter().map(length).sum();
            let within = Within { listed: within.listed.filter(few), ..within };
            let positive = !self.signed && terms.iter().all(|term| term.weight > 0.0);
            match (self.kind, &segment.values) {
                (Kind::Bm25 { k1, b }, Values::Counts { low, high }) => {
                    let mean = self.mean();
                    let (same, longer) = (k1 * (1.0 - b), k1 * b / mean);
                    let impacts = Bm25 { low, high, lengths: &self.lengths, same, longer };
                    // With a larger mean length impacts grow, but by no larger factor than the mean.
                    let drift = (mean / segment.mean).max(1.0);
                    Search { segment, impacts, drift, within, positive }.run(terms, &mut best, work);
                }
                (_, Values::Counts { low, high }) => {
                    let impacts = Classic { low, high, lengths: &self.lengths };
                    Search { segment, impacts, drift: 1.0, within, positive }.run(terms, &mut best, work);
                }
                (_, Values::Weights(values)) => {
                    Search { segment, impacts: Dot { values }, drift: 1.0, within, positive }
                        .run(terms, &mut best, work);
                }
            }
        }
        best
    }

    /// Writes what is there to a file.
    pub fn save(&self, path: &Path, threads: usize) -> Result<()> {
        if self.ids.len() < self.ids.rows() || self.segments.len() > 1 {
            return crate::sparse_file::save(&self.compacted(threads), path);
        }
        crate::sparse_file::save(self, path)
    }

    /// Reads a file that `save` wrote.
    pub fn load(path: &Path, threads: usize) -> Result<Self> {
        crate::sparse_file::load(path, threads)
    }
}

struct Bm25<'a> {
    low: &'a [u8],
    high: &'a [(usize, u32)],
    lengths: &'a [u32],
    same: f64,
    longer: f64,
}

impl Impacts for Bm25<'_> {
    #[inline]
    fn at(&self, position: usize, row: u32) -> f64 {
        let tf = count(self.low, self.high, position);
        tf / (tf + self.same + self.longer * f64::from(self.lengths[row as usize]))
    }

    #[inline]
    fn ask_for(&self, position: usize, row: u32) {
        prefetch(self.low, position);
        prefetch(self.lengths, row as usize);
    }
}

struct Classic<'a> {
    low: &'a [u8],
    high: &'a [(usize, u32)],
    lengths: &'a [u32],
}

impl Impacts for Classic<'_> {
    #[inline]
    fn at(&self, position: usize, row: u32) -> f64 {
        (count(self.low, self.high, position) / f64::from(self.lengths[row as usize])).sqrt()
    }

    #[inline]
    fn ask_for(&self, position: usize, row: u32) {
        prefetch(self.low, position);
        prefetch(self.lengths, row as usize);
    }
}

struct Dot<'a> {
    values: &'a [f32],
}

impl Impacts for Dot<'_> {
    #[inline]
    fn at(&self, position: usize, _row: u32) -> f64 {
        f64::from(self.values[position])
    }

    #[inline]
    fn ask_for(&self, position: usize, _row: u32) {
        prefetch(self.values, position);
    }
}
