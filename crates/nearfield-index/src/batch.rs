//! Queries answered one by one, on several threads.

use std::mem;
use std::ops::AddAssign;
use std::sync::Mutex;

use crate::flat::{Answers, Flat, Request};
use crate::patience::Patience;
use crate::pool::{each_job, shares};
use crate::record::first_not_finite;
use crate::refine::Ranked;
use crate::{Error, Result};

/// Queries that one thread takes at a time, at the most.
const AT_ONCE: usize = 8;

/// A thread is not woken for fewer queries: that takes about as long as one.
const LEAST: usize = 2;

/// Scratch space of searches, kept from one to the next.
pub(crate) type Benches<B> = Mutex<Vec<B>>;

/// What a thread has of a search. All of it is given back at its end.
struct Turn<'a, B: Default, W: AddAssign + Default> {
    bench: B,
    benches: &'a Benches<B>,
    work: W,
    starved: Vec<usize>,
    total: &'a Mutex<(W, Vec<usize>)>,
}

impl<B: Default, W: AddAssign + Default> Drop for Turn<'_, B, W> {
    fn drop(&mut self) {
        if let Ok(mut benches) = self.benches.lock() {
            benches.push(mem::take(&mut self.bench));
        }
        if let Ok(mut total) = self.total.lock() {
            total.0 += mem::take(&mut self.work);
            total.1.append(&mut self.starved);
        }
    }
}

/// Answers every query by what `one` finds for it: the best rows, the work that took, and whether that was too little. Returns
/// all the work, and the places of queries that found too little.
pub(crate) fn each_query<B: Default + Send, W: AddAssign + Default + Send>(
    flat: &Flat,
    request: &Request,
    answers: &mut Answers,
    benches: &Benches<B>,
    one: impl Fn(&[f32], &mut B) -> (Vec<Ranked>, W, bool) + Sync,
) -> Result<(W, Vec<usize>)> {
    let (k, dimension) = (request.k, flat.dimension());
    let count = request.count(dimension);
    answers.threads = request.threads.min(count / LEAST).max(1);
    answers.ids = vec![-1; count * k];
    answers.scores = vec![f32::NEG_INFINITY; count * k];
    let (mut ids, mut scores) = (&mut answers.ids[..], &mut answers.scores[..]);
    let jobs = shares(count, answers.threads, AT_ONCE).map(|places| {
        let numbers = places.len() * k;
        let room = ids.split_off_mut(..numbers).zip(scores.split_off_mut(..numbers));
        (places, room.expect("k answers a query"))
    });
    let (total, patience) = (Mutex::new((W::default(), Vec::new())), Patience::new(request.interrupt));
    let turn = || {
        let bench = benches.lock().ok().and_then(|mut benches| benches.pop()).unwrap_or_default();
        Turn { bench, benches, work: W::default(), starved: Vec::new(), total: &total }
    };
    each_job(answers.threads, jobs, turn, |turn, (places, (ids, scores))| {
        if places.start > 0 && patience.is_over() {
            return;
        }
        for (place, (ids, scores)) in places.zip(ids.chunks_mut(k).zip(scores.chunks_mut(k))) {
            let query = &request.queries[place * dimension..(place + 1) * dimension];
            if first_not_finite(query, dimension).is_some() {
                return patience.end();
            }
            let (best, work, starved) = one(query, &mut turn.bench);
            for (ranked, (id, score)) in best.iter().zip(ids.iter_mut().zip(scores)) {
                (*id, *score) = (flat.ids.of(ranked.row), flat.metric.score(ranked.rank));
            }
            turn.work += work;
            if starved {
                turn.starved.push(place);
            }
        }
    });
    if patience.was_over() {
        request.check(dimension)?;
        return Err(Error::Interrupted);
    }
    let (work, mut starved) = total.into_inner().expect("nobody panics with it");
    starved.sort_unstable();
    Ok((work, starved))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::Metric;

    #[derive(Default)]
    struct Sum(f32);

    impl AddAssign for Sum {
        fn add_assign(&mut self, other: Self) {
            self.0 += other.0;
        }
    }

    #[test]
    fn every_query_gets_its_own_answer_for_any_number_of_queries_and_threads() {
        let mut flat = Flat::new(1, Metric::Dot).unwrap();
        let rows: Vec<f32> = (0..100).map(|i| i as f32).collect();
        flat.add(&rows, Some(&(0..100).map(|i| 1000 + i).collect::<Vec<_>>()), 1).unwrap();
        let benches = Benches::<usize>::default();
        for (count, threads) in (0..=100).flat_map(|count| [(count, 1), (count, 2), (count, 5)]) {
            let request = Request { threads, ..Request::new(&rows[..count], 2) };
            let mut answers = Answers::default();
            let (sum, starved) = each_query(&flat, &request, &mut answers, &benches, |query, bench| {
                *bench += 1;
                let ranked = Ranked { rank: f64::from(query[0]), row: query[0] as u32 };
                (vec![ranked], Sum(query[0]), query[0] % 3.0 == 0.0)
            })
            .unwrap();
            assert_eq!(answers.ids, (0..count as i64).flat_map(|i| [1000 + i, -1]).collect::<Vec<_>>());
            let scores = rows[..count].iter().flat_map(|score| [*score, f32::NEG_INFINITY]);
            assert_eq!(answers.scores, scores.collect::<Vec<_>>());
            assert_eq!((sum.0, starved), (rows[..count].iter().sum(), (0..count).step_by(3).collect()));
        }
        let used: usize = benches.into_inner().unwrap().into_iter().sum();
        assert_eq!(used, 3 * (0..=100).sum::<usize>(), "benches that were not given back");
    }

    #[test]
    fn a_search_that_is_interrupted_answers_nothing() {
        let mut flat = Flat::new(1, Metric::Dot).unwrap();
        flat.add(&[1.0], None, 1).unwrap();
        let queries = vec![1.0; 200_000];
        for threads in [1, 3] {
            let asked = AtomicUsize::new(0);
            let interrupt = || asked.fetch_add(1, Ordering::Relaxed) == 2;
            let request = Request { threads, interrupt: &interrupt, ..Request::new(&queries, 1) };
            let one = |_: &[f32], _: &mut ()| {
                thread::sleep(Duration::from_micros(10));
                (Vec::new(), Sum::default(), false)
            };
            let found = each_query(&flat, &request, &mut Answers::default(), &Benches::default(), one);
            assert!(matches!(found, Err(Error::Interrupted)), "{threads} threads");
            assert_eq!(asked.into_inner(), 3);
        }
    }
}
