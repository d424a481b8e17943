//! x86-64: the kernels of graph walks. Listed rows of guide codes against one query, and prefetching.

use std::arch::x86_64::*;

use crate::guide::{GuideQuery, factors, ordered};
use crate::walk::{self, Graph, Links, NONE, Reach, SPARE, Steps, Walker};
use crate::{LINE, Line};

/// Asks for the cache line that holds `slice[at]`. Nothing happens where that is outside the slice.
#[inline(always)]
pub fn prefetch<T>(slice: &[T], at: usize) {
    // SAFETY: a prefetch reads nothing and never faults, whatever the address; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().wrapping_add(at).cast()) }
}

pub mod avx2 {
    use super::*;

    /// Sum of the products of a row with a query that has `P` planes.
    #[target_feature(enable = "avx2")]
    fn products<const P: usize>(row: &[Line], query: &[Line]) -> i32 {
        assert!(query.len() == P * row.len() && (P == 2 || P == 4));
        let (mask, ones) = (_mm256_set1_epi8((255u8 >> (8 - 8 / P)) as i8), _mm256_set1_epi16(1));
        let mut sum = _mm256_setzero_si256();
        for (line, planes) in row.iter().zip(query.chunks_exact(P)) {
            let mut words = _mm256_setzero_si256();
            for j in [0, LINE / 2] {
                // SAFETY: lines are 64 bytes on a boundary of 64; j + 32 <= 64.
                let mut codes = unsafe { _mm256_load_si256(line.0.as_ptr().add(j).cast()) };
                for plane in planes {
                    // SAFETY: as above.
                    let factors = unsafe { _mm256_load_si256(plane.0.as_ptr().add(j).cast()) };
                    // Sums of two products up to 15 * 127, four times, or up to 3 * 127, eight times, stay inside 16 bits.
                    words = _mm256_add_epi16(words, _mm256_maddubs_epi16(_mm256_and_si256(codes, mask), factors));
                    codes = if P == 2 { _mm256_srli_epi16::<4>(codes) } else { _mm256_srli_epi16::<2>(codes) };
                }
            }
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, ones));
        }
        let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
        _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32::<0b10_11_00_01>(quarter)))
    }

    #[target_feature(enable = "avx2")]
    pub fn dot_planes(codes: &[Line], lines: usize, rows: [u32; 8], query: &[Line]) -> [i32; 8] {
        let mut dots = [0; 8];
        for (dot, row) in dots.iter_mut().zip(rows) {
            let row = &codes[row as usize * lines..][..lines];
            *dot = if query.len() == 2 * lines { products::<2>(row, query) } else { products::<4>(row, query) };
        }
        dots
    }

    struct Avx2<const P: usize>;

    impl<const P: usize> Steps for Avx2<P> {
        #[inline(always)]
        fn unseen(links: &[Links], seen: &[u32], fresh: &mut [u32]) -> usize {
            walk::unseen(links, seen, fresh)
        }

        #[inline(always)]
        fn score(graph: &Graph, rows: &[u32], count: usize, query: &GuideQuery, bar: u32, found: &mut [u64]) -> usize {
            let rows = &rows[..count];
            let mut count = 0;
            for &row in rows {
                let at = row as usize * graph.lines;
                // SAFETY: only `walk` below names this type, and it is compiled for AVX2.
                let dot = unsafe { products::<P>(&graph.codes[at..at + graph.lines], &query.codes) };
                let key = ordered(query.key(dot, factors(graph.codes, graph.lines, row)));
                found[count] = u64::from(key) << 32 | u64::from(row) << 1;
                count += usize::from(key < bar);
            }
            count
        }

        #[inline(always)]
        fn insert(pool: &mut [u64], length: usize, entry: u64) -> usize {
            walk::insert(pool, length, entry)
        }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    pub fn walk(walker: &mut Walker, graph: &Graph, query: &GuideQuery, reach: Reach) {
        match (query.codes.len() / graph.lines, graph.sieve) {
            (2, None) => walk::walk::<Avx2<2>, false>(walker, graph, query, reach),
            (2, Some(_)) => walk::walk::<Avx2<2>, true>(walker, graph, query, reach),
            (_, None) => walk::walk::<Avx2<4>, false>(walker, graph, query, reach),
            (_, Some(_)) => walk::walk::<Avx2<4>, true>(walker, graph, query, reach),
        }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    pub fn sweep(walker: &mut Walker, graph: &Graph, query: &GuideQuery, nodes: &[u32], width: usize) {
        match query.codes.len() / graph.lines {
            2 => walk::sweep::<Avx2<2>>(walker, graph, query, nodes, width),
            _ => walk::sweep::<Avx2<4>>(walker, graph, query, nodes, width),
        }
    }
}

pub mod avx512 {
    use super::*;
    use crate::x86::avx512::surplus;

    /// The sums of eight registers.
    #[target_feature(enable = "avx512f")]
    fn sums(r: [__m512i; 8]) -> __m256i {
        let mut a = [r[0]; 4];
        for i in 0..4 {
            let (x, y) = (r[2 * i], r[2 * i + 1]);
            a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
        }
        // Lane j of every quarter: rows 0 1 0 1 of each pair, then rows 0 1 2 3 of each four.
        let four = |x, y| _mm512_add_epi32(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
        let (low, high) = (four(a[0], a[1]), four(a[2], a[3]));
        let (even, odd) =
            (_mm512_shuffle_i32x4::<0b10_00_10_00>(low, high), _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high));
        let both = _mm512_add_epi32(even, odd); // two quarters of the first four rows, two of the others
        let (one, two) = (_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both));
        let first = _mm_add_epi32(_mm256_castsi256_si128(one), _mm256_extracti128_si256::<1>(one));
        let other = _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two));
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), other)
    }

    /// Adds the products of a line of codes in `P` planes with the lines of a query that begin at `query`.
    ///
    /// # Safety
    /// `P` lines can be read there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add<const P: usize>(total: __m512i, codes: __m512i, query: *const Line) -> __m512i {
        let mask = _mm512_set1_epi8((255u8 >> (8 - 8 / P)) as i8);
        // SAFETY: the caller's word; lines are 64 bytes on a boundary of 64.
        let plane = |i: usize| unsafe { _mm512_load_si512(query.add(i).cast()) };
        let first = _mm512_dpbusd_epi32(total, _mm512_and_si512(codes, mask), plane(0));
        if P == 2 {
            return _mm512_dpbusd_epi32(first, _mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask), plane(1));
        }
        let second = _mm512_dpbusd_epi32(first, _mm512_and_si512(_mm512_srli_epi16::<2>(codes), mask), plane(1));
        let third = _mm512_dpbusd_epi32(second, _mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask), plane(2));
        _mm512_dpbusd_epi32(third, _mm512_and_si512(_mm512_srli_epi16::<6>(codes), mask), plane(3))
    }

    /// Sums of the products of eight rows with a query that has `P` planes, and their factors. Rows are of `L` lines, or of
    /// `lines` where L is 0.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn eight<const P: usize, const L: usize>(
        codes: &[Line],
        lines: usize,
        rows: &[u32; 8],
        query: &[Line],
    ) -> (__m256i, __m256i) {
        let lines = if L == 0 { lines } else { L };
        assert!(query.len() == P * lines && lines > 0);
        let starts = rows.map(|row| row as usize * lines);
        assert!(starts.iter().all(|start| start + lines <= codes.len()));
        let mut totals = [_mm512_setzero_si512(); 8];
        for line in 0..lines {
            for r in 0..8 {
                // SAFETY: lines are 64 bytes on a boundary of 64; every index was checked above.
                totals[r] = unsafe {
                    let row = _mm512_load_si512(codes.as_ptr().add(starts[r] + line).cast());
                    add::<P>(totals[r], row, query.as_ptr().add(P * line))
                };
            }
        }
        let [a, b, c, d, e, f, g, h] = rows.map(|row| factors(codes, lines, row) as i32);
        (sums(totals), _mm256_setr_epi32(a, b, c, d, e, f, g, h))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub fn dot_planes(codes: &[Line], lines: usize, rows: [u32; 8], query: &[Line]) -> [i32; 8] {
        let (sums, _) = match query.len() == 2 * lines {
            true => eight::<2, 0>(codes, lines, &rows, query),
            false => eight::<4, 0>(codes, lines, &rows, query),
        };
        let mut dots = [0; 8];
        // SAFETY: `dots` is eight numbers long.
        unsafe { _mm256_storeu_si256(dots.as_mut_ptr().cast(), sums) };
        dots
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub fn dot_rows(codes: &[Line], rows: &[u32], query: &[Line], dots: &mut [i32]) {
        let (lines, surplus) = (query.len(), _mm256_set1_epi32(surplus(query)));
        assert!(rows.len() == dots.len() && rows.iter().all(|row| (*row as usize + 1) * lines <= codes.len()));
        for (rows, dots) in rows.chunks(8).zip(dots.chunks_mut(8)) {
            let starts: [usize; 8] = std::array::from_fn(|i| rows[i.min(rows.len() - 1)] as usize * lines);
            let mut totals = [_mm512_setzero_si512(); 8];
            for (i, line) in query.iter().enumerate() {
                // SAFETY: lines are 64 bytes on a boundary of 64; line i of each row is inside `codes`, as asserted above.
                unsafe {
                    let query = _mm512_load_si512(line.0.as_ptr().cast());
                    for r in 0..8 {
                        let row = _mm512_load_si512(codes.as_ptr().add(starts[r] + i).cast());
                        totals[r] = _mm512_dpbusd_epi32(totals[r], row, query);
                    }
                }
            }
            let sums = _mm256_sub_epi32(sums(totals), surplus);
            // SAFETY: only as many places are written as there are dots.
            unsafe { _mm256_mask_storeu_epi32(dots.as_mut_ptr(), 0xFF >> (8 - dots.len()), sums) };
        }
    }

    struct Avx512<const P: usize>;

    impl<const P: usize> Steps for Avx512<P> {
        #[inline(always)]
        fn unseen(links: &[Links], seen: &[u32], fresh: &mut [u32]) -> usize {
            // SAFETY: only `walk` below names this type, and it is compiled for these features.
            unsafe { unseen(links, seen, fresh) }
        }

        #[inline(always)]
        fn score(graph: &Graph, rows: &[u32], count: usize, query: &GuideQuery, bar: u32, found: &mut [u64]) -> usize {
            // SAFETY: as above.
            unsafe {
                match graph.lines {
                    1 => score::<P, 1>(graph, rows, count, query, bar, found),
                    2 => score::<P, 2>(graph, rows, count, query, bar, found),
                    _ => score::<P, 0>(graph, rows, count, query, bar, found),
                }
            }
        }

        #[inline(always)]
        fn insert(pool: &mut [u64], length: usize, entry: u64) -> usize {
            // SAFETY: as above.
            unsafe { insert(pool, length, entry) }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,bmi1,bmi2,popcnt")]
    fn unseen(links: &[Links], seen: &[u32], fresh: &mut [u32]) -> usize {
        assert!(fresh.len() >= links.len() * Links::WIDTH + SPARE);
        let last = _mm512_set1_epi32((seen.len() - 1) as i32);
        let mut count = 0;
        for links in links {
            // SAFETY: links are 64 bytes on a boundary of 64; a word is read only for a neighbour, and at the most at
            // the last place of `seen`; count + 16 <= fresh.len(), asserted above.
            unsafe {
                let nodes = _mm512_load_si512(links.0.as_ptr().cast());
                let there = _mm512_cmpneq_epi32_mask(nodes, _mm512_set1_epi32(NONE as i32));
                let places = _mm512_min_epu32(_mm512_srli_epi32::<5>(nodes), last);
                let none = _mm512_setzero_si512();
                let words = _mm512_mask_i32gather_epi32::<4>(none, there, places, seen.as_ptr().cast());
                let bits = _mm512_srlv_epi32(words, _mm512_and_si512(nodes, _mm512_set1_epi32(31)));
                let unseen = _mm512_mask_testn_epi32_mask(there, bits, _mm512_set1_epi32(1));
                let kept = _mm512_maskz_compress_epi32(unseen, nodes);
                _mm512_storeu_si512(fresh.as_mut_ptr().add(count).cast(), kept);
                count += unseen.count_ones() as usize;
            }
        }
        count
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,bmi1,bmi2,popcnt")]
    fn score<const P: usize, const L: usize>(
        graph: &Graph,
        rows: &[u32],
        count: usize,
        query: &GuideQuery,
        bar: u32,
        found: &mut [u64],
    ) -> usize {
        assert!(found.len() >= count + SPARE && rows.len() >= count + SPARE);
        assert!(query.codes.len() == P * graph.lines && (L == 0 || graph.lines == L));
        let (surplus, bar) = (_mm256_set1_epi32(query.surplus), _mm256_set1_epi32(bar as i32));
        let (scale, bias) = (_mm256_set1_ps(query.scale), _mm256_set1_ps(query.bias));
        let mut kept = 0;
        for (left, list) in (1..=count).rev().step_by(8).zip(rows.as_chunks::<8>().0) {
            let (dots, both) = eight::<P, L>(graph.codes, graph.lines, list, &query.codes);
            let dots = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_slli_epi32::<1>(dots), surplus));
            let factor = _mm256_cvtepi32_ps(_mm256_and_si256(both, _mm256_set1_epi32(0xFFFF)));
            let offset = _mm256_cvtepi32_ps(_mm256_srli_epi32::<16>(both));
            // Three roundings in this order on every level: not to be fused.
            let product = _mm256_mul_ps(_mm256_mul_ps(dots, factor), scale);
            let bits = _mm256_castps_si256(_mm256_sub_ps(_mm256_mul_ps(offset, bias), product));
            let sign = _mm256_or_si256(_mm256_srai_epi32::<31>(bits), _mm256_set1_epi32(i32::MIN));
            let keys = _mm256_xor_si256(bits, sign);
            let there = 0xFF >> (8 - left.min(8));
            let below = _mm256_mask_cmplt_epu32_mask(there, keys, bar);
            // SAFETY: `list` is eight numbers long; kept + 8 <= count + 8 <= found.len(), asserted above.
            unsafe {
                let nodes = _mm512_cvtepu32_epi64(_mm256_loadu_si256(list.as_ptr().cast()));
                let keys = _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(keys));
                let entries = _mm512_or_si512(keys, _mm512_slli_epi64::<1>(nodes));
                let entries = _mm512_maskz_compress_epi64(below, entries);
                _mm512_storeu_si512(found.as_mut_ptr().add(kept).cast(), entries);
            }
            kept += below.count_ones() as usize;
        }
        kept
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,bmi1,bmi2,popcnt")]
    fn insert(pool: &mut [u64], length: usize, entry: u64) -> usize {
        assert!(pool.len() >= length + SPARE);
        let wanted = _mm512_set1_epi64(entry as i64);
        // From the end on, since most entries belong there: what is not below the entry moves up by one place.
        let mut block = length / 8 * 8;
        // SAFETY: a block begins at `length` at the latest; eight more places are there.
        unsafe {
            let at = pool.as_mut_ptr();
            let mut lanes = _mm512_loadu_si512(at.add(block).cast());
            loop {
                let before =
                    if block > 0 { _mm512_loadu_si512(at.add(block - 8).cast()) } else { _mm512_setzero_si512() };
                let moved = _mm512_alignr_epi64::<7>(lanes, before);
                let above = _mm512_cmpge_epu64_mask(lanes, wanted);
                // The first of them takes the place of one below the entry: there the entry itself goes.
                let moved = _mm512_mask_max_epu64(lanes, above, moved, wanted);
                _mm512_storeu_si512(at.add(block).cast(), moved);
                if block == 0 || _mm512_cmpge_epu64_mask(before, wanted) == 0 {
                    return block + 8 - above.count_ones() as usize;
                }
                (lanes, block) = (before, block - 8);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,bmi1,bmi2,popcnt")]
    pub fn walk(walker: &mut Walker, graph: &Graph, query: &GuideQuery, reach: Reach) {
        match (query.codes.len() / graph.lines, graph.sieve) {
            (2, None) => walk::walk::<Avx512<2>, false>(walker, graph, query, reach),
            (2, Some(_)) => walk::walk::<Avx512<2>, true>(walker, graph, query, reach),
            (_, None) => walk::walk::<Avx512<4>, false>(walker, graph, query, reach),
            (_, Some(_)) => walk::walk::<Avx512<4>, true>(walker, graph, query, reach),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,bmi1,bmi2,popcnt")]
    pub fn sweep(walker: &mut Walker, graph: &Graph, query: &GuideQuery, nodes: &[u32], width: usize) {
        match query.codes.len() / graph.lines {
            2 => walk::sweep::<Avx512<2>>(walker, graph, query, nodes, width),
            _ => walk::sweep::<Avx512<4>>(walker, graph, query, nodes, width),
        }
    }
}
