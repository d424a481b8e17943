//! What the tests of the approximate kinds share.
#![allow(missing_docs)]

use std::collections::HashSet;
use std::path::PathBuf;

/// Repeatable numbers (SplitMix64), in [-1, 1).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Rows around 60 centres, their variance falling from axis to axis.
pub fn clustered(dimension: usize, seed: u64, count: usize) -> Vec<f32> {
    let spread = |j: usize| 1.0 / (1.0 + j as f32).sqrt();
    let mut fixed = Random(99);
    let centres: Vec<f32> = (0..60 * dimension).map(|i| fixed.float() * spread(i % dimension)).collect();
    let mut random = Random(seed);
    let mut rows = Vec::new();
    for _ in 0..count {
        let centre = (random.next() % 60) as usize;
        let row = &centres[centre * dimension..(centre + 1) * dimension];
        rows.extend(row.iter().enumerate().map(|(j, c)| c + 0.7 * random.float() * spread(j)));
    }
    rows
}

/// The share of the true ids that was found, in answers of `k` ids a query; -1 is no id.
pub fn recall(got: &[i64], truth: &[i64], k: usize) -> f64 {
    let mut found = 0;
    for (got, truth) in got.chunks(k).zip(truth.chunks(k)) {
        let truth: HashSet<i64> = truth.iter().copied().filter(|id| *id >= 0).collect();
        found += got.iter().filter(|id| truth.contains(id)).count();
    }
    match truth.iter().filter(|id| **id >= 0).count() {
        0 => 1.0, // nothing was there to be found
        all => found as f64 / all as f64,
    }
}

/// A place for a file of this process.
pub fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("nearfield-{name}-{}.nfi", std::process::id()))
}
