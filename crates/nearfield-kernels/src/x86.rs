//! x86-64: AVX2, and AVX-512 with VNNI. With the other files of this name the only SIMD by hand.

use std::arch::x86_64::*;

use crate::dispatch::{Dots, Kernels, Level};
use crate::guide::GuideQuery;
use crate::pq::Table;
use crate::sum::Accumulator;
use crate::walk::{Graph, Reach, Walker};
use crate::{BLOCK, Factors, GROUP, LINE, Line, Weights, portable, reference, x86_graph, x86_groups, x86_pq};

/// Those this CPU can run, slowest first.
pub(crate) fn available() -> impl Iterator<Item = &'static Kernels> {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni");
    [(avx2, &AVX2), (avx512, &AVX512)].into_iter().filter(|(present, _)| *present).map(|(_, kernels)| kernels)
}

/// Safe entries to functions that need CPU features. They are reachable only through the tables below, and
/// `available` hands a table out only where the CPU has all of its features.
macro_rules! entries {
    ($($entry:ident => $inner:path, ($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {$(
        fn $entry($($argument: $kind),*) $(-> $result)? {
            // SAFETY: `available` has seen every feature that the function is compiled for.
            unsafe { $inner($($argument),*) }
        }
    )*};
}

mod avx2 {
    use super::*;

    #[target_feature(enable = "avx2,fma")]
    pub fn dot_exact(x: &[f32], y: &[f32]) -> f64 {
        portable::dot_exact::<32>(x, y)
    }

    #[target_feature(enable = "avx2")]
    pub fn dot_plain(x: &[f32], y: &[f32]) -> f32 {
        portable::dot_plain(x, y)
    }

    #[target_feature(enable = "avx2")]
    pub fn add_scaled(to: &mut [f32], by: f32, from: &[f32]) {
        portable::add_scaled(to, by, from);
    }

    #[target_feature(enable = "avx2")]
    pub fn pack_bits(places: &[bool], words: &mut [u64]) {
        let whole = (places.len() / 64).min(words.len());
        for (word, places) in words.iter_mut().zip(places.chunks_exact(64)) {
            // SAFETY: `places` is 64 bytes long; a truth value is a byte of 0 or 1.
            let half = |at: usize| unsafe {
                let bytes = _mm256_loadu_si256(places.as_ptr().add(at).cast());
                u64::from(_mm256_movemask_epi8(_mm256_slli_epi16::<7>(bytes)) as u32)
            };
            *word = half(0) | half(32) << 32;
        }
        portable::pack_bits(&places[64 * whole..], &mut words[whole..]);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn l2_exact(x: &[f32], y: &[f32]) -> f64 {
        portable::l2_exact::<16>(x, y)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn dot_near(x: &[f32], y: &[f32]) -> f64 {
        portable::dot_near(x, y)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn l2_near(x: &[f32], y: &[f32]) -> (f64, f64) {
        portable::l2_near(x, y)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn place(x: &[f32], origin: &[f32], factor: f64, sigma: f64, into: &mut [f64]) -> (f64, f64) {
        portable::place(x, origin, factor, sigma, into)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn code16(u: &[f64], step: f64, high: &mut [Line], low: &mut [Line]) -> (f64, f64) {
        portable::code16(u, step, high, low)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn fit(u: &[f64], largest: f64, into: &mut [Line]) -> (f32, f64, f64) {
        portable::fit(u, largest, into)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn code8(x: &[f32], into: &mut [Line]) -> (f32, i32) {
        portable::code8(x, into)
    }

    /// Sixteen codes, widened to 16 bits and with the 128 taken off again.
    #[target_feature(enable = "avx2")]
    fn widen(codes: __m128i) -> __m256i {
        _mm256_sub_epi16(_mm256_cvtepu8_epi16(codes), _mm256_set1_epi16(128))
    }

    #[target_feature(enable = "avx2")]
    pub fn dot_codes(row: &[Line], query: &[Line]) -> i32 {
        assert_eq!(row.len(), query.len());
        let mut sum = _mm256_setzero_si256();
        for (r, q) in row.iter().zip(query) {
            for j in (0..LINE).step_by(16) {
                // SAFETY: j + 16 <= 64, inside both lines.
                let (codes, q) = unsafe {
                    (_mm_loadu_si128(r.0.as_ptr().add(j).cast()), _mm_loadu_si128(q.0.as_ptr().add(j).cast()))
                };
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(widen(codes), _mm256_cvtepi8_epi16(q)));
            }
        }
        let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
        _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32::<0b10_11_00_01>(quarter)))
    }

    #[target_feature(enable = "avx2")]
    pub fn scan(codes: &[Line], query: &[Line], dots: &mut [i32]) {
        for (row, dot) in codes.chunks_exact(query.len()).zip(dots) {
            *dot = dot_codes(row, query);
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn dot_rows(codes: &[Line], rows: &[u32], query: &[Line], dots: &mut [i32]) {
        for (row, dot) in rows.iter().zip(dots) {
            *dot = dot_codes(&codes[*row as usize * query.len()..][..query.len()], query);
        }
    }

    /// A block: for every two dimensions, 16 rows x 2 codes of 16 bits.
    pub fn pack_rows(codes: &[Line], lines: usize, packed: &mut [Line]) {
        for (r, row) in codes.chunks_exact(lines).enumerate() {
            let block = &mut packed[r / BLOCK * BLOCK * lines * 2..][..BLOCK * lines * 2];
            let lane = r % BLOCK * 4;
            for (line, out) in row.iter().zip(block.chunks_exact_mut(LINE / 2)) {
                for (pair, out) in line.0.chunks_exact(2).zip(out) {
                    for (code, bytes) in pair.iter().zip(out.0[lane..lane + 4].chunks_exact_mut(2)) {
                        bytes.copy_from_slice(&(i16::from(*code) - 128).to_le_bytes());
                    }
                }
            }
        }
    }

    /// For every two dimensions: 2 codes of 16 bits of every query, which are filled up to a multiple of four.
    pub fn pack_queries(queries: &[&[Line]], packed: &mut Vec<Line>) {
        super::pack_queries(queries, packed, 2, |code| i16::from(code as i8).to_le_bytes());
    }

    #[target_feature(enable = "avx2")]
    pub fn tile(rows: &[Line], queries: &[Line], lines: usize, count: usize, dots: &mut [i32], stride: usize) {
        let (pairs, width) = (lines * LINE / 2, super::padded(count));
        let blocks = rows.len() / (BLOCK * lines * 2);
        assert!(queries.len() * LINE >= pairs * width * 4 && stride >= blocks * BLOCK && dots.len() >= width * stride);
        for block in 0..blocks {
            for first in (0..width).step_by(4) {
                let mut sums = [[_mm256_setzero_si256(); 2]; 4];
                for pair in 0..pairs {
                    // SAFETY: a block has `pairs` lines of rows; the queries have `pairs` x `width` places of four
                    // bytes (asserted above) and first + 4 <= width.
                    let (low, high, query) = unsafe {
                        let at = rows.as_ptr().add(block * pairs + pair).cast::<__m256i>();
                        let query = queries.as_ptr().cast::<i32>().add(pair * width + first);
                        (_mm256_load_si256(at), _mm256_load_si256(at.add(1)), query)
                    };
                    for q in 0..4 {
                        // SAFETY: as above.
                        let query = _mm256_set1_epi32(unsafe { *query.add(q) });
                        sums[q][0] = _mm256_add_epi32(sums[q][0], _mm256_madd_epi16(low, query));
                        sums[q][1] = _mm256_add_epi32(sums[q][1], _mm256_madd_epi16(high, query));
                    }
                }
                for q in 0..4 {
                    // SAFETY: (first + q) * stride + 16 * block + 16 <= width * stride <= dots.len(), asserted above.
                    unsafe {
                        let at = dots.as_mut_ptr().add((first + q) * stride + block * BLOCK);
                        _mm256_storeu_si256(at.cast(), sums[q][0]);
                        _mm256_storeu_si256(at.add(8).cast(), sums[q][1]);
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn select(dots: &Dots, factors: &[Factors], weights: &[Weights], bars: &[f32], selected: &mut [Vec<u32>]) {
        portable::select(dots, factors, weights, bars, selected);
    }
}

pub(crate) mod avx512 {
    use super::*;

    /// Sixteen numbers from place `at` on, as two registers of float64; zeros beyond the end.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn wide(x: &[f32], at: usize) -> (__m512d, __m512d) {
        let left = x.len() - at;
        let mask = if left >= 16 { 0xFFFF } else { (1u32 << left) as u16 - 1 };
        // SAFETY: the mask lets only numbers inside `x` be read.
        let all = unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)) };
        (_mm512_cvtps_pd(_mm512_castps512_ps256(all)), _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(all)))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    pub fn dot_exact(x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len());
        // As `Accumulator` adds, 32 lanes in four registers.
        let zero = [_mm512_setzero_pd(); 4];
        let (mut high, mut low, mut mass) = (zero, zero, zero);
        for (step, at) in (0..x.len()).step_by(16).enumerate() {
            let (a, b) = (wide(x, at), wide(y, at));
            for (half, term) in [_mm512_mul_pd(a.0, b.0), _mm512_mul_pd(a.1, b.1)].into_iter().enumerate() {
                let j = step % 2 * 2 + half;
                let sum = _mm512_add_pd(high[j], term);
                let added = _mm512_sub_pd(sum, high[j]);
                let error = _mm512_sub_pd(high[j], _mm512_sub_pd(sum, added));
                low[j] = _mm512_add_pd(low[j], _mm512_add_pd(error, _mm512_sub_pd(term, added)));
                mass[j] = _mm512_add_pd(mass[j], _mm512_abs_pd(term));
                high[j] = sum;
            }
        }
        let [high, low, mass] = [high, low, mass].map(|registers| {
            let mut lanes = [0.0; 32];
            for (register, lanes) in registers.into_iter().zip(lanes.chunks_exact_mut(8)) {
                // SAFETY: `lanes` is eight numbers long.
                unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), register) };
            }
            lanes
        });
        Accumulator { high, low, mass }.rounded(x.len()).unwrap_or_else(|| reference::dot(x, y))
    }

    #[target_feature(enable = "avx512f,avx512vl,fma")]
    pub fn l2_exact(x: &[f32], y: &[f32]) -> f64 {
        portable::l2_exact::<16>(x, y)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub fn dot_near(x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len());
        let mut sums = [_mm512_setzero_pd(); 4];
        let whole = x.len() / 32 * 32;
        for (a, b) in x[..whole].chunks_exact(32).zip(y[..whole].chunks_exact(32)) {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 8 j + 8 <= 32, the length of both.
                let (a, b) =
                    unsafe { (_mm256_loadu_ps(a.as_ptr().add(8 * j)), _mm256_loadu_ps(b.as_ptr().add(8 * j))) };
                *sum = _mm512_fmadd_pd(_mm512_cvtps_pd(a), _mm512_cvtps_pd(b), *sum);
            }
        }
        for at in (whole..x.len()).step_by(16) {
            let (a, b) = (wide(x, at), wide(y, at));
            sums[0] = _mm512_fmadd_pd(a.0, b.0, sums[0]);
            sums[1] = _mm512_fmadd_pd(a.1, b.1, sums[1]);
        }
        let sums = _mm512_add_pd(_mm512_add_pd(sums[0], sums[1]), _mm512_add_pd(sums[2], sums[3]));
        _mm512_reduce_add_pd(sums)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub fn l2_near(x: &[f32], y: &[f32]) -> (f64, f64) {
        assert_eq!(x.len(), y.len());
        let mut sums = [_mm512_setzero_pd(); 4];
        for (step, at) in (0..x.len()).step_by(16).enumerate() {
            let (a, b) = (wide(x, at), wide(y, at));
            let apart = [_mm512_sub_pd(a.0, b.0), _mm512_sub_pd(a.1, b.1)];
            let first = step % 2 * 2;
            for j in 0..2 {
                sums[first + j] = _mm512_fmadd_pd(apart[j], apart[j], sums[first + j]);
            }
        }
        let sum = _mm512_add_pd(_mm512_add_pd(sums[0], sums[1]), _mm512_add_pd(sums[2], sums[3]));
        let sum = _mm512_reduce_add_pd(sum);
        (sum, portable::bound(x.len(), sum))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub fn place(x: &[f32], origin: &[f32], factor: f64, sigma: f64, into: &mut [f64]) -> (f64, f64) {
        assert!(x.len() == origin.len() && into.len() >= x.len().next_multiple_of(16));
        let (factor, sigma) = (_mm512_set1_pd(factor), _mm512_set1_pd(sigma));
        let (mut squares, mut largest) = ([_mm512_setzero_pd(); 2], [_mm512_setzero_pd(); 2]);
        for at in (0..x.len()).step_by(16) {
            let (x, origin) = (wide(x, at), wide(origin, at));
            for (j, (x, origin)) in [(x.0, origin.0), (x.1, origin.1)].into_iter().enumerate() {
                // Rounded three times, as on every level: not to be fused.
                let placed = _mm512_mul_pd(_mm512_sub_pd(_mm512_mul_pd(x, factor), origin), sigma);
                squares[j] = _mm512_add_pd(squares[j], _mm512_mul_pd(placed, placed));
                largest[j] = _mm512_max_pd(largest[j], _mm512_abs_pd(placed));
                // SAFETY: at + 16 <= into.len(), asserted above.
                unsafe { _mm512_storeu_pd(into.as_mut_ptr().add(at + 8 * j), placed) };
            }
        }
        // Folded in halves, 16 lanes to one: the order of every level.
        let mut lanes = [0.0; 8];
        // SAFETY: `lanes` is eight numbers long.
        unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), _mm512_add_pd(squares[0], squares[1])) };
        for half in [4, 2, 1] {
            (0..half).for_each(|j| lanes[j] += lanes[j + half]);
        }
        (lanes[0], _mm512_reduce_max_pd(_mm512_max_pd(largest[0], largest[1])))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    pub fn code16(u: &[f64], step: f64, high: &mut [Line], low: &mut [Line]) -> (f64, f64) {
        portable::code16(u, step, high, low)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub fn fit(u: &[f64], largest: f64, into: &mut [Line]) -> (f32, f64, f64) {
        portable::fit(u, largest, into)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub fn code8(x: &[f32], into: &mut [Line]) -> (f32, i32) {
        assert!(x.len() == into.len() * LINE);
        let mut most = _mm512_setzero_ps();
        for part in x.chunks_exact(16) {
            // SAFETY: `part` is sixteen numbers long.
            most = _mm512_max_ps(most, _mm512_abs_ps(unsafe { _mm512_loadu_ps(part.as_ptr()) }));
        }
        let largest = _mm512_reduce_max_ps(most);
        let inverse = _mm512_set1_ps(portable::inverse(largest));
        let mut sums = _mm512_setzero_si512();
        for (part, codes) in x.chunks_exact(16).zip(into.iter_mut().flat_map(|line| line.0.chunks_exact_mut(16))) {
            // SAFETY: `part` is sixteen numbers long, `codes` sixteen bytes.
            unsafe {
                // Rounds to the nearest, ties to even, as every level does.
                let code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(part.as_ptr()), inverse));
                sums = _mm512_add_epi32(sums, code);
                _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(code));
            }
        }
        (largest, _mm512_reduce_add_epi32(sums))
    }

    /// VPDPBUSD multiplies unsigned by signed bytes. Rows are stored with 128 added, so the product is too large by
    /// 128 times the sum of the query, which is the same for every row.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(crate) fn surplus(query: &[Line]) -> i32 {
        let mut sum = _mm512_setzero_si512();
        for line in query {
            // SAFETY: a line is 64 bytes on a boundary of 64.
            let q = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), q);
        }
        128 * _mm512_reduce_add_epi32(sum)
    }

    /// Dot products of `N` rows with one query, surplus included.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn rows<const N: usize>(codes: &[Line], query: &[Line]) -> [__m512i; N] {
        let lines = query.len();
        assert!(codes.len() >= N * lines);
        let mut sums = [_mm512_setzero_si512(); N];
        for (i, line) in query.iter().enumerate() {
            // SAFETY: lines are 64 bytes on a boundary of 64; row r, line i is inside `codes` (asserted above).
            unsafe {
                let q = _mm512_load_si512(line.0.as_ptr().cast());
                for r in 0..N {
                    let row = _mm512_load_si512(codes.as_ptr().add(r * lines + i).cast());
                    sums[r] = _mm512_dpbusd_epi32(sums[r], row, q);
                }
            }
        }
        sums
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn dot_codes(row: &[Line], query: &[Line]) -> i32 {
        assert_eq!(row.len(), query.len());
        _mm512_reduce_add_epi32(rows::<1>(row, query)[0]).wrapping_sub(surplus(query))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub fn scan(codes: &[Line], query: &[Line], dots: &mut [i32]) {
        let (lines, surplus) = (query.len(), surplus(query));
        let mut fours = dots.chunks_exact_mut(4);
        let mut row = 0;
        for dots in fours.by_ref() {
            // The last step from four registers to four sums is shared.
            let sums = rows::<4>(&codes[row * lines..], query);
            let half = |s: __m512i| _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64::<1>(s));
            let pairs = _mm256_hadd_epi32(
                _mm256_hadd_epi32(half(sums[0]), half(sums[1])),
                _mm256_hadd_epi32(half(sums[2]), half(sums[3])),
            );
            let four = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
            // SAFETY: `dots` is four sums long.
            unsafe { _mm_storeu_si128(dots.as_mut_ptr().cast(), _mm_sub_epi32(four, _mm_set1_epi32(surplus))) };
            row += 4;
        }
        for dot in fours.into_remainder() {
            let sum = _mm512_reduce_add_epi32(rows::<1>(&codes[row * lines..], query)[0]);
            *dot = sum.wrapping_sub(surplus);
            row += 1;
        }
    }

    /// A block: for every four dimensions, 16 rows x 4 codes: one register.
    #[target_feature(enable = "avx512f")]
    pub fn pack_rows(codes: &[Line], lines: usize, packed: &mut [Line]) {
        let count = codes.len() / lines;
        assert!(packed.len() >= count.div_ceil(BLOCK) * BLOCK * lines);
        for first in (0..count).step_by(BLOCK) {
            let (codes, packed) = (&codes[first * lines..], &mut packed[first * lines..]);
            for i in 0..lines {
                let mut square = [_mm512_setzero_si512(); BLOCK];
                for (r, row) in square.iter_mut().enumerate().take(count - first) {
                    // SAFETY: lines are 64 bytes on a boundary of 64; the index is checked.
                    *row = unsafe { _mm512_load_si512(codes[r * lines + i].0.as_ptr().cast()) };
                }
                for (out, column) in packed[i * BLOCK..(i + 1) * BLOCK].iter_mut().zip(transposed(square)) {
                    // SAFETY: a line is 64 bytes on a boundary of 64.
                    unsafe { _mm512_store_si512(out.0.as_mut_ptr().cast(), column) };
                }
            }
        }
    }

    /// A square of 16 x 16 32-bit words, rows for columns.
    #[target_feature(enable = "avx512f")]
    fn transposed(r: [__m512i; 16]) -> [__m512i; 16] {
        let (mut a, mut b, mut c, mut d) = (r, r, r, r);
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..4 {
            for half in 0..2 {
                let (x, y) = (a[4 * i + half], a[4 * i + half + 2]);
                b[4 * i + 2 * half] = _mm512_unpacklo_epi64(x, y);
                b[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(x, y);
            }
        }
        for j in 0..4 {
            for i in 0..2 {
                let (x, y) = (b[8 * i + j], b[8 * i + 4 + j]);
                c[8 * i + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(x, y);
                c[8 * i + 4 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(x, y);
            }
        }
        for j in 0..8 {
            d[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(c[j], c[8 + j]);
            d[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(c[j], c[8 + j]);
        }
        d
    }

    /// For every four dimensions: 4 codes of every query, which are filled up to a multiple of four. Then a line with
    /// what the sums start from: minus each query's surplus.
    pub fn pack_queries(queries: &[&[Line]], packed: &mut Vec<Line>) {
        super::pack_queries(queries, packed, 4, |code| [code]);
        let mut start = Line([0; LINE]);
        for (query, bytes) in queries.iter().zip(start.0.chunks_exact_mut(4)) {
            let sum: i32 = query.iter().flat_map(|line| &line.0).map(|code| i32::from(*code as i8)).sum();
            bytes.copy_from_slice(&(-128 * sum).to_le_bytes());
        }
        packed.push(start);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn tile(rows: &[Line], queries: &[Line], lines: usize, count: usize, dots: &mut [i32], stride: usize) {
        match super::padded(count) {
            4 => tile_of::<4>(rows, queries, lines, dots, stride),
            8 => tile_of::<8>(rows, queries, lines, dots, stride),
            _ => tile_of::<12>(rows, queries, lines, dots, stride),
        }
    }

    /// Two blocks x Q queries stay in registers: 24 sums of 32 registers for twelve queries.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn tile_of<const Q: usize>(rows: &[Line], queries: &[Line], lines: usize, dots: &mut [i32], stride: usize) {
        let (fours, blocks) = (lines * LINE / 4, rows.len() / (BLOCK * lines));
        assert!((queries.len() - 1) * LINE >= fours * Q * 4 && stride >= blocks * BLOCK && dots.len() >= Q * stride);
        let mut start = [_mm512_setzero_si512(); Q];
        for (start, bytes) in start.iter_mut().zip(queries[queries.len() - 1].0.chunks_exact(4)) {
            *start = _mm512_set1_epi32(i32::from_le_bytes(bytes.try_into().expect("four bytes")));
        }
        for pair in (0..blocks & !1).step_by(2) {
            let mut sums = [[_mm512_setzero_si512(); 2]; Q];
            for q in 0..Q {
                sums[q] = [start[q]; 2];
            }
            // SAFETY: blocks `pair` and `pair + 1` are inside `rows`, each `fours` lines long; queries as above.
            unsafe {
                let mut at = rows.as_ptr().add(pair * fours).cast::<__m512i>();
                let mut query = queries.as_ptr().cast::<i32>();
                for _ in 0..fours {
                    let (first, second) = (_mm512_load_si512(at), _mm512_load_si512(at.add(fours)));
                    for q in 0..Q {
                        let query = _mm512_set1_epi32(*query.add(q));
                        sums[q][0] = _mm512_dpbusd_epi32(sums[q][0], first, query);
                        sums[q][1] = _mm512_dpbusd_epi32(sums[q][1], second, query);
                    }
                    at = at.add(1);
                    query = query.add(Q);
                }
            }
            for q in 0..Q {
                // SAFETY: q * stride + 16 * pair + 32 <= Q * stride <= dots.len(), asserted above.
                unsafe {
                    let at = dots.as_mut_ptr().add(q * stride + pair * BLOCK);
                    _mm512_storeu_si512(at.cast(), sums[q][0]);
                    _mm512_storeu_si512(at.add(BLOCK).cast(), sums[q][1]);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub fn select(dots: &Dots, factors: &[Factors], weights: &[Weights], bars: &[f32], selected: &mut [Vec<u32>]) {
        assert!(weights.len() == bars.len() && bars.len() == selected.len());
        assert!(dots.values.len() >= (weights.len() - 1) * dots.stride + dots.rows);
        let cover = Weights::cover(weights);
        let (residual, norm) = (_mm512_set1_ps(cover.residual), _mm512_set1_ps(cover.norm));
        let (bias, constant) = (_mm512_set1_ps(cover.bias), _mm512_set1_ps(cover.constant));
        let whole = dots.rows / BLOCK;
        for (block, factors) in factors[..whole].iter().enumerate() {
            // SAFETY: a factor array is 16 floats on a boundary of 64 bytes.
            let (scale, slack) = unsafe {
                let slack = _mm512_fmadd_ps(_mm512_load_ps(factors.bias.as_ptr()), bias, constant);
                let slack = _mm512_fmadd_ps(_mm512_load_ps(factors.norm.as_ptr()), norm, slack);
                let slack = _mm512_fmadd_ps(_mm512_load_ps(factors.residual.as_ptr()), residual, slack);
                (_mm512_load_ps(factors.scale.as_ptr()), slack)
            };
            for q in 0..weights.len() {
                // SAFETY: block < whole, so these 16 are inside `values` (asserted above).
                let dot =
                    unsafe { _mm512_loadu_si512(dots.values.as_ptr().add(q * dots.stride + block * BLOCK).cast()) };
                let dot = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(weights[q].scale));
                let upper = _mm512_fmadd_ps(dot, scale, slack);
                let mut mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(upper, _mm512_set1_ps(bars[q]));
                while mask != 0 {
                    selected[q].push((block * BLOCK) as u32 + mask.trailing_zeros());
                    mask &= mask - 1;
                }
            }
        }
        portable::select_from(whole, dots, factors, weights, bars, selected);
    }
}

/// Queries that the tile kernel computes for `count`: the next multiple of four.
fn padded(count: usize) -> usize {
    assert!((1..=GROUP).contains(&count));
    count.next_multiple_of(4)
}

/// Interleaves queries: for every `step` dimensions, that many codes of each query, zeros for those not there.
fn pack_queries<const B: usize>(queries: &[&[Line]], packed: &mut Vec<Line>, step: usize, code: fn(u8) -> [u8; B]) {
    let (width, lines) = (padded(queries.len()), queries[0].len());
    packed.clear();
    packed.resize(lines * width * B, Line([0; LINE]));
    for (q, query) in queries.iter().enumerate() {
        for (j, &byte) in query.iter().flat_map(|line| &line.0).enumerate() {
            let at = ((j / step * width + q) * step + j % step) * B;
            packed[at / LINE].0[at % LINE..at % LINE + B].copy_from_slice(&code(byte));
        }
    }
}

entries! {
    avx2_dot_exact => avx2::dot_exact, (x: &[f32], y: &[f32]) -> f64;
    avx2_l2_exact => avx2::l2_exact, (x: &[f32], y: &[f32]) -> f64;
    avx2_dot_near => avx2::dot_near, (x: &[f32], y: &[f32]) -> f64;
    avx2_l2_near => avx2::l2_near, (x: &[f32], y: &[f32]) -> (f64, f64);
    avx2_dot_plain => avx2::dot_plain, (x: &[f32], y: &[f32]) -> f32;
    avx2_add_scaled => avx2::add_scaled, (to: &mut [f32], by: f32, from: &[f32]);
    avx2_place => avx2::place, (x: &[f32], o: &[f32], factor: f64, sigma: f64, into: &mut [f64]) -> (f64, f64);
    avx2_code16 => avx2::code16, (u: &[f64], step: f64, high: &mut [Line], low: &mut [Line]) -> (f64, f64);
    avx2_fit => avx2::fit, (u: &[f64], largest: f64, into: &mut [Line]) -> (f32, f64, f64);
    avx2_code8 => avx2::code8, (x: &[f32], into: &mut [Line]) -> (f32, i32);
    avx2_dot_codes => avx2::dot_codes, (row: &[Line], query: &[Line]) -> i32;
    avx2_scan => avx2::scan, (codes: &[Line], query: &[Line], dots: &mut [i32]);
    avx2_tile => avx2::tile, (r: &[Line], q: &[Line], lines: usize, count: usize, dots: &mut [i32], stride: usize);
    avx2_scan_pq => x86_pq::avx2::scan_pq, (c: &[Line], t: &Table, b: &[f32], s: f32, r: f32, o: &mut Vec<(f32, u32)>);
    avx2_dot_rows => avx2::dot_rows, (codes: &[Line], rows: &[u32], query: &[Line], dots: &mut [i32]);
    avx2_dot_planes => x86_graph::avx2::dot_planes, (c: &[Line], lines: usize, rows: [u32; 8], q: &[Line]) -> [i32; 8];
    avx2_raise => x86_groups::raise, (sums: &mut [u8], levels: &[u8], table: &[u8; 16], spread: u32);
    avx2_reaching => x86_groups::reaching, (sums: &[u8], enough: u8, found: &mut Vec<u32>);
    avx2_counting => x86_groups::counting, (sums: &[u8], enough: u8) -> usize;
    avx2_walk => x86_graph::avx2::walk, (walker: &mut Walker, graph: &Graph, query: &GuideQuery, reach: Reach);
    avx2_sweep => x86_graph::avx2::sweep, (w: &mut Walker, g: &Graph, q: &GuideQuery, nodes: &[u32], width: usize);
    avx2_pack_bits => avx2::pack_bits, (places: &[bool], words: &mut [u64]);
    avx2_select => avx2::select, (d: &Dots, f: &[Factors], w: &[Weights], bars: &[f32], selected: &mut [Vec<u32>]);
    avx512_dot_exact => avx512::dot_exact, (x: &[f32], y: &[f32]) -> f64;
    avx512_l2_exact => avx512::l2_exact, (x: &[f32], y: &[f32]) -> f64;
    avx512_dot_near => avx512::dot_near, (x: &[f32], y: &[f32]) -> f64;
    avx512_l2_near => avx512::l2_near, (x: &[f32], y: &[f32]) -> (f64, f64);
    avx512_place => avx512::place, (x: &[f32], o: &[f32], factor: f64, sigma: f64, into: &mut [f64]) -> (f64, f64);
    avx512_code16 => avx512::code16, (u: &[f64], step: f64, high: &mut [Line], low: &mut [Line]) -> (f64, f64);
    avx512_fit => avx512::fit, (u: &[f64], largest: f64, into: &mut [Line]) -> (f32, f64, f64);
    avx512_code8 => avx512::code8, (x: &[f32], into: &mut [Line]) -> (f32, i32);
    avx512_dot_codes => avx512::dot_codes, (row: &[Line], query: &[Line]) -> i32;
    avx512_scan => avx512::scan, (codes: &[Line], query: &[Line], dots: &mut [i32]);
    avx512_pack_rows => avx512::pack_rows, (codes: &[Line], lines: usize, packed: &mut [Line]);
    avx512_tile => avx512::tile, (r: &[Line], q: &[Line], lines: usize, count: usize, dots: &mut [i32], stride: usize);
    avx512_scan_pq => x86_pq::avx512::scan_pq, (c: &[Line], t: &Table, b: &[f32], s: f32, r: f32, o: &mut Vec<(f32, u32)>);
    avx512_dot_rows => x86_graph::avx512::dot_rows, (codes: &[Line], rows: &[u32], query: &[Line], dots: &mut [i32]);
    avx512_dot_planes => x86_graph::avx512::dot_planes, (c: &[Line], lines: usize, rows: [u32; 8], q: &[Line]) -> [i32; 8];
    avx512_walk => x86_graph::avx512::walk, (walker: &mut Walker, graph: &Graph, query: &GuideQuery, reach: Reach);
    avx512_sweep => x86_graph::avx512::sweep, (w: &mut Walker, g: &Graph, q: &GuideQuery, nodes: &[u32], width: usize);
    avx512_select => avx512::select, (d: &Dots, f: &[Factors], w: &[Weights], bars: &[f32], selected: &mut [Vec<u32>]);
}

static AVX2: Kernels = Kernels {
    level: Level::Avx2,
    code_bytes: 2,
    dot_exact: avx2_dot_exact,
    l2_exact: avx2_l2_exact,
    dot_near: avx2_dot_near,
    l2_near: avx2_l2_near,
    dot_plain: avx2_dot_plain,
    add_scaled: avx2_add_scaled,
    place: avx2_place,
    code16: avx2_code16,
    fit: avx2_fit,
    code8: avx2_code8,
    dot_codes: avx2_dot_codes,
    scan: avx2_scan,
    pack_rows: avx2::pack_rows,
    pack_queries: avx2::pack_queries,
    tile: avx2_tile,
    select: avx2_select,
    scan_pq: avx2_scan_pq,
    dot_rows: avx2_dot_rows,
    dot_planes: avx2_dot_planes,
    walk: avx2_walk,
    sweep: avx2_sweep,
    pack_bits: avx2_pack_bits,
    raise: avx2_raise,
    reaching: avx2_reaching,
    counting: avx2_counting,
};

static AVX512: Kernels = Kernels {
    level: Level::Avx512,
    code_bytes: 1,
    dot_exact: avx512_dot_exact,
    l2_exact: avx512_l2_exact,
    dot_near: avx512_dot_near,
    l2_near: avx512_l2_near,
    dot_plain: avx2_dot_plain,
    add_scaled: avx2_add_scaled,
    place: avx512_place,
    code16: avx512_code16,
    fit: avx512_fit,
    code8: avx512_code8,
    dot_codes: avx512_dot_codes,
    scan: avx512_scan,
    pack_rows: avx512_pack_rows,
    pack_queries: avx512::pack_queries,
    tile: avx512_tile,
    select: avx512_select,
    scan_pq: avx512_scan_pq,
    dot_rows: avx512_dot_rows,
    dot_planes: avx512_dot_planes,
    walk: avx512_walk,
    sweep: avx512_sweep,
    pack_bits: avx2_pack_bits,
    raise: avx2_raise,
    reaching: avx2_reaching,
    counting: avx2_counting,
};
