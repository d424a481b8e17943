//! A rotation into the leading principal directions, in 8-bit integers.
//!
//! Principal component analysis: the subspace in which the rows vary most, here found by block subspace iteration on
//! the covariance of a sample (Golub and Van Loan, "Matrix Computations", section 8.2). Inside that subspace the basis
//! is turned at random, so that every coordinate carries about as much as any other and one scale a row fits all of
//! them (the rotation of RaBitQ, Gao and Long, 2024).
//!
//! Covariance and projection are sums of 8-bit products, exact on every CPU, and the rest is written in plain loops
//! in an order that no SIMD level changes: all of them find the same directions.

use std::cell::OnceCell;

use crate::{BLOCK, GROUP, Kernels, LINE, Line};

/// Rows that the covariance is taken of at the most.
const SAMPLE: usize = 16_384;

/// Rounds of subspace iteration. The energy kept is within a fraction of a percent of the optimum after four.
const ROUNDS: usize = 6;

/// An orthonormal projection onto `outputs` directions. Row r of the matrix is about `scales[r] * codes`.
#[derive(Clone, Debug)]
pub struct Projection {
    /// Numbers in a vector.
    pub inputs: usize,
    /// Directions kept.
    pub outputs: usize,
    /// The matrix, one direction a row of lines, codes stored with 128 added.
    pub codes: Vec<Line>,
    /// One scale a direction.
    pub scales: Vec<f32>,
}

/// Repeatable numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub(crate) u64);

impl Random {
    /// Numbers that this seed gives.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number below `bound`, all of them about equally likely.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// About normally distributed: the sum of four uniform numbers.
    pub fn normal(&mut self) -> f32 {
        let bits = self.next();
        (0..4).map(|i| ((bits >> (16 * i)) & 0xFFFF) as f32 / 32_768.0 - 1.0).sum()
    }
}

/// The nearest whole number, ties to even, for |x| < 2^22: two additions on every CPU.
pub(crate) fn rounded(x: f32) -> f32 {
    const BIG: f32 = 12_582_912.0; // 1.5 * 2^23: no room for a fraction beside it
    (x + BIG) - BIG
}

/// Makes rows of `width` numbers orthonormal: Gram and Schmidt, each row twice. A row that vanishes is drawn again.
fn orthonormalise(kernels: &Kernels, rows: &mut [f32], width: usize, random: &mut Random) {
    let (dot, add_scaled) = (kernels.dot_plain, kernels.add_scaled);
    for r in 0..rows.len() / width {
        let (before, row) = rows.split_at_mut(r * width);
        let row = &mut row[..width];
        for turn in 0.. {
            let length = dot(row, row).sqrt();
            if length.is_normal() {
                row.iter_mut().for_each(|x| *x /= length);
            }
            for _ in 0..2 {
                for other in before.chunks_exact(width) {
                    let along = dot(row, other);
                    add_scaled(row, -along, other);
                }
            }
            let left = dot(row, row).sqrt();
            if left > 1e-3 || turn == 8 {
                row.iter_mut().for_each(|x| *x /= left.max(f32::MIN_POSITIVE));
                break;
            }
            row.iter_mut().for_each(|x| *x = random.normal());
        }
    }
}

/// Rows that directions are found for: row i is `scales[i]` times its codes, which stand about their mean.
#[derive(Debug)]
pub struct Sample<'a> {
    kernels: &'a Kernels,
    codes: &'a [Line],
    scales: Vec<f32>,
    inputs: usize,
    covariance: OnceCell<Vec<f32>>,
}

impl<'a> Sample<'a> {
    /// Rows of so many numbers.
    pub fn new(kernels: &'a Kernels, codes: &'a [Line], scales: Vec<f32>, inputs: usize) -> Self {
        Self { kernels, codes, scales, inputs, covariance: OnceCell::new() }
    }

    /// Their covariance, computed once.
    fn covariance(&self) -> &[f32] {
        self.covariance.get_or_init(|| covariance(self.kernels, self.codes, &self.scales, self.inputs))
    }
}

/// Covariance of a sample of rows about the origin, each `scales[i]` times its codes; row-major, up to one factor.
fn covariance(kernels: &Kernels, codes: &[Line], scales: &[f32], dimension: usize) -> Vec<f32> {
    let (lines, count) = (dimension.div_ceil(LINE), scales.len());
    let every = count.div_ceil(SAMPLE).max(1);
    let sample: Vec<usize> = (0..count).step_by(every).collect();
    let value = |row: usize, j: usize| {
        scales[row] * (f32::from(codes[row * lines + j / LINE].0[j % LINE]) - 128.0) // the code is within the row
    };
    // Dimensions become rows: their products over the sample are products of codes again.
    let (long, padded) = (sample.len().div_ceil(LINE), dimension.next_multiple_of(2 * BLOCK));
    let mut turned = vec![Line::ZERO; padded * long];
    let mut steps = vec![0.0f32; dimension];
    let mut column = vec![0.0f32; sample.len()];
    for j in 0..dimension {
        for (x, &row) in column.iter_mut().zip(&sample) {
            *x = value(row, j);
        }
        let spread = ((kernels.dot_plain)(&column, &column) / sample.len().max(1) as f32).sqrt();
        steps[j] = 4.0 * spread / 127.0;
        let inverse = if steps[j] > 0.0 { 1.0 / steps[j] } else { 0.0 };
        for (i, x) in column.iter().enumerate() {
            let code = rounded((x * inverse).clamp(-127.0, 127.0));
            turned[j * long + i / LINE].0[i % LINE] = (code + 128.0) as u8;
        }
    }
    let queries: Vec<Line> = turned.iter().map(|line| Line(line.0.map(|code| code ^ 128))).collect();
    let mut packed = vec![Line::ZERO; turned.len() * kernels.code_bytes];
    (kernels.pack_rows)(&turned, long, &mut packed);
    let (mut group, mut dots) = (Vec::new(), vec![0; GROUP * padded]);
    let mut products = vec![0.0f32; dimension * dimension];
    for first in (0..dimension).step_by(GROUP) {
        let inside = GROUP.min(dimension - first);
        let codes: Vec<&[Line]> = (first..first + inside).map(|q| &queries[q * long..(q + 1) * long]).collect();
        (kernels.pack_queries)(&codes, &mut group);
        (kernels.tile)(&packed, &group, long, inside, &mut dots, padded);
        for q in 0..inside {
            let row = &mut products[(first + q) * dimension..(first + q + 1) * dimension];
            for (j, x) in row.iter_mut().enumerate() {
                *x = dots[q * padded + j] as f32 * steps[first + q] * steps[j];
            }
        }
    }
    products
}

impl Projection {
    /// The projection onto the `outputs` directions in which the rows vary most; all of them if there are no more. Also
    /// returns the share of the rows' squared norms that the projection keeps.
    pub fn train(sample: &Sample, outputs: usize) -> (Self, f32) {
        let (kernels, inputs, outputs) = (sample.kernels, sample.inputs, outputs.min(sample.inputs));
        let mut random = Random(0x006E_6561_7266_6965);
        let mut basis = vec![0.0f32; outputs * inputs];
        let mut kept = 1.0;
        if outputs == inputs {
            (0..inputs).for_each(|j| basis[j * inputs + j] = 1.0);
        } else {
            let products = sample.covariance();
            basis.iter_mut().for_each(|x| *x = random.normal());
            orthonormalise(kernels, &mut basis, inputs, &mut random);
            let mut turned = vec![0.0f32; basis.len()];
            let all: f32 = products.iter().step_by(inputs + 1).sum();
            for _ in 0..ROUNDS {
                turned.fill(0.0);
                // Four directions at a time pass over the matrix, which may be larger than the cache.
                for (to, from) in turned.chunks_mut(4 * inputs).zip(basis.chunks(4 * inputs)) {
                    for (i, row) in products.chunks_exact(inputs).enumerate() {
                        for (to, from) in to.chunks_exact_mut(inputs).zip(from.chunks_exact(inputs)) {
                            (kernels.add_scaled)(to, from[i], row);
                        }
                    }
                }
                kept = if all > 0.0 { (kernels.dot_plain)(&basis, &turned) / all } else { 1.0 };
                std::mem::swap(&mut basis, &mut turned);
                orthonormalise(kernels, &mut basis, inputs, &mut random);
            }
        }
        let mut rotation: Vec<f32> = (0..outputs * outputs).map(|_| random.normal()).collect();
        orthonormalise(kernels, &mut rotation, outputs, &mut random);
        let lines = inputs.div_ceil(LINE);
        let mut made = Self { inputs, outputs, codes: vec![Line::ZERO; outputs * lines], scales: vec![0.0; outputs] };
        let mut direction = vec![0.0f32; inputs];
        for r in 0..outputs {
            direction.fill(0.0);
            for s in 0..outputs {
                (kernels.add_scaled)(&mut direction, rotation[r * outputs + s], &basis[s * inputs..(s + 1) * inputs]);
            }
            let largest = direction.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            made.scales[r] = largest / 127.0;
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (j, x) in direction.iter().enumerate() {
                made.codes[r * lines + j / LINE].0[j % LINE] = (rounded(x * inverse) + 128.0) as u8;
            }
        }
        (made, kept)
    }

    /// Lines in a direction.
    pub fn lines(&self) -> usize {
        self.inputs.div_ceil(LINE)
    }
}
