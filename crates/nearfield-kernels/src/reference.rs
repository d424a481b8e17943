//! Slow and obvious: what every kernel must equal. Kernels call it themselves where they cannot tell how to round.

use crate::guide::GuideQuery;
use crate::{BLOCK, Factors, Weights, sum};

/// Dot product; products of two float32 are exact in float64.
pub fn dot(x: &[f32], y: &[f32]) -> f64 {
    sum::exact(x.iter().zip(y).map(|(&a, &b)| f64::from(a) * f64::from(b)))
}

/// Squared Euclidean distance, as the exact sum of x² - 2xy + y².
pub fn l2(x: &[f32], y: &[f32]) -> f64 {
    sum::exact(x.iter().zip(y).flat_map(|(&a, &b)| {
        let (a, b) = (f64::from(a), f64::from(b));
        [a * a, -2.0 * a * b, b * b]
    }))
}

/// Dot product of a row of codes (stored with 128 added) and a query code.
pub fn dot_codes(row: &[u8], query: &[i8]) -> i32 {
    row.iter().zip(query).map(|(&u, &q)| (i32::from(u) - 128) * i32::from(q)).sum()
}

/// Upper end of the interval of a row's key.
pub fn upper(dot: i32, factors: &Factors, lane: usize, weights: &Weights) -> f64 {
    let (scale, residual) = (f64::from(factors.scale[lane]), f64::from(factors.residual[lane]));
    f64::from(dot) * scale * f64::from(weights.scale)
        + residual * f64::from(weights.residual)
        + f64::from(factors.norm[lane]) * f64::from(weights.norm)
        + f64::from(factors.bias[lane]) * f64::from(weights.bias)
        + f64::from(weights.constant)
}

/// Positions whose upper end reaches the bar.
pub fn select(dots: &[i32], factors: &[Factors], weights: &Weights, bar: f32) -> Vec<u32> {
    (0..dots.len())
        .filter(|&i| upper(dots[i], &factors[i / BLOCK], i % BLOCK, weights) >= f64::from(bar))
        .map(|i| i as u32)
        .collect()
}

/// Guide key of a row: its codes in as many planes as the query has, then the two factors in the last four bytes.
pub fn guide_key(row: &[u8], query: &GuideQuery) -> f32 {
    let codes: Vec<i32> = query.codes.iter().flat_map(|line| line.0).map(|code| i32::from(code as i8)).collect();
    let mut dot = 0;
    let planes = codes.len() / row.len();
    let levels: i32 = 1 << (8 / planes);
    for (i, byte) in row.iter().enumerate() {
        for plane in 0..planes {
            let code = i32::from(*byte) / levels.pow(plane as u32) % levels;
            dot += code * codes[i / 64 * 64 * planes + plane * 64 + i % 64];
        }
    }
    let number = |at: usize| f32::from(u16::from_le_bytes([row[at], row[at + 1]]));
    let (factor, offset) = (number(row.len() - 4), number(row.len() - 2));
    offset * query.bias - (2 * dot - query.surplus) as f32 * factor * query.scale
}
