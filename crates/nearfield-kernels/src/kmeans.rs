//! Centres of clusters of 8-bit codes, and the nearest of them: the two halves of a round of k-means (Lloyd, "Least
//! Squares Quantization in PCM", 1982), as products of codes.
//!
//! Products of codes are whole numbers and what is made of them is written in plain loops, so every CPU finds the same
//! clusters. Who calls this decides which rows and how many threads.

use crate::project::rounded;
use crate::{BLOCK, GROUP, Kernels, LINE, Line};

/// Bytes of packed centres that a group of rows meets before the next do: they stay in the cache meanwhile.
const TILE_BYTES: usize = 128 << 10;

/// Points that stand for the rows around them.
#[derive(Clone, Debug)]
pub struct Centres {
    /// Numbers in a centre.
    pub dimension: usize,
    /// The centres, row-major.
    pub values: Vec<f32>,
    codes: Vec<Line>,
    packed: Vec<Line>,
    scales: Vec<f32>,
    /// Half the squared norms; infinite for the centres that fill up the last block.
    halves: Vec<f32>,
}

/// A query for [`Centres::keys`].
#[derive(Clone, Debug, Default)]
pub struct CentreQuery {
    codes: Vec<Line>,
    step: f32,
    dots: Vec<i32>,
}

impl CentreQuery {
    /// Codes a query that stands where the rows do.
    pub fn set(&mut self, values: &[f32]) {
        let largest = values.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let inverse = if largest.is_normal() { 127.0 / largest } else { 0.0 };
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        self.step = largest / 127.0;
        self.codes.clear();
        self.codes.resize(values.len().div_ceil(LINE), Line([0; LINE]));
        for (line, part) in self.codes.iter_mut().zip(values.chunks(LINE)) {
            for (code, x) in line.0.iter_mut().zip(part) {
                *code = rounded(x * inverse) as i32 as i8 as u8;
            }
        }
    }

    /// Dot products of rows of codes with this query, up to the scales of the rows.
    pub fn products(&mut self, kernels: &Kernels, codes: &[Line]) -> (&[i32], f32) {
        self.dots.resize(codes.len() / self.codes.len(), 0);
        (kernels.scan)(codes, &self.codes, &mut self.dots);
        (&self.dots, self.step)
    }
}

impl Centres {
    /// Centres with these values, row-major.
    pub fn new(kernels: &Kernels, dimension: usize, values: Vec<f32>) -> Self {
        let (lines, count) = (dimension.div_ceil(LINE), values.len() / dimension);
        let padded = count.next_multiple_of(2 * BLOCK);
        let mut made = Self {
            dimension,
            values,
            codes: vec![Line::ZERO; count * lines],
            packed: vec![Line::ZERO; padded * lines * kernels.code_bytes],
            scales: vec![0.0; padded],
            halves: vec![f32::INFINITY; padded],
        };
        for (c, centre) in made.values.chunks_exact(dimension).enumerate() {
            let largest = centre.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            let inverse = if largest.is_normal() { 127.0 / largest } else { 0.0 };
            let inverse = if inverse.is_finite() { inverse } else { 0.0 };
            made.scales[c] = largest / 127.0;
            let mut square = 0.0f32;
            for (line, part) in made.codes[c * lines..(c + 1) * lines].iter_mut().zip(centre.chunks(LINE)) {
                for (code, x) in line.0.iter_mut().zip(part) {
                    *code = (rounded(x * inverse) + 128.0) as u8;
                    square += x * x;
                }
            }
            made.halves[c] = square / 2.0;
        }
        (kernels.pack_rows)(&made.codes, lines, &mut made.packed);
        made
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.values.len() / self.dimension
    }

    /// One of them.
    pub fn of(&self, centre: usize) -> &[f32] {
        &self.values[centre * self.dimension..(centre + 1) * self.dimension]
    }

    /// Half the squared norm of one of them.
    pub fn half(&self, centre: usize) -> f32 {
        self.halves[centre]
    }

    /// The centre nearest to each row, the first where several are equally near. Row r is `scales[r]` times its codes.
    pub fn nearest(&self, kernels: &Kernels, rows: &[Line], scales: &[f32], into: &mut [u32]) {
        let lines = self.dimension.div_ceil(LINE);
        let per_tile = (TILE_BYTES / (lines * LINE) / (2 * BLOCK)).max(1) * 2 * BLOCK;
        let signed: Vec<Line> = rows.iter().map(|line| Line(line.0.map(|code| code ^ 128))).collect();
        let mut groups = Vec::with_capacity(into.len().div_ceil(GROUP));
        for group in signed.chunks(GROUP * lines) {
            let codes: Vec<&[Line]> = group.chunks(lines).collect();
            let mut packed = Vec::new();
            (kernels.pack_queries)(&codes, &mut packed);
            groups.push((packed, codes.len()));
        }
        let mut best = vec![(f32::NEG_INFINITY, 0u32); into.len()];
        let mut dots = vec![0; GROUP * per_tile];
        for start in (0..self.halves.len()).step_by(per_tile) {
            let count = per_tile.min(self.halves.len() - start);
            let bytes = lines * kernels.code_bytes;
            let packed = &self.packed[start * bytes..(start + count) * bytes];
            let (factors, halves) = (&self.scales[start..start + count], &self.halves[start..start + count]);
            for (g, (group, inside)) in groups.iter().enumerate() {
                (kernels.tile)(packed, group, lines, *inside, &mut dots, per_tile);
                for q in 0..*inside {
                    let row = g * GROUP + q;
                    let dots = &dots[q * per_tile..q * per_tile + count];
                    let (value, at) = largest(dots, factors, halves, scales[row]);
                    if value > best[row].0 {
                        best[row] = (value, (start + at) as u32);
                    }
                }
            }
        }
        for (into, (_, centre)) in into.iter_mut().zip(best) {
            *into = centre;
        }
    }

    /// What the nearness of a query to each centre is judged by, greater is nearer: `<query, centre> - weight |centre|²
    /// / 2`, which orders by Euclidean distance with weight 1 and by inner product with weight 0.
    pub fn keys(&self, kernels: &Kernels, query: &mut CentreQuery, weight: f32, into: &mut Vec<f32>) {
        let count = self.count();
        let (dots, step) = query.products(kernels, &self.codes);
        into.clear();
        into.extend((0..count).map(|c| dots[c] as f32 * self.scales[c] * step - weight * self.halves[c]));
    }
}

/// The greatest of `dots * factors * scale - halves` and the first place it stands at.
fn largest(dots: &[i32], factors: &[f32], halves: &[f32], scale: f32) -> (f32, usize) {
    const LANES: usize = BLOCK;
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut block = [0u32; LANES];
    let blocks = dots.chunks_exact(LANES).zip(factors.chunks_exact(LANES)).zip(halves.chunks_exact(LANES));
    for (b, ((dots, factors), halves)) in (0u32..).zip(blocks) {
        for j in 0..LANES {
            let value = dots[j] as f32 * factors[j] * scale - halves[j];
            let better = value > best[j];
            best[j] = if better { value } else { best[j] };
            block[j] = if better { b } else { block[j] };
        }
    }
    let mut found = (best[0], block[0] as usize * LANES);
    for j in 1..LANES {
        let at = block[j] as usize * LANES + j;
        if best[j] > found.0 || (best[j] == found.0 && at < found.1) {
            found = (best[j], at);
        }
    }
    found
}

/// Adds a row, `scale` times its codes, to a sum.
pub fn add_row(sum: &mut [f32], row: &[Line], scale: f32) {
    for (sums, line) in sum.chunks_mut(LINE).zip(row) {
        for (sum, code) in sums.iter_mut().zip(&line.0) {
            *sum += scale * (f32::from(*code) - 128.0);
        }
    }
}

/// Gives centres of few rows a new place: beside those of the most, which they will share the rows with. `sizes` are
/// rows a centre; a centre is small with less than a twentieth of the mean, and large with more than twice as many.
pub fn balance(values: &mut [f32], dimension: usize, sizes: &[usize]) {
    let mean = sizes.iter().sum::<usize>() / sizes.len().max(1);
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|c| (sizes[*c], *c));
    let (mut low, mut high) = (0, order.len().saturating_sub(1));
    while low < high && sizes[order[low]] * 20 <= mean && sizes[order[high]] > 2 * mean {
        let (small, large) = (order[low], order[high]);
        for j in 0..dimension {
            // Two centres on either side of the old one, along a direction that no coordinate is left out of.
            let aside = values[large * dimension + j] * if j % 2 == 0 { 1.0 / 256.0 } else { -1.0 / 256.0 };
            values[small * dimension + j] = values[large * dimension + j] + aside;
            values[large * dimension + j] -= aside;
        }
        (low, high) = (low + 1, high - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_that_of_a_plain_search() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 32_768.0 - 1.0
        };
        for (dimension, count) in [(5usize, 1), (64, 33), (100, 700)] {
            let lines = dimension.div_ceil(LINE);
            let values: Vec<f32> = (0..count * dimension).map(|_| next()).collect();
            let mut rows = vec![Line::ZERO; 29 * lines];
            for row in rows.chunks_mut(lines) {
                (0..dimension).for_each(|j| row[j / LINE].0[j % LINE] = (next() * 100.0 + 128.0) as u8);
            }
            for kernels in crate::dispatch::available() {
                let centres = Centres::new(kernels, dimension, values.clone());
                let mut into = vec![0; 29];
                centres.nearest(kernels, &rows, &[0.01; 29], &mut into);
                for (row, found) in rows.chunks(lines).zip(into) {
                    let mut value = vec![0.0; dimension];
                    add_row(&mut value, row, 0.01);
                    let distance =
                        |c: usize| -> f32 { value.iter().zip(centres.of(c)).map(|(a, b)| (a - b) * (a - b)).sum() };
                    let least = (0..count).map(distance).fold(f32::INFINITY, f32::min);
                    assert!(distance(found as usize) <= least * 1.02 + 0.02, "{:?}", kernels.level);
                }
            }
        }
    }

    #[test]
    fn empty_clusters_take_from_the_largest() {
        let mut values = vec![1.0, 2.0, 9.0, 9.0, 5.0, 5.0];
        balance(&mut values, 2, &[100, 0, 3]);
        assert!((values[2] - 1.0).abs() < 0.1 && (values[3] - 2.0).abs() < 0.1 && values[..2] != values[2..4]);
        assert_eq!(values[4..], [5.0, 5.0]);
    }
}
