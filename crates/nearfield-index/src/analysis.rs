//! Many texts become a segment: batches of them are cut into words in parallel, and numbered in their order.

use std::sync::{Mutex, PoisonError};

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::pool::each_job;
use crate::postings::{Segment, Values};
use crate::text::{Analyzer, Vocabulary};

/// Texts that one thread takes at a time.
const BATCH: usize = 4096;

/// Stands for a stop word.
const NOTHING: u32 = u32::MAX;

/// Postings of some texts, by words that have numbers of their own.
#[derive(Default)]
struct Batch {
    words: Vocabulary,
    /// Where the postings of each word begin, and the end of all.
    starts: Vec<usize>,
    /// Text (within the batch) and count.
    postings: Vec<(u32, u32)>,
    lengths: Vec<u32>,
}

/// The postings of texts that become the rows from `first` on, and the numbers of their words.
pub(crate) fn segment<T: AsRef<str> + Sync>(
    analyzer: &Analyzer,
    vocabulary: &mut Vocabulary,
    texts: &[T],
    first: u32,
    threads: usize,
) -> (Segment, Vec<u32>) {
    let count = texts.len().div_ceil(BATCH);
    let batches =
        in_order(count, threads, |job| Batch::of(analyzer, &texts[job * BATCH..((job + 1) * BATCH).min(texts.len())]));
    // Numbers are given by one thread, so they do not depend on how many there are.
    let numbers: Vec<Vec<u32>> = batches
        .iter()
        .map(|batch| (0..batch.words.len() as u32).map(|word| vocabulary.number(batch.words.word(word))).collect())
        .collect();
    let lengths = batches.iter().flat_map(|batch| batch.lengths.iter().copied()).collect();
    let batches: Vec<Mutex<Option<Batch>>> = batches.into_iter().map(|batch| Mutex::new(Some(batch))).collect();
    let mut parts = in_order(count, threads, |job| {
        let batch = batches[job].lock().unwrap_or_else(PoisonError::into_inner).take();
        batch.expect("taken once").segment(&numbers[job], first + (job * BATCH) as u32)
    });
    let whole = match parts.len() {
        0 => Segment::new(first, Values::counts()),
        1 => parts.remove(0),
        _ => Segment::merge(&parts, None, threads),
    };
    (whole, lengths)
}

/// Results of jobs 0 to `count` - 1, done in parallel.
fn in_order<R: Send>(count: usize, threads: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = (0..count).map(|_| None).collect();
    each_job(threads.min(count), results.iter_mut().enumerate(), || (), |(), (job, result)| *result = Some(work(job)));
    results.into_iter().map(|result| result.expect("every job was done")).collect()
}

impl Batch {
    fn of<T: AsRef<str>>(analyzer: &Analyzer, texts: &[T]) -> Self {
        let mut batch = Self::default();
        // Words as they stand in the texts: most of them came before, and need not be folded and stemmed again.
        let mut seen: HashTable<(&str, u32)> = HashTable::new();
        let mut entries: Vec<(u32, u32, u32)> = Vec::new();
        let mut terms: Vec<u32> = Vec::new();
        for (text, place) in texts.iter().zip(0..) {
            terms.clear();
            for (_, word) in analyzer.words(text.as_ref()) {
                let hash = xxh3_64(word.as_bytes());
                let term = match seen.find(hash, |(known, _)| *known == word) {
                    Some((_, term)) => *term,
                    None => {
                        let term = analyzer.term(word).map_or(NOTHING, |term| batch.words.number(&term));
                        seen.insert_unique(hash, (word, term), |(known, _)| xxh3_64(known.as_bytes()));
                        term
                    }
                };
                if term != NOTHING {
                    terms.push(term);
                }
            }
            batch.lengths.push(u32::try_from(terms.len()).unwrap_or(u32::MAX));
            terms.sort_unstable();
            entries.extend(terms.chunk_by(u32::eq).map(|run| (run[0], place, run.len() as u32)));
        }
        batch.starts = vec![0; batch.words.len() + 1];
        for (term, ..) in &entries {
            batch.starts[*term as usize + 1] += 1;
        }
        for term in 0..batch.words.len() {
            batch.starts[term + 1] += batch.starts[term];
        }
        let mut next = batch.starts.clone();
        batch.postings = vec![(0, 0); entries.len()];
        for (term, place, count) in entries {
            let to = &mut next[term as usize];
            batch.postings[*to] = (place, count);
            *to += 1;
        }
        batch
    }

    /// The same postings, by the numbers of all words.
    fn segment(self, numbers: &[u32], first: u32) -> Segment {
        let mut order: Vec<u32> = (0..numbers.len() as u32).collect();
        order.sort_unstable_by_key(|word| numbers[*word as usize]);
        let mut segment = Segment::new(first, Values::counts());
        segment.end = first + self.lengths.len() as u32;
        for word in order.into_iter().map(|word| word as usize) {
            let run = &self.postings[self.starts[word]..self.starts[word + 1]];
            segment.push(numbers[word], run.iter().map(|(place, _)| first + place), |values| {
                values.push_counts(run.iter().map(|(_, count)| *count));
            });
        }
        segment
    }
}
