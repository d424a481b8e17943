//! Every approximate kind against the exact one: recall, filters, the same file for any number of threads, changing rows,
//! odd data.
#![allow(missing_docs)]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use common::{file, recall};
use nearfield_index::{Allow, Answers, Kind, Metric, Request, kind};

const DIMENSION: usize = 40;
const KINDS: [&str; 3] = ["ivf", "ivf_pq", "lsh"];

fn clustered(seed: u64, count: usize) -> Vec<f32> {
    common::clustered(DIMENSION, seed, count)
}

fn request(queries: &[f32], k: usize, recall: f64) -> Request<'_> {
    Request { threads: 2, recall: Some(recall), ..Request::new(queries, k) }
}

fn made(name: &str, metric: Metric, rows: &[f32], threads: usize) -> Box<dyn Kind> {
    let mut index = kind::create(name, DIMENSION, metric).unwrap();
    index.add(rows, None, threads).unwrap();
    index
}

/// Rows of the indexes that several tests ask.
const SHARED: usize = 6000;

/// An index of each kind and metric over the same rows, built once.
fn shared(name: &'static str, metric: Metric) -> Arc<dyn Kind> {
    type Built = Mutex<HashMap<(&'static str, &'static str), Arc<OnceLock<Arc<dyn Kind>>>>>;
    static BUILT: OnceLock<Built> = OnceLock::new();
    let built = BUILT.get_or_init(Mutex::default).lock().unwrap().entry((name, metric.name())).or_default().clone();
    built.get_or_init(|| made(name, metric, &clustered(1, SHARED), 2).into()).clone()
}

/// Answers to queries asked one at a time, and whether any was approximate.
fn one_by_one(index: &dyn Kind, queries: &[f32], ask: impl Fn(&[f32]) -> Answers) -> (Vec<i64>, bool) {
    let answers: Vec<Answers> = queries.chunks(index.vectors().dimension()).map(ask).collect();
    (answers.iter().flat_map(|one| one.ids.clone()).collect(), answers.iter().any(|one| !one.exact))
}

#[test]
fn recall_reaches_what_was_asked_for_on_every_metric() {
    let queries = clustered(2, 200);
    for (name, metric) in KINDS.iter().flat_map(|name| Metric::ALL.map(|metric| (*name, metric))) {
        let index = shared(name, metric);
        for k in [1, 10, 60] {
            let truth = index.vectors().search(&request(&queries, k, 1.0)).unwrap();
            for target in [0.8, 0.9, 0.95, 0.99] {
                let ask = |query: &[f32]| index.search(&request(query, k, target)).unwrap();
                let (got, approximate) = one_by_one(&*index, &queries, ask);
                let got = recall(&got, &truth.ids, k);
                assert!(got >= target - 0.03, "{name} {metric:?} {k}: {got} of {target}");
                assert!(approximate || name == "lsh" || target > 0.9 || k > 10, "{name} {metric:?} never tried");
            }
            let exact = index.search(&request(&queries, k, 1.0)).unwrap();
            assert_eq!((&exact.ids, &exact.scores, exact.exact), (&truth.ids, &truth.scores, true));
        }
    }
}

#[test]
fn scores_are_the_exact_ones_and_ties_go_to_the_first() {
    let mut rows = clustered(1, 2500);
    rows.extend(clustered(1, 2500)); // every row twice
    let queries = clustered(3, 20);
    for (name, metric) in KINDS.iter().flat_map(|name| Metric::ALL.map(|metric| (*name, metric))) {
        let index = made(name, metric, &rows, 2);
        for query in queries.chunks(DIMENSION) {
            let all = index.vectors().search(&request(query, 5000, 1.0)).unwrap();
            let got = index.search(&request(query, 10, 0.8)).unwrap();
            let places: Vec<usize> =
                got.ids.iter().map(|id| all.ids.iter().position(|other| other == id).unwrap()).collect();
            assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{name} {metric:?} {places:?}");
            assert!(places.iter().zip(&got.scores).all(|(place, score)| all.scores[*place] == *score));
        }
    }
}

#[test]
fn files_are_the_same_for_any_number_of_threads_and_answer_as_what_was_saved() {
    let queries = clustered(6, 20);
    for (name, metric) in KINDS.iter().flat_map(|name| Metric::ALL.map(|metric| (*name, metric))) {
        let path = file(&format!("kinds-{name}-{}", metric.name()));
        let mut files = Vec::new();
        for threads in [1, 4] {
            let mut index = made(name, metric, &clustered(4, 3000), threads);
            index.remove(&(0..300).map(|i| i * 3).collect::<Vec<i64>>(), threads).unwrap();
            index.add(&clustered(7, 100), None, threads).unwrap();
            index.save(&path).unwrap();
            files.push(std::fs::read(&path).unwrap());
            let loaded = kind::load(&path, 2).unwrap();
            assert_eq!((loaded.name(), loaded.vectors().len()), (name, 2800));
            for query in queries.chunks(DIMENSION) {
                let ask = |index: &dyn Kind| index.search(&request(query, 10, 0.8)).unwrap();
                let (before, after) = (ask(&*index), ask(&*loaded));
                assert_eq!((before.ids, before.scores), (after.ids, after.scores), "{name} {metric:?}");
            }
        }
        assert!(files[0] == files[1], "{name} {metric:?}");
        let whole = &files[0];
        for at in (0..whole.len()).step_by(whole.len() / 41) {
            let mut broken = whole.clone();
            broken[at] ^= 0x10;
            std::fs::write(&path, &broken).unwrap();
            assert!(
                kind::load(&path, 2).and_then(|index| index.vectors().verify()).is_err(),
                "byte {at} changed and nobody noticed"
            );
        }
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(kind::load(&path, 2).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn fresh_rows_are_found_and_removed_rows_are_not() {
    for (name, metric) in KINDS.iter().flat_map(|name| [Metric::Cosine, Metric::L2].map(|metric| (*name, metric))) {
        // The first add is below what a structure is built for, the next ones move the frame of the codes.
        let mut index = made(name, metric, &clustered(8, 700), 2);
        let mut gone = HashSet::new();
        for turn in 0..16 {
            let fresh = clustered(100 + turn, 150 + turn as usize * 40);
            let ids = index.add(&fresh, None, 2).unwrap();
            for (query, id) in fresh.chunks(DIMENSION).zip(&ids).step_by(37) {
                assert_eq!(index.search(&request(query, 1, 0.99)).unwrap().ids, [*id], "{name} {metric:?}");
            }
            let out: Vec<i64> = (0..250).map(|i| turn as i64 * 250 + i).collect();
            index.remove(&out, 2).unwrap();
            gone.extend(out);
            for query in fresh.chunks(DIMENSION).step_by(53) {
                let got = index.search(&request(query, 10, 0.9)).unwrap();
                assert!(got.ids.iter().all(|id| *id >= 0 && !gone.contains(id)), "{name} {:?}", got.ids);
                assert_eq!(got.ids.iter().collect::<HashSet<_>>().len(), 10, "an answer came twice");
            }
        }
        let queries = clustered(9, 100);
        let truth = index.vectors().search(&request(&queries, 10, 1.0)).unwrap();
        let (got, _) = one_by_one(&*index, &queries, |query| index.search(&request(query, 10, 0.95)).unwrap());
        assert!(recall(&got, &truth.ids, 10) >= 0.92, "{name} {metric:?}");
    }
}

#[test]
fn a_filter_never_costs_answers() {
    let queries = clustered(11, 60);
    for (name, metric) in KINDS.iter().flat_map(|name| Metric::ALL.map(|metric| (*name, metric))) {
        let index = shared(name, metric);
        // Every so many rows, only the rows of one region, and only those far from the first query.
        let order = index.vectors().search(&request(&queries[..DIMENSION], SHARED, 1.0)).unwrap().ids;
        let (near, far) = (order[..SHARED / 10].to_vec(), order[SHARED / 3 * 2..].to_vec());
        let every = |step: usize| (0..SHARED).step_by(step).map(|id| id as i64).collect::<Vec<i64>>();
        for allow in [every(1), every(2), every(10), every(2000), near, far, vec![], vec![5, 70_000]] {
            let search = |queries: &[f32], recall| {
                index.search(&Request { allow: Some(Allow::Ids(&allow)), ..request(queries, 10, recall) }).unwrap()
            };
            let truth = search(&queries, 1.0);
            let (got, _) = one_by_one(&*index, &queries, |query| search(query, 0.95));
            let wanted = allow.iter().filter(|id| **id < SHARED as i64).count().min(10);
            for got in got.chunks(10) {
                assert_eq!(got.iter().filter(|id| allow.contains(id)).count(), wanted);
                assert!(got[wanted..].iter().all(|id| *id == -1));
            }
            let got = recall(&got, &truth.ids, 10);
            assert!(wanted == 0 || got >= 0.92, "{name} {metric:?}, {} allowed: {got}", allow.len());
        }
    }
}

#[test]
fn small_and_odd_indexes_answer() {
    for (name, metric) in KINDS.iter().flat_map(|name| Metric::ALL.map(|metric| (*name, metric))) {
        for count in [0, 1, 33, 1023, 1024, 1100] {
            let index = made(name, metric, &clustered(12, count), 2);
            let queries = clustered(13, 3);
            let got = index.search(&request(&queries, 50, 0.9)).unwrap();
            assert_eq!(got.ids.iter().filter(|id| **id >= 0).count(), 3 * count.min(50), "{name} {metric:?} {count}");
        }
        // Half of the rows zero and many the same; every row the same; one row far larger than can be coded.
        let mut rows = clustered(14, 3000);
        rows[..1500 * DIMENSION].fill(0.0);
        let one = rows[2000 * DIMENSION..2001 * DIMENSION].to_vec();
        for row in rows[2000 * DIMENSION..].chunks_mut(DIMENSION).take(500) {
            row.copy_from_slice(&one);
        }
        rows[2600 * DIMENSION..2601 * DIMENSION].fill(1e30);
        for data in [rows, vec![0.0; 2000 * DIMENSION], one.repeat(2000)] {
            let index = made(name, metric, &data, 2);
            for query in [&one, &vec![0.0; DIMENSION], &vec![3e37; DIMENSION], &vec![1e-40; DIMENSION]] {
                let got = index.search(&request(query, 10, 0.9)).unwrap();
                assert!(got.ids.iter().all(|id| *id >= 0), "{name} {metric:?}");
                assert_eq!(got.ids.iter().collect::<HashSet<_>>().len(), 10, "an answer came twice");
            }
        }
    }
}

#[test]
fn the_first_query_that_is_not_finite_is_named_by_every_kind_whichever_way_it_answers() {
    let (rows, good) = (clustered(15, SHARED), clustered(16, 4));
    let mut ways = HashSet::new();
    for name in ["flat", "auto", "hnsw"].into_iter().chain(KINDS) {
        for (count, recall) in [(0, 0.8), (200, 0.8), (SHARED, 0.8), (SHARED, 1.0)] {
            let index = made(name, Metric::Cosine, &rows[..count * DIMENSION], 2);
            let masks =
                [0, 2, 40].map(|every| (0..count).map(|id| every > 0 && id % every == 0).collect::<Vec<bool>>());
            for allow in masks.iter().map(|mask| Some(Allow::Mask(mask))).chain([None]) {
                ways.insert(index.search(&Request { allow, ..request(&good, 5, recall) }).unwrap().plan);
                for (first, bad) in [(0, f32::NAN), (1, f32::INFINITY), (2, f32::NEG_INFINITY)] {
                    let mut queries = good.clone();
                    [first, 3].iter().for_each(|query| queries[query * DIMENSION + 3] = bad);
                    let error = index.search(&Request { allow, ..request(&queries, 5, recall) }).unwrap_err();
                    let wanted = format!("query {first} holds NaN or infinity");
                    assert!(error.to_string().starts_with(&wanted), "{name} {count} {recall} {first}: {error}");
                }
            }
        }
    }
    assert!(["walk", "probe", "scan", "gather"].iter().all(|way| ways.contains(way)), "{ways:?}");
}
