//! The path for every CPU: plain loops over fixed-size arrays, written so that the compiler vectorises them.
//! The bodies are `inline(always)`: the architecture files compile the same lines again with wider registers.

use crate::dispatch::{Dots, Kernels, Level};
use crate::guide::{GuideQuery, ordered};
use crate::sum::Accumulator;
use crate::{BLOCK, Factors, LINE, Line, Weights, reference};

pub(crate) static KERNELS: Kernels = Kernels {
    level: Level::Scalar,
    code_bytes: 1,
    dot_exact: dot_exact::<8>,
    l2_exact: l2_exact::<8>,
    dot_codes,
    scan,
    pack_rows,
    pack_queries,
    tile,
    select,
    score,
    scan_pq: crate::pq::scan,
};

/// `L` numbers from place `at` on, widened to float64; zeros beyond the end. No closures here: one that is not inlined
/// is compiled for the baseline CPU, wherever it is called from.
#[inline(always)]
fn lanes<const L: usize>(x: &[f32], at: usize) -> [f64; L] {
    let mut wide = [0.0; L];
    match x[at..].first_chunk::<L>() {
        Some(whole) => {
            for j in 0..L {
                wide[j] = f64::from(whole[j]);
            }
        }
        None => {
            for (wide, x) in wide.iter_mut().zip(&x[at..]) {
                *wide = f64::from(*x);
            }
        }
    }
    wide
}

#[inline(always)]
pub(crate) fn dot_exact<const L: usize>(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    let mut sum = Accumulator::<L>::new();
    for at in (0..x.len()).step_by(L) {
        let (mut terms, other) = (lanes::<L>(x, at), lanes::<L>(y, at));
        for j in 0..L {
            terms[j] *= other[j];
        }
        sum.add(&terms);
    }
    sum.rounded(x.len()).unwrap_or_else(|| reference::dot(x, y))
}

#[inline(always)]
pub(crate) fn l2_exact<const L: usize>(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    if x == y {
        return 0.0; // the terms cancel to nothing, which only the slow sum could prove
    }
    let mut sum = Accumulator::<L>::new();
    for at in (0..x.len()).step_by(L) {
        let (a, b) = (lanes::<L>(x, at), lanes::<L>(y, at));
        let (mut squares, mut products, mut others) = ([0.0; L], [0.0; L], [0.0; L]);
        for j in 0..L {
            // (x - y)² itself would round; these three products do not.
            squares[j] = a[j] * a[j];
            products[j] = -2.0 * a[j] * b[j];
            others[j] = b[j] * b[j];
        }
        sum.add(&squares);
        sum.add(&products);
        sum.add(&others);
    }
    sum.rounded(3 * x.len()).unwrap_or_else(|| reference::l2(x, y))
}

pub(crate) fn dot_codes(row: &[Line], query: &[Line]) -> i32 {
    assert_eq!(row.len(), query.len());
    let mut sum = 0;
    for (r, q) in row.iter().zip(query) {
        for j in 0..LINE {
            sum += i32::from(i16::from(r.0[j]) - 128) * i32::from(q.0[j] as i8);
        }
    }
    sum
}

fn scan(codes: &[Line], query: &[Line], dots: &mut [i32]) {
    for (row, dot) in codes.chunks_exact(query.len()).zip(dots) {
        *dot = dot_codes(row, query);
    }
}

fn pack_rows(codes: &[Line], _lines: usize, packed: &mut [Line]) {
    packed[..codes.len()].copy_from_slice(codes);
}

fn pack_queries(queries: &[&[Line]], packed: &mut Vec<Line>) {
    packed.clear();
    for query in queries {
        packed.extend_from_slice(query);
    }
}

fn tile(rows: &[Line], queries: &[Line], lines: usize, count: usize, dots: &mut [i32], stride: usize) {
    for q in 0..count {
        scan(rows, &queries[q * lines..(q + 1) * lines], &mut dots[q * stride..(q + 1) * stride]);
    }
}

#[inline(always)]
pub(crate) fn select(dots: &Dots, factors: &[Factors], weights: &[Weights], bars: &[f32], selected: &mut [Vec<u32>]) {
    select_from(0, dots, factors, weights, bars, selected);
}

/// Selects among the rows from block `start` on.
#[inline(always)]
pub(crate) fn select_from(
    start: usize,
    dots: &Dots,
    factors: &[Factors],
    weights: &[Weights],
    bars: &[f32],
    selected: &mut [Vec<u32>],
) {
    let cover = Weights::cover(weights);
    for block in start..dots.rows.div_ceil(BLOCK) {
        let factors = &factors[block];
        let slack: [f32; BLOCK] = std::array::from_fn(|lane| {
            factors.residual[lane] * cover.residual
                + factors.norm[lane] * cover.norm
                + factors.bias[lane] * cover.bias
                + cover.constant
        });
        for (q, (weights, bar)) in weights.iter().zip(bars).enumerate() {
            let products = &dots.values[q * dots.stride + block * BLOCK..q * dots.stride + dots.rows];
            for (lane, product) in products.iter().take(BLOCK).enumerate() {
                if *product as f32 * weights.scale * factors.scale[lane] + slack[lane] >= *bar {
                    selected[q].push((block * BLOCK + lane) as u32);
                }
            }
        }
    }
}

fn score(codes: &[Line], lines: usize, rows: &[u32], query: &GuideQuery, bar: u32, out: &mut Vec<u64>) {
    for &row in rows {
        let code = &codes[row as usize * lines..(row as usize + 1) * lines];
        let mut dot = 0;
        for (line, halves) in code.iter().zip(query.codes.chunks_exact(2)) {
            let mut sum = 0;
            for j in 0..LINE {
                let (low, high) = (i16::from(line.0[j] & 15), i16::from(line.0[j] >> 4));
                sum += i32::from(low * i16::from(halves[0].0[j] as i8) + high * i16::from(halves[1].0[j] as i8));
            }
            dot += sum;
        }
        let last = &code[lines - 1].0;
        let key = ordered(query.key(dot, u32::from_le_bytes([last[60], last[61], last[62], last[63]])));
        if key < bar {
            out.push(u64::from(key) << 32 | u64::from(row) << 1);
        }
    }
}
