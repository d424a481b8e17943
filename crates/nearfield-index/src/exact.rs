//! Exact answers to many queries: what each thread does of the work.
//!
//! Queries pass over the codes together, which are then laid out once for all of them. Threads may take rows, and all queries
//! with these: that reads codes once, but each thread has to find out anew what a row must reach to be a candidate. Or
//! they take queries, and all rows with these: that has no such cost, and nothing to put together at the end, but each lays out
//! all rows. The latter is better where rows are few.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nearfield_kernels::quantize::QueryCode;
use nearfield_kernels::{BLOCK, Factors, GROUP, kernels};

use crate::flat::{Answers, Flat, Request};
use crate::patience::Patience;
use crate::pool::each_job;
use crate::refine::{self, Full, Ranked};
use crate::scan::{self, Rows, Within};
use crate::{Error, Result};

/// Queries that pass over the codes together: their candidates must fit in memory.
const TOGETHER: usize = 1024;

/// Where threads take queries, so many at a time at the most: their candidates must fit in memory as well.
const APART: usize = 21 * GROUP;

/// And they do where each of these queries has no more than so many rows.
const ROWS_A_QUERY: usize = 1500;

/// Code bytes that make another thread worth waking.
const BYTES_PER_THREAD: usize = 1 << 20;

/// What a pass did.
#[derive(Default)]
struct Work {
    scanned: usize,
    reread: usize,
    bytes: usize,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.scanned += other.scanned;
        self.reread += other.reread;
        self.bytes += other.bytes;
    }
}

/// Queries that a thread takes at a time, and threads that share in each pass over the rows.
fn shared_out(count: usize, rows: usize, threads: usize) -> (usize, usize) {
    let rounds = count.div_ceil(threads * APART).max(1);
    let each = count.div_ceil(threads * rounds).next_multiple_of(GROUP);
    if threads > 1 && count > each && rows <= ROWS_A_QUERY * each { (each, 1) } else { (TOGETHER, threads) }
}

impl Flat {
    /// The best of these rows for every query.
    pub(crate) fn search_within(&self, within: Within, request: &Request) -> Result<Answers> {
        request.check(self.dimension)?;
        let (rows, count) = (self.rows_within(within), request.count(self.dimension));
        let plan = if matches!(rows.within, Within::Listed(_)) { "gather" } else { "scan" };
        let mut answers = Answers { exact: true, expected: 1.0, plan, ..Answers::default() };
        let places = count.saturating_mul(request.k);
        let room = answers.ids.try_reserve_exact(places).and_then(|()| answers.scores.try_reserve_exact(places));
        room.map_err(|_| Error::Invalid(format!("no memory for {places} answers (queries times k): ask for fewer")))?;
        answers.ids.resize(places, -1);
        answers.scores.resize(places, f32::NEG_INFINITY);

        let scanned = rows.read().min(self.len());
        let threads = request.threads.min(1 + count * self.code_bytes(&rows, scanned) / BYTES_PER_THREAD).max(1);
        let (each, inside) = shared_out(count, scanned, threads);
        let queries = request.queries.chunks(each * self.dimension);
        let jobs =
            answers.ids.chunks_mut(each * request.k).zip(answers.scores.chunks_mut(each * request.k)).zip(queries);
        let total = Mutex::new(Work::default());
        let patience = Patience::new(request.interrupt);
        each_job(
            threads / inside,
            jobs,
            || (),
            |(), (places, queries)| {
                let work = self.pass(&rows, queries, (request.k, inside), &patience, places);
                *total.lock().unwrap_or_else(PoisonError::into_inner) += work.unwrap_or_default();
            },
        );
        if patience.was_over() {
            return Err(Error::Interrupted);
        }
        let work = total.into_inner().unwrap_or_else(PoisonError::into_inner);
        (answers.rows_scanned, answers.rows_reread, answers.bytes_read) = (work.scanned, work.reread, work.bytes);
        answers.threads = threads;
        Ok(answers)
    }

    /// Bytes of the codes of so many rows.
    fn code_bytes(&self, rows: &Rows, count: usize) -> usize {
        count * (rows.lines * 64 + size_of::<Factors>() / BLOCK)
    }

    /// Answers queries that pass over the rows together; None where the search is to stop.
    fn pass(
        &self,
        rows: &Rows,
        queries: &[f32],
        (wanted, threads): (usize, usize),
        patience: &Patience,
        (ids, scores): (&mut [i64], &mut [f32]),
    ) -> Option<Work> {
        if patience.was_over() {
            return None; // before anything is coded
        }
        let kernels = kernels();
        let (count, scanned) = (queries.len() / self.dimension, rows.read().min(self.len()));
        // More than there are rows cannot be answered; bars and heaps are no larger than needed.
        let k = wanted.min(scanned.max(1));
        let coded = queries.chunks(self.dimension).map(|query| {
            let norm = (kernels.dot_exact)(query, query).sqrt();
            (norm, self.frame.encode_query(query, norm))
        });
        let (norms, codes): (Vec<f64>, Vec<QueryCode>) = coded.unzip();
        let candidates = scan::candidates(kernels, rows, &codes, k, threads, || patience.is_over())?;

        let full = Full { metric: self.metric, vectors: &self.vectors, norms: &self.norms };
        let (reread, looked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let jobs = ids.chunks_mut(wanted).zip(scores.chunks_mut(wanted));
        each_job(
            threads.min(count),
            jobs.enumerate(),
            || (),
            |(), (q, (ids, scores))| {
                let query = (&queries[q * self.dimension..(q + 1) * self.dimension], norms[q], &codes[q]);
                let (best, read) = refine::best(kernels, rows, &full, query, &candidates[q], k);
                for (i, Ranked { rank, row }) in best.into_iter().enumerate() {
                    (ids[i], scores[i]) = (self.ids.of(row), self.metric.score(rank));
                }
                reread.fetch_add(read, Ordering::Relaxed);
                looked.fetch_add(candidates[q].len(), Ordering::Relaxed);
            },
        );
        let reread = reread.into_inner();
        let looked = looked.into_inner() * rows.lines * 64 + reread * self.dimension * 4;
        Some(Work { scanned: scanned * count, reread, bytes: self.code_bytes(rows, scanned) + looked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metric;

    /// Numbers that look random.
    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let hash = |i: usize| (i as u32 ^ seed).wrapping_mul(2_654_435_761).rotate_left(15).wrapping_mul(2_246_822_519);
        (0..count).map(|i| hash(i) as f32 / u32::MAX as f32 - 0.5).collect()
    }

    #[test]
    fn every_query_gets_its_own_answer_whether_threads_share_rows_or_queries() {
        let (rows, queries) = (noise(40_000 * 3, 1), noise(300 * 3, 2));
        let mut ways = [0, 0];
        for rows in [&rows[..], &rows[..1000 * 3]] {
            let mut flat = Flat::new(3, Metric::L2).unwrap();
            flat.add(rows, None, 2).unwrap();
            let one = |query| flat.search(&Request::new(query, 4)).unwrap();
            let alone: Vec<Answers> = queries.chunks(3).map(one).collect();
            for (count, threads) in [0, 1, 13, 24, 25, 49, 300].into_iter().flat_map(|count| [(count, 2), (count, 5)]) {
                let all = flat.search(&Request { threads, ..Request::new(&queries[..3 * count], 4) }).unwrap();
                ways[usize::from(shared_out(count, rows.len() / 3, all.threads).1 == 1)] +=
                    usize::from(all.threads > 1);
                for (q, one) in alone[..count].iter().enumerate() {
                    assert_eq!(all.ids[4 * q..4 * q + 4], one.ids, "{} rows, {count} queries, {threads}", rows.len());
                    assert_eq!(all.scores[4 * q..4 * q + 4], one.scores);
                }
                assert_eq!(all.rows_scanned, count * rows.len() / 3);
            }
        }
        assert!(ways[0] >= 5 && ways[1] >= 5, "{ways:?}");
    }

    #[test]
    fn queries_are_shared_out_evenly_and_in_whole_groups() {
        for (count, threads) in (1..3000).flat_map(|count| [(count, 2), (count, 3), (count, 64)]) {
            let (each, inside) = shared_out(count, 1000, threads);
            if inside == 1 {
                let jobs = count.div_ceil(each);
                assert!(each <= APART && each.is_multiple_of(GROUP) && jobs > 1);
                assert!(
                    each * jobs.div_ceil(threads) * threads <= count + 2 * GROUP * threads * jobs.div_ceil(threads)
                );
            } else {
                assert!(inside == threads && count <= GROUP, "{count} queries on {threads} threads");
            }
        }
        assert_eq!(shared_out(100, 1_000_000, 4), (TOGETHER, 4));
    }

    #[test]
    fn many_short_passes_are_stopped_as_one_long_pass_is() {
        let mut flat = Flat::new(2, Metric::L2).unwrap();
        flat.add(&noise(2 * 64, 3), None, 1).unwrap();
        let queries = noise(2 * 1_000_000, 4);
        for threads in [1, 3] {
            let asked = AtomicUsize::new(0);
            let interrupt = || asked.fetch_add(1, Ordering::Relaxed) == 0;
            let found = flat.search(&Request { threads, interrupt: &interrupt, ..Request::new(&queries, 1) });
            assert!(matches!(found, Err(Error::Interrupted)), "{threads} threads");
            assert_eq!(asked.into_inner(), 1);
        }
    }
}
