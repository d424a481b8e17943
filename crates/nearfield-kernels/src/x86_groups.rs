//! x86-64: sums of bounds over groups of rows; levels are looked up by shuffles. They wait for memory, so that wider
//! registers than those of AVX2 gain little.

use std::arch::x86_64::*;

use crate::groups::{SPAN, span_bytes};

#[target_feature(enable = "avx2")]
pub fn raise(sums: &mut [u8], levels: &[u8], table: &[u8; 16], spread: u32) {
    // SAFETY: the table is 16 bytes long.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    let (both, half) = (_mm256_broadcastsi128_si256(table), _mm_set1_epi8(15));
    let mask = _mm256_set1_epi8(15);
    for (sums, levels) in sums.chunks_exact_mut(SPAN).zip(levels.chunks_exact(span_bytes(spread))) {
        let (first, second) = match spread {
            0 => {
                // SAFETY: a span without spread has 32 bytes.
                let levels = unsafe { _mm256_loadu_si256(levels.as_ptr().cast()) };
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(levels), mask);
                (_mm256_shuffle_epi8(both, _mm256_and_si256(levels, mask)), _mm256_shuffle_epi8(both, high))
            }
            1 => {
                // SAFETY: with a spread of 1 it has 16.
                let levels = unsafe { _mm_loadu_si128(levels.as_ptr().cast()) };
                let high = _mm_and_si128(_mm_srli_epi16::<4>(levels), half);
                (twice(_mm_shuffle_epi8(table, _mm_and_si128(levels, half))), twice(_mm_shuffle_epi8(table, high)))
            }
            _ => {
                // SAFETY: with a spread of 2 it has 8.
                let levels = unsafe { _mm_loadl_epi64(levels.as_ptr().cast()) };
                let high = _mm_and_si128(_mm_srli_epi16::<4>(levels), half);
                let all = _mm_unpacklo_epi64(_mm_and_si128(levels, half), high);
                let all = twice(_mm_shuffle_epi8(table, all));
                (twice(_mm256_castsi256_si128(all)), twice(_mm256_extracti128_si256::<1>(all)))
            }
        };
        let at = sums.as_mut_ptr().cast::<__m256i>();
        // SAFETY: a span of sums has 64 bytes.
        unsafe {
            _mm256_storeu_si256(at, _mm256_adds_epu8(_mm256_loadu_si256(at), first));
            _mm256_storeu_si256(at.add(1), _mm256_adds_epu8(_mm256_loadu_si256(at.add(1)), second));
        }
    }
}

/// Every byte twice.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(bytes: __m128i) -> __m256i {
    let wide = _mm256_cvtepu8_epi16(bytes);
    _mm256_or_si256(wide, _mm256_slli_epi16::<8>(wide))
}

#[target_feature(enable = "avx2")]
pub fn reaching(sums: &[u8], enough: u8, found: &mut Vec<u32>) {
    let bar = _mm256_set1_epi8(enough.cast_signed());
    let mut spans = sums.chunks_exact(SPAN);
    let mut first = 0;
    for span in &mut spans {
        // SAFETY: a span has 64 bytes.
        let (low, high) = unsafe {
            (_mm256_loadu_si256(span.as_ptr().cast()), _mm256_loadu_si256(span.as_ptr().add(SPAN / 2).cast()))
        };
        let low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(low, bar), low)).cast_unsigned();
        let high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(high, bar), high)).cast_unsigned();
        let mut above = u64::from(high) << 32 | u64::from(low);
        while above != 0 {
            found.push(first + above.trailing_zeros());
            above &= above - 1;
        }
        first += SPAN as u32;
    }
    found.extend((first..).zip(spans.remainder()).filter(|(_, sum)| **sum >= enough).map(|(place, _)| place));
}

#[target_feature(enable = "avx2")]
pub fn counting(sums: &[u8], enough: u8) -> usize {
    let (bar, zero) = (_mm256_set1_epi8(enough.cast_signed()), _mm256_setzero_si256());
    let parts = sums.chunks_exact(32);
    let rest = parts.remainder().iter().filter(|sum| **sum >= enough).count();
    let mut counts = zero;
    for part in parts {
        // SAFETY: a part has 32 bytes.
        let part = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
        let above = _mm256_cmpeq_epi8(_mm256_max_epu8(part, bar), part);
        counts = _mm256_add_epi64(counts, _mm256_sad_epu8(_mm256_sub_epi8(zero, above), zero));
    }
    let counts = [
        _mm256_extract_epi64::<0>(counts),
        _mm256_extract_epi64::<1>(counts),
        _mm256_extract_epi64::<2>(counts),
        _mm256_extract_epi64::<3>(counts),
    ];
    rest + counts.iter().sum::<i64>() as usize
}
