//! x86-64: the kernel of product quantisation, table entries looked up by shuffles.

use std::arch::x86_64::*;

use crate::pq::{PQ_ROWS, Table};
use crate::{LINE, Line};

pub mod avx2 {
    use super::*;

    #[target_feature(enable = "avx2")]
    pub fn scan_pq(codes: &[Line], table: &Table, biases: &[f32], base: f32, bar: f32, out: &mut Vec<(f32, u32)>) {
        let lines = table.lines.len() / 2;
        let mask = _mm256_set1_epi8(15);
        for (b, (block, biases)) in codes.chunks_exact(lines).zip(biases.chunks_exact(PQ_ROWS)).enumerate() {
            let (mut all, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for (line, tables) in block.iter().zip(table.lines.chunks_exact(2)) {
                for half in [0, LINE / 2] {
                    // SAFETY: lines are 64 bytes on a boundary of 64; half + 32 <= 64.
                    let (codes, low, high) = unsafe {
                        (
                            _mm256_load_si256(line.0.as_ptr().add(half).cast()),
                            _mm256_load_si256(tables[0].0.as_ptr().add(half).cast()),
                            _mm256_load_si256(tables[1].0.as_ptr().add(half).cast()),
                        )
                    };
                    let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask);
                    let first = _mm256_shuffle_epi8(low, _mm256_and_si256(codes, mask));
                    let both = _mm256_add_epi8(first, _mm256_shuffle_epi8(high, upper));
                    all = _mm256_add_epi16(all, both);
                    odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(both));
                }
            }
            let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
            let (step, base) = (_mm256_set1_ps(table.step), _mm256_set1_ps(base));
            for (i, sums) in [even, odd].into_iter().enumerate() {
                let halves = [_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums)];
                for (j, sums) in halves.into_iter().enumerate() {
                    let first = i * 16 + j * 8;
                    // SAFETY: there are 32 biases; first + 8 <= 32.
                    let bias = unsafe { _mm256_loadu_ps(biases.as_ptr().add(first)) };
                    let sums = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sums));
                    let keys = _mm256_add_ps(_mm256_mul_ps(sums, step), _mm256_add_ps(bias, base));
                    let mut above = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(keys, _mm256_set1_ps(bar)));
                    if above != 0 {
                        let mut stored = [0.0f32; 8];
                        // SAFETY: `stored` is eight numbers long.
                        unsafe { _mm256_storeu_ps(stored.as_mut_ptr(), keys) };
                        while above != 0 {
                            let lane = above.trailing_zeros() as usize;
                            out.push((stored[lane], (b * PQ_ROWS + first + lane) as u32));
                            above &= above - 1;
                        }
                    }
                }
            }
        }
    }
}

pub mod avx512 {
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn scan_pq(codes: &[Line], table: &Table, biases: &[f32], base: f32, bar: f32, out: &mut Vec<(f32, u32)>) {
        let lines = table.lines.len() / 2;
        let mask = _mm512_set1_epi8(15);
        let (step, base, bar) = (_mm512_set1_ps(table.step), _mm512_set1_ps(base), _mm512_set1_ps(bar));
        for (b, (block, biases)) in codes.chunks_exact(lines).zip(biases.chunks_exact(PQ_ROWS)).enumerate() {
            let (mut all, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for (line, tables) in block.iter().zip(table.lines.chunks_exact(2)) {
                // SAFETY: lines are 64 bytes on a boundary of 64.
                let (codes, low, high) = unsafe {
                    (
                        _mm512_load_si512(line.0.as_ptr().cast()),
                        _mm512_load_si512(tables[0].0.as_ptr().cast()),
                        _mm512_load_si512(tables[1].0.as_ptr().cast()),
                    )
                };
                let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask);
                let first = _mm512_shuffle_epi8(low, _mm512_and_si512(codes, mask));
                let both = _mm512_add_epi8(first, _mm512_shuffle_epi8(high, upper));
                all = _mm512_add_epi16(all, both);
                odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(both));
            }
            let even = _mm512_sub_epi16(all, _mm512_slli_epi16::<8>(odd));
            for (i, sums) in [even, odd].into_iter().enumerate() {
                let sums = _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
                // SAFETY: there are 32 biases; 16 i + 16 <= 32.
                let bias = unsafe { _mm512_loadu_ps(biases.as_ptr().add(16 * i)) };
                // Two roundings in this order on every level: not to be fused.
                let product = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sums)), step);
                let keys = _mm512_add_ps(product, _mm512_add_ps(bias, base));
                let mut above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(keys, bar);
                if above != 0 {
                    let mut stored = [0.0f32; 16];
                    // SAFETY: `stored` is sixteen numbers long.
                    unsafe { _mm512_storeu_ps(stored.as_mut_ptr(), keys) };
                    while above != 0 {
                        let lane = above.trailing_zeros() as usize;
                        out.push((stored[lane], (b * PQ_ROWS + 16 * i + lane) as u32));
                        above &= above - 1;
                    }
                }
            }
        }
    }
}
