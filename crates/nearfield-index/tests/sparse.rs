//! The danger: a bound that is too low, and a good document passed over. The oracle scores every document, every time.

use std::collections::HashMap;

use nearfield_index::sparse::{Kind, Queries, Request, Sparse, Vectors};
use nearfield_index::{Allow, Answers};

/// A small generator (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as usize % bound
    }

    fn share(&mut self) -> f64 {
        self.below(1 << 30) as f64 / (1u64 << 30) as f64
    }

    /// Few words are frequent, most are rare.
    fn word(&mut self, words: usize) -> usize {
        (words as f64).powf(self.share()) as usize - 1
    }
}

/// Documents by id, in the order they came, and the scores of all of them.
struct Oracle {
    kind: Kind,
    documents: Vec<(i64, HashMap<u32, f64>)>,
}

impl Oracle {
    fn scores(&self, query: &[(u32, f64)]) -> Vec<Option<f64>> {
        let n = self.documents.len() as f64;
        let length = |document: &HashMap<u32, f64>| document.values().sum::<f64>();
        let mean = self.documents.iter().map(|(_, document)| length(document)).sum::<f64>() / n;
        let mut weighted: Vec<(u32, f64)> = query
            .iter()
            .map(|(term, count)| {
                let df = self.documents.iter().filter(|(_, document)| document.contains_key(term)).count() as f64;
                let idf = match self.kind {
                    Kind::Bm25 { .. } => (1.0 + (n - df + 0.5) / (df + 0.5)).ln(),
                    Kind::TfIdf => (1.0 + ((n + 1.0) / (df + 1.0)).ln()).powi(2),
                    Kind::Vectors => 1.0,
                };
                (*term, count * idf)
            })
            .collect();
        weighted.sort_by(|one, other| other.1.total_cmp(&one.1));
        let score = |document: &HashMap<u32, f64>| {
            let mut sum = None;
            for (term, weight) in &weighted {
                if let Some(&tf) = document.get(term) {
                    let impact = match self.kind {
                        Kind::Bm25 { k1, b } => tf / (tf + k1 * (1.0 - b) + k1 * b / mean * length(document)),
                        Kind::TfIdf => (tf / length(document)).sqrt(),
                        Kind::Vectors => tf,
                    };
                    sum = Some(sum.unwrap_or(0.0) + weight * impact);
                }
            }
            sum
        };
        self.documents.iter().map(|(_, document)| score(document)).collect()
    }

    fn best(&self, query: &[(u32, f64)], k: usize, allow: impl Fn(i64) -> bool) -> Vec<(i64, f32)> {
        let scores = self.scores(query);
        let mut found: Vec<(usize, i64, f32)> = (self.documents.iter().zip(scores).enumerate())
            .filter(|(_, ((id, _), _))| allow(*id))
            .filter_map(|(place, ((id, _), score))| Some((place, *id, score? as f32)))
            .collect();
        found.sort_by(|one, other| other.2.total_cmp(&one.2).then(one.0.cmp(&other.0)));
        found.into_iter().take(k).map(|(_, id, score)| (id, score)).collect()
    }
}

fn request<'a>(k: usize, threads: usize, allow: Option<Allow<'a>>) -> Request<'a> {
    Request { k, threads, allow, interrupt: &|| false }
}

fn pairs(answers: &Answers, query: usize, k: usize) -> Vec<(i64, f32)> {
    let places = query * k..(query + 1) * k;
    let both = answers.ids[places.clone()].iter().copied().zip(answers.scores[places].iter().copied());
    both.filter(|(id, _)| *id >= 0).collect()
}

fn written(document: &HashMap<u32, f64>) -> String {
    let mut words: Vec<(&u32, &f64)> = document.iter().collect();
    words.sort_by_key(|(word, _)| **word);
    let times = |(word, count): (&u32, &f64)| format!("w{word} ").repeat(*count as usize);
    words.into_iter().map(times).collect()
}

/// Terms and weights of a text, as the index numbers them: in the order of their first use.
fn query(random: &mut Random, words: usize) -> (String, Vec<(u32, f64)>) {
    let mut counts: Vec<(u32, f64)> = Vec::new();
    let mut text = String::new();
    for _ in 0..=random.below(6) {
        let word = random.word(words) as u32;
        text += &format!("W{word} ");
        match counts.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1.0,
            None => counts.push((word, 1.0)),
        }
    }
    (text, counts)
}

fn document(random: &mut Random, words: usize, longest: usize) -> HashMap<u32, f64> {
    let mut counts = HashMap::new();
    for _ in 0..random.below(longest) {
        *counts.entry(random.word(words) as u32).or_insert(0.0) += 1.0;
    }
    if random.below(40) == 0 {
        counts.insert(random.word(words) as u32, 250.0 + random.below(20) as f64); // more than a byte holds
    }
    counts
}

/// Compares answers that must be equal to the last bit. Both sides sum in the same order.
fn check(index: &Sparse, oracle: &Oracle, random: &mut Random, words: usize) {
    let n = index.len();
    assert_eq!(n, oracle.documents.len());
    let (texts, counts): (Vec<String>, Vec<_>) = (0..4).map(|_| query(random, words)).unzip();
    for k in [1, 1 + random.below(9), n + 1] {
        let answers = index.search(Queries::Texts(&texts), &request(k, 1 + random.below(3), None)).unwrap();
        for (i, counts) in counts.iter().enumerate() {
            assert_eq!(
                pairs(&answers, i, k),
                oracle.best(counts, k, |_| true),
                "{:?} k={k} {}",
                index.kind(),
                texts[i]
            );
        }
        let some: Vec<i64> = (0..random.below(n + 2)).map(|_| random.below(n + 5) as i64).collect();
        let allow = Some(Allow::Ids(&some));
        let answers = index.search(Queries::Texts(&texts), &request(k, 1, allow)).unwrap();
        for (i, counts) in counts.iter().enumerate() {
            assert_eq!(pairs(&answers, i, k), oracle.best(counts, k, |id| some.contains(&id)), "allow {}", texts[i]);
        }
    }
}

#[test]
fn answers_equal_those_of_scoring_every_document_whatever_was_added_and_removed_before() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let kind = match seed % 4 {
            0 => Kind::TfIdf,
            1 => Kind::Bm25 { k1: 1.2, b: 0.75 },
            2 => Kind::Bm25 { k1: 2.0 * random.share(), b: random.share() },
            _ => Kind::Bm25 { k1: 0.0, b: 1.0 },
        };
        let words = 1 + random.below(40);
        let mut index = Sparse::new(kind, None).unwrap();
        let mut oracle = Oracle { kind, documents: Vec::new() };
        for step in 0..12 {
            // Later documents are longer, or shorter: bounds computed with another mean length must still hold.
            let longest = if seed % 3 == 0 { 2 + 6 * step } else { 70 - 5 * step };
            let new: Vec<HashMap<u32, f64>> =
                (0..random.below(60)).map(|_| document(&mut random, words, longest)).collect();
            let texts: Vec<String> = new.iter().map(written).collect();
            let ids = index.add_texts(&texts, None, 1 + random.below(3)).unwrap();
            oracle.documents.extend(ids.into_iter().zip(new));
            check(&index, &oracle, &mut random, words);
            let gone: Vec<i64> = (0..random.below(oracle.documents.len() / 2 + 1))
                .map(|_| oracle.documents[random.below(oracle.documents.len())].0)
                .collect();
            index.remove(&gone, 1).unwrap();
            oracle.documents.retain(|(id, _)| !gone.contains(id));
            check(&index, &oracle, &mut random, words);
        }
    }
}

#[test]
fn many_blocks_and_windows_are_passed_over_without_losing_an_answer() {
    let (mut random, words) = (Random(5), 3000);
    for kind in [Kind::Bm25 { k1: 1.2, b: 0.75 }, Kind::TfIdf] {
        let mut index = Sparse::new(kind, None).unwrap();
        let mut oracle = Oracle { kind, documents: Vec::new() };
        for part in [70_000, 3000, 200, 1] {
            let new: Vec<HashMap<u32, f64>> = (0..part).map(|_| document(&mut random, words, 16)).collect();
            let texts: Vec<String> = new.iter().map(written).collect();
            let ids = index.add_texts(&texts, None, 2).unwrap();
            oracle.documents.extend(ids.into_iter().zip(new));
        }
        let gone: Vec<i64> = (0..5000).map(|i| i * 11).collect();
        index.remove(&gone, 1).unwrap();
        oracle.documents.retain(|(id, _)| id % 11 != 0 || *id >= 55_000);
        let mut read = 0;
        for round in 0..12 {
            let (text, counts) = query(&mut random, words);
            let few: Vec<i64> = (0..500).map(|_| random.below(80_000) as i64).collect();
            let mask: Vec<bool> = (0..80_000).map(|id| id % 3 != 0).collect();
            let k = [1, 10, 100][round % 3];
            let texts = [text];
            let answers = index.search(Queries::Texts(&texts), &request(k, 1, None)).unwrap();
            assert_eq!(pairs(&answers, 0, k), oracle.best(&counts, k, |_| true));
            read += answers.rows_scanned;
            let answers = index.search(Queries::Texts(&texts), &request(k, 1, Some(Allow::Ids(&few)))).unwrap();
            assert_eq!(pairs(&answers, 0, k), oracle.best(&counts, k, |id| few.contains(&id)));
            let answers = index.search(Queries::Texts(&texts), &request(k, 1, Some(Allow::Mask(&mask)))).unwrap();
            assert_eq!(pairs(&answers, 0, k), oracle.best(&counts, k, |id| id % 3 != 0));
        }
        assert!(read > 0);
    }
}

/// Sparse vectors one behind the other.
#[derive(Default)]
struct Rows {
    starts: Vec<usize>,
    places: Vec<u32>,
    values: Vec<f32>,
}

impl Rows {
    fn of<'a>(rows: impl Iterator<Item = &'a HashMap<u32, f64>>) -> Self {
        let mut all = Self { starts: vec![0], ..Self::default() };
        for row in rows {
            all.places.extend(row.keys());
            all.values.extend(row.values().map(|value| *value as f32));
            all.starts.push(all.places.len());
        }
        all
    }

    fn view(&self) -> Vectors<'_> {
        Vectors { starts: &self.starts, places: &self.places, values: &self.values }
    }
}

#[test]
fn dot_products_are_exact_with_positive_and_with_negative_numbers() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let lowest = if seed % 2 == 0 { 0.0 } else { 8.0 };
        let vector = |random: &mut Random, lowest: f64| -> HashMap<u32, f64> {
            let entries = (0..random.below(12)).map(|_| {
                // Quarters: sums are exact in any order, and often equal.
                (4_000_000_000 + random.word(30) as u32, (random.below(32) as f64 - lowest) / 4.0)
            });
            entries.filter(|(_, value)| *value != 0.0).collect()
        };
        let mut index = Sparse::new(Kind::Vectors, None).unwrap();
        let mut oracle = Oracle { kind: Kind::Vectors, documents: Vec::new() };
        for _ in 0..8 {
            let new: Vec<HashMap<u32, f64>> = (0..random.below(200)).map(|_| vector(&mut random, lowest)).collect();
            let ids = index.add_vectors(Rows::of(new.iter()).view(), None, 2).unwrap();
            oracle.documents.extend(ids.into_iter().zip(new));
            let gone: Vec<i64> = oracle.documents.iter().map(|(id, _)| *id).filter(|_| random.below(4) == 0).collect();
            index.remove(&gone, 1).unwrap();
            oracle.documents.retain(|(id, _)| !gone.contains(id));
            let queries: Vec<HashMap<u32, f64>> =
                (0..3).map(|_| vector(&mut random, if seed % 4 < 2 { 0.0 } else { 8.0 })).collect();
            let rows = Rows::of(queries.iter());
            for k in [1, 7, index.len() + 1] {
                let found = index.search(Queries::<&str>::Vectors(rows.view()), &request(k, 2, None)).unwrap();
                for (i, query) in queries.iter().enumerate() {
                    let terms: Vec<(u32, f64)> = query.iter().map(|(term, weight)| (*term, *weight)).collect();
                    assert_eq!(pairs(&found, i, k), oracle.best(&terms, k, |_| true));
                }
            }
        }
    }
}

#[test]
fn a_file_holds_the_same_index_and_a_damaged_one_is_refused() {
    let mut random = Random(9);
    let folder = std::env::temp_dir().join(format!("nearfield-sparse-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("index.nfi");
    let mut index = Sparse::new(Kind::Bm25 { k1: 0.9, b: 0.4 }, Some("english")).unwrap();
    let mut documents = Vec::new();
    for _ in 0..5 {
        let new: Vec<HashMap<u32, f64>> = (0..100).map(|_| document(&mut random, 50, 30)).collect();
        documents.extend(new.iter().map(written));
        index.add_texts(&documents[documents.len() - 100..], None, 2).unwrap();
    }
    index.remove(&(0..200).step_by(3).collect::<Vec<i64>>(), 1).unwrap();
    index.remove(&[499], 1).unwrap();
    index.save(&path, 2).unwrap();
    let mut loaded = Sparse::load(&path, 2).unwrap();
    assert_eq!((loaded.len(), loaded.next_id(), loaded.kind()), (index.len(), 500, index.kind()));
    let texts: Vec<String> = (0..30).map(|_| query(&mut random, 50).0).collect();
    let of = |index: &Sparse| index.search(Queries::Texts(&texts), &request(20, 1, None)).unwrap();
    assert_eq!((of(&loaded).ids, of(&loaded).scores), (of(&index).ids, of(&index).scores));
    assert_eq!(loaded.add_texts(&["w1 w2"], None, 1).unwrap(), [500]);
    let bytes = std::fs::read(&path).unwrap();
    for place in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 4;
        std::fs::write(&path, &damaged).unwrap();
        assert!(Sparse::load(&path, 1).is_err(), "byte {place}");
    }
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(Sparse::load(&path, 1).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_same_file_comes_out_for_any_number_of_threads() {
    let mut random = Random(3);
    let texts: Vec<String> = (0..9000).map(|_| written(&document(&mut random, 5000, 20))).collect();
    let folder = std::env::temp_dir().join(format!("nearfield-threads-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut files = Vec::new();
    for threads in [1, 4] {
        let mut index = Sparse::new(Kind::TfIdf, None).unwrap();
        index.add_texts(&texts, None, threads).unwrap();
        let path = folder.join("index.nfi");
        index.save(&path, threads).unwrap();
        files.push(std::fs::read(&path).unwrap());
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(files[0] == files[1]);
}
