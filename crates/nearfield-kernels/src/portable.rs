//! The path for every CPU: plain loops over fixed-size arrays, written so that the compiler vectorises them.
//! The bodies are `inline(always)`: the architecture files compile the same lines again with wider registers.

use crate::dispatch::{Dots, Kernels, Level};
use crate::guide::{GuideQuery, factors, ordered};
use crate::sum::Accumulator;
use crate::walk::{self, Graph, Links, Reach, Steps, Walker};
use crate::{BLOCK, Factors, LINE, Line, Weights, reference};

pub(crate) static KERNELS: Kernels = Kernels {
    level: Level::Scalar,
    code_bytes: 1,
    dot_exact: dot_exact::<8>,
    l2_exact: l2_exact::<8>,
    dot_near,
    l2_near,
    place,
    code16,
    fit,
    code8,
    dot_codes,
    scan,
    pack_rows,
    pack_queries,
    tile,
    select,
    scan_pq: crate::pq::scan,
    dot_plain,
    add_scaled,
    dot_rows,
    dot_planes,
    walk,
    sweep,
    pack_bits,
    raise: crate::groups::raise,
    reaching: crate::groups::reaching,
    counting: crate::groups::counting,
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

/// Bound of the error of a sum of `count` terms in 32 lanes whose absolute values add up to `mass`: every addition and
/// every term has a relative error of 2^-53, and twice as much pays for the rounding of the bound itself.
#[inline(always)]
pub(crate) fn bound(count: usize, mass: f64) -> f64 {
    (count.div_ceil(NEAR) + NEAR + 8) as f64 * 2f64.powi(-52) * mass
}

/// Lanes of the sums that are merely near.
const NEAR: usize = 32;

#[inline(always)]
pub(crate) fn dot_near(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    let mut sums = [0.0; NEAR];
    for at in (0..x.len()).step_by(NEAR) {
        let (a, b) = (lanes::<NEAR>(x, at), lanes::<NEAR>(y, at));
        for j in 0..NEAR {
            sums[j] += a[j] * b[j]; // the product is exact: 48 bits
        }
    }
    sums.iter().sum()
}

#[inline(always)]
pub(crate) fn l2_near(x: &[f32], y: &[f32]) -> (f64, f64) {
    assert_eq!(x.len(), y.len());
    let mut sums = [0.0; NEAR];
    for at in (0..x.len()).step_by(NEAR) {
        let (a, b) = (lanes::<NEAR>(x, at), lanes::<NEAR>(y, at));
        for j in 0..NEAR {
            let apart = a[j] - b[j];
            sums[j] += apart * apart;
        }
    }
    let sum = sums.iter().sum();
    (sum, bound(x.len(), sum))
}

/// Lanes of the sums over a query: their order is the same on every level.
const LANES: usize = 16;

#[inline(always)]
fn folded<T: Copy>(mut lanes: [T; LANES], fold: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for j in 0..half {
            lanes[j] = fold(lanes[j], lanes[j + half]);
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub(crate) fn place(x: &[f32], origin: &[f32], factor: f64, sigma: f64, into: &mut [f64]) -> (f64, f64) {
    assert!(x.len() == origin.len() && into.len() >= x.len().next_multiple_of(LANES));
    let (mut squares, mut largest) = ([0.0; LANES], [0.0f64; LANES]);
    for at in (0..x.len()).step_by(LANES) {
        let (mut x, origin) = (lanes::<LANES>(x, at), lanes::<LANES>(origin, at));
        for j in 0..LANES {
            x[j] = (x[j] * factor - origin[j]) * sigma;
            squares[j] += x[j] * x[j];
            largest[j] = if x[j].abs() > largest[j] { x[j].abs() } else { largest[j] };
        }
        into[at..at + LANES].copy_from_slice(&x);
    }
    (folded(squares, |a, b| a + b), folded(largest, |a, b| if a > b { a } else { b }))
}

#[inline(always)]
pub(crate) fn code16(u: &[f64], step: f64, high: &mut [Line], low: &mut [Line]) -> (f64, f64) {
    assert!(u.len() == high.len() * LINE && u.len() == low.len() * LINE);
    const BIG: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: no room for a fraction beside it
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    let (mut coarse, mut fine) = ([0.0; LANES], [0.0; LANES]);
    for (at, part) in u.chunks_exact(LANES).enumerate() {
        let (mut h, mut l) = ([0u8; LANES], [0u8; LANES]);
        for j in 0..LANES {
            let x = part[j];
            let scaled = x * inverse;
            let scaled = if scaled > 32_512.0 { 32_512.0 } else { scaled };
            let scaled = if scaled < -32_512.0 { -32_512.0 } else { scaled };
            // All of these are whole numbers far below 2^53.
            let whole = (scaled + BIG) - BIG;
            let upper = ((whole + 0.5) * (1.0 / 256.0) + BIG) - BIG; // never half-way
            let lower = whole - 256.0 * upper;
            // The lowest bits of a number beside BIG are those of a whole number.
            (h[j], l[j]) = ((upper + BIG).to_bits() as u8, (lower + BIG).to_bits() as u8);
            let (missed, left) = (x - step * (256.0 * upper), x - step * (256.0 * upper + lower));
            coarse[j] += missed * missed;
            fine[j] += left * left;
        }
        let place = at * LANES % LINE..at * LANES % LINE + LANES;
        high[at * LANES / LINE].0[place.clone()].copy_from_slice(&h);
        low[at * LANES / LINE].0[place].copy_from_slice(&l);
    }
    (folded(coarse, |a, b| a + b), folded(fine, |a, b| a + b))
}

#[inline(always)]
pub(crate) fn fit(u: &[f64], largest: f64, into: &mut [Line]) -> (f32, f64, f64) {
    assert!(u.len() == into.len() * LINE);
    const BIG: f64 = 6_755_399_441_055_744.0; // as in `code16`
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let (mut along, mut length) = ([0.0; LANES], [0.0; LANES]);
    for (part, line) in u.chunks_exact(LINE).zip(into) {
        for (part, codes) in part.chunks_exact(LANES).zip(line.0.chunks_exact_mut(LANES)) {
            for j in 0..LANES {
                let beside = part[j] * inverse + BIG; // at most 127 beside it: x / largest is rounded to 1 at the most
                let code = beside - BIG;
                codes[j] = (beside.to_bits() as u8).wrapping_add(128);
                along[j] += part[j] * code;
                length[j] += code * code;
            }
        }
    }
    let (along, length) = (folded(along, |a, b| a + b), folded(length, |a, b| a + b));
    let scale = if length > 0.0 { (along / length) as f32 } else { 0.0 };
    let (step, mut missed) = (f64::from(scale), [0.0; LANES]);
    for part in u.chunks_exact(LANES) {
        for j in 0..LANES {
            let left = part[j] - step * ((part[j] * inverse + BIG) - BIG);
            missed[j] += left * left;
        }
    }
    (scale, length, folded(missed, |a, b| a + b))
}

/// What a number is multiplied by to be coded as 127ths of the largest.
#[inline(always)]
pub(crate) fn inverse(largest: f32) -> f32 {
    let inverse = if largest.is_normal() { 127.0 / largest } else { 0.0 };
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[inline(always)]
pub(crate) fn code8(x: &[f32], into: &mut [Line]) -> (f32, i32) {
    assert!(x.len() == into.len() * LINE);
    const BIG: f32 = 12_582_912.0; // 1.5 * 2^23
    let mut largest = [0.0f32; LANES];
    for part in x.chunks_exact(LANES) {
        for j in 0..LANES {
            largest[j] = if part[j].abs() > largest[j] { part[j].abs() } else { largest[j] };
        }
    }
    let largest = folded(largest, |a, b| if a > b { a } else { b });
    let inverse = inverse(largest);
    let mut sums = [0; LANES];
    for (part, line) in x.chunks_exact(LINE).zip(into) {
        for (part, codes) in part.chunks_exact(LANES).zip(line.0.chunks_exact_mut(LANES)) {
            for j in 0..LANES {
                let code = (part[j] * inverse + BIG).to_bits().wrapping_sub(BIG.to_bits()) as i32;
                sums[j] += code;
                codes[j] = code as u8;
            }
        }
    }
    (largest, folded(sums, |a, b| a + b))
}

#[inline(always)]
pub(crate) fn dot_plain(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (x_lanes, y_lanes) = (x.chunks_exact(16), y.chunks_exact(16));
    let rest: f32 = x_lanes.remainder().iter().zip(y_lanes.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in x_lanes.zip(y_lanes) {
        for j in 0..16 {
            sums[j] += a[j] * b[j];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[inline(always)]
pub(crate) fn add_scaled(to: &mut [f32], by: f32, from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += by * from;
    }
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

fn dot_rows(codes: &[Line], rows: &[u32], query: &[Line], dots: &mut [i32]) {
    for (row, dot) in rows.iter().zip(dots) {
        *dot = dot_codes(&codes[*row as usize * query.len()..][..query.len()], query);
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

fn dot_planes(codes: &[Line], lines: usize, rows: [u32; 8], query: &[Line]) -> [i32; 8] {
    rows.map(|row| products(&codes[row as usize * lines..][..lines], query))
}

fn products(row: &[Line], query: &[Line]) -> i32 {
    let planes = query.len() / row.len();
    let (bits, mask) = (8 / planes, u8::MAX >> (8 - 8 / planes));
    let mut dot = 0;
    for (line, query) in row.iter().zip(query.chunks_exact(planes)) {
        for (plane, query) in query.iter().enumerate() {
            let codes = line.0.iter().map(|byte| byte >> (plane * bits) & mask);
            let products = codes.zip(query.0).map(|(code, q)| i16::from(code) * i16::from(q as i8));
            dot += products.map(i32::from).sum::<i32>();
        }
    }
    dot
}

struct Plain;

impl Steps for Plain {
    fn unseen(links: &[Links], seen: &[u32], fresh: &mut [u32]) -> usize {
        walk::unseen(links, seen, fresh)
    }

    fn score(graph: &Graph, rows: &[u32], count: usize, query: &GuideQuery, bar: u32, found: &mut [u64]) -> usize {
        let rows = &rows[..count];
        let mut count = 0;
        for &row in rows {
            let dot = products(&graph.codes[row as usize * graph.lines..][..graph.lines], &query.codes);
            let key = ordered(query.key(dot, factors(graph.codes, graph.lines, row)));
            found[count] = u64::from(key) << 32 | u64::from(row) << 1;
            count += usize::from(key < bar);
        }
        count
    }

    fn insert(pool: &mut [u64], length: usize, entry: u64) -> usize {
        walk::insert(pool, length, entry)
    }
}

fn walk(walker: &mut Walker, graph: &Graph, query: &GuideQuery, reach: Reach) {
    match graph.sieve {
        None => walk::walk::<Plain, false>(walker, graph, query, reach),
        Some(_) => walk::walk::<Plain, true>(walker, graph, query, reach),
    }
}

fn sweep(walker: &mut Walker, graph: &Graph, query: &GuideQuery, nodes: &[u32], width: usize) {
    walk::sweep::<Plain>(walker, graph, query, nodes, width);
}

/// Eight at a time: the product gathers the lowest bits of eight bytes in its highest byte.
pub(crate) fn pack_bits(places: &[bool], words: &mut [u64]) {
    for (word, places) in words.iter_mut().zip(places.chunks(64)) {
        let eights = places.chunks_exact(8);
        let rest = eights.remainder();
        *word = 0;
        let mut shift = 0;
        for eight in eights {
            let bytes: [u8; 8] = std::array::from_fn(|i| u8::from(eight[i]));
            *word |= (u64::from_le_bytes(bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56) << shift;
            shift += 8;
        }
        rest.iter().enumerate().for_each(|(i, place)| *word |= u64::from(*place) << (shift + i));
    }
}
