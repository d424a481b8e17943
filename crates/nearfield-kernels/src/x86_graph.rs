//! x86-64: the kernels of graph walks. Listed rows of guide codes against one query, and prefetching.

use std::arch::x86_64::*;

use crate::guide::{GuideQuery, ordered};
use crate::{LINE, Line};

/// Asks for the cache line that holds `slice[at]`. Nothing happens where that is outside the slice.
#[inline(always)]
pub fn prefetch<T>(slice: &[T], at: usize) {
    // SAFETY: a prefetch reads nothing and never faults, whatever the address; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().wrapping_add(at).cast()) }
}

/// Factors of a row: the last four bytes of its code.
#[inline(always)]
fn factors(codes: &[Line], lines: usize, row: u32) -> u32 {
    let last = &codes[row as usize * lines + lines - 1].0;
    u32::from_le_bytes([last[60], last[61], last[62], last[63]])
}

pub mod avx2 {
    use super::*;

    #[target_feature(enable = "avx2")]
    fn products(row: &[Line], query: &[Line]) -> i32 {
        assert!(query.len() == 2 * row.len());
        let (mask, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
        let mut sum = _mm256_setzero_si256();
        for (line, halves) in row.iter().zip(query.chunks_exact(2)) {
            let mut words = _mm256_setzero_si256();
            for j in [0, LINE / 2] {
                // SAFETY: lines are 64 bytes on a boundary of 64; j + 32 <= 64.
                let (codes, low, high) = unsafe {
                    (
                        _mm256_load_si256(line.0.as_ptr().add(j).cast()),
                        _mm256_load_si256(halves[0].0.as_ptr().add(j).cast()),
                        _mm256_load_si256(halves[1].0.as_ptr().add(j).cast()),
                    )
                };
                // Four sums of two products up to 15 * 127 each stay inside 16 bits.
                let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask);
                words = _mm256_add_epi16(words, _mm256_maddubs_epi16(_mm256_and_si256(codes, mask), low));
                words = _mm256_add_epi16(words, _mm256_maddubs_epi16(upper, high));
            }
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, ones));
        }
        let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
        _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32::<0b10_11_00_01>(quarter)))
    }

    #[target_feature(enable = "avx2")]
    pub fn score(codes: &[Line], lines: usize, rows: &[u32], query: &GuideQuery, bar: u32, out: &mut Vec<u64>) {
        for &row in rows {
            let at = row as usize * lines;
            let dot = products(&codes[at..at + lines], &query.codes);
            let key = ordered(query.key(dot, factors(codes, lines, row)));
            if key < bar {
                out.push(u64::from(key) << 32 | u64::from(row) << 1);
            }
        }
    }
}

pub mod avx512 {
    use super::*;

    /// Sums of the products of four rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn four(codes: &[Line], lines: usize, rows: [u32; 4], query: &[Line]) -> __m128i {
        let mask = _mm512_set1_epi8(15);
        let mut sums = [_mm512_setzero_si512(); 4];
        let mut others = sums;
        let starts = rows.map(|row| {
            let start = row as usize * lines;
            assert!(start + lines <= codes.len());
            start
        });
        assert!(query.len() == 2 * lines);
        for line in 0..lines {
            // SAFETY: lines are 64 bytes on a boundary of 64; every index was checked above.
            unsafe {
                let low = _mm512_load_si512(query.as_ptr().add(2 * line).cast());
                let high = _mm512_load_si512(query.as_ptr().add(2 * line + 1).cast());
                for r in 0..4 {
                    let row = _mm512_load_si512(codes.as_ptr().add(starts[r] + line).cast());
                    sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_and_si512(row, mask), low);
                    let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(row), mask);
                    others[r] = _mm512_dpbusd_epi32(others[r], upper, high);
                }
            }
        }
        let half = |r: usize| {
            let sum = _mm512_add_epi32(sums[r], others[r]);
            _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum))
        };
        let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(half(0), half(1)), _mm256_hadd_epi32(half(2), half(3)));
        _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub fn score(codes: &[Line], lines: usize, rows: &[u32], query: &GuideQuery, bar: u32, out: &mut Vec<u64>) {
        let (surplus, bar) = (_mm_set1_epi32(query.surplus), _mm_set1_epi32(bar as i32));
        let (scale, bias) = (_mm_set1_ps(query.scale), _mm_set1_ps(query.bias));
        for chunk in rows.chunks(4) {
            let list = [0, 1, 2, 3].map(|i| chunk[i.min(chunk.len() - 1)]);
            let dots = four(codes, lines, list, &query.codes);
            let dots = _mm_cvtepi32_ps(_mm_sub_epi32(_mm_slli_epi32::<1>(dots), surplus));
            let [a, b, c, d] = list.map(|row| factors(codes, lines, row) as i32);
            let both = _mm_setr_epi32(a, b, c, d);
            let factor = _mm_cvtepi32_ps(_mm_and_si128(both, _mm_set1_epi32(0xFFFF)));
            let offset = _mm_cvtepi32_ps(_mm_srli_epi32::<16>(both));
            // Three roundings in this order on every level: not to be fused.
            let product = _mm_mul_ps(_mm_mul_ps(dots, factor), scale);
            let bits = _mm_castps_si128(_mm_sub_ps(_mm_mul_ps(offset, bias), product));
            let sign = _mm_or_si128(_mm_srai_epi32::<31>(bits), _mm_set1_epi32(i32::MIN));
            let keys = _mm_xor_si128(bits, sign);
            let mut below = _mm_cmplt_epu32_mask(keys, bar) & (0xF >> (4 - chunk.len()));
            if below != 0 {
                let mut stored = [0u32; 4];
                // SAFETY: `stored` is four numbers long.
                unsafe { _mm_storeu_si128(stored.as_mut_ptr().cast(), keys) };
                while below != 0 {
                    let lane = below.trailing_zeros() as usize;
                    out.push(u64::from(stored[lane]) << 32 | u64::from(list[lane]) << 1);
                    below &= below - 1;
                }
            }
        }
    }
}
