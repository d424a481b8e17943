//! Sums of bounds over groups of rows, for keyword search: 4 bits say how much a term gives to a group at the most.
//!
//! Levels (0 to 15) of one term stand in spans of 64 sums. With `spread` s each level counts for 2^s neighbouring sums,
//! so that a span has 64 >> s levels in (32 >> s) bytes: byte j holds level j in its low half and, in its high half, the
//! level as many places further as there are bytes. A table of 16 entries turns levels into what they add.

/// Sums that belong together.
pub const SPAN: usize = 64;

/// The largest spread.
pub const WIDEST: u32 = 2;

/// Bytes of a span.
#[inline]
pub fn span_bytes(spread: u32) -> usize {
    (SPAN / 2) >> spread
}

/// Byte and shift of a level within the levels of a term, given its place (of all levels, not of sums).
#[inline]
pub fn place(level: usize, spread: u32) -> (usize, u32) {
    let bytes = span_bytes(spread);
    let (span, within) = (level / (2 * bytes), level % (2 * bytes));
    (span * bytes + within % bytes, if within < bytes { 0 } else { 4 })
}

/// The level that the sum at this place gets.
#[inline]
pub fn level(levels: &[u8], sum: usize, spread: u32) -> u8 {
    let (byte, shift) = place(sum >> spread, spread);
    levels[byte] >> shift & 15
}

/// [`crate::Kernels::raise`] for every CPU.
pub(crate) fn raise(sums: &mut [u8], levels: &[u8], table: &[u8; 16], spread: u32) {
    let bytes = span_bytes(spread);
    for (sums, levels) in sums.chunks_exact_mut(SPAN).zip(levels.chunks_exact(bytes)) {
        let (low, high) = sums.split_at_mut(SPAN / 2);
        for (j, levels) in levels.iter().enumerate() {
            let (first, second) = (table[usize::from(levels & 15)], table[usize::from(levels >> 4)]);
            let range = j << spread..(j + 1) << spread;
            low[range.clone()].iter_mut().for_each(|sum| *sum = sum.saturating_add(first));
            high[range].iter_mut().for_each(|sum| *sum = sum.saturating_add(second));
        }
    }
}

/// [`crate::Kernels::reaching`] for every CPU.
pub(crate) fn reaching(sums: &[u8], enough: u8, found: &mut Vec<u32>) {
    for (span, first) in sums.chunks(SPAN).zip((0u32..).step_by(SPAN)) {
        // Without a branch for each, the compiler looks at many at a time.
        if span.iter().fold(false, |any, sum| any | (*sum >= enough)) {
            found.extend((first..).zip(span).filter(|(_, sum)| **sum >= enough).map(|(place, _)| place));
        }
    }
}

/// [`crate::Kernels::counting`] for every CPU.
pub(crate) fn counting(sums: &[u8], enough: u8) -> usize {
    sums.iter().filter(|sum| **sum >= enough).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_of_kernels_adds_what_the_tables_say_and_finds_what_is_enough() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for spans in [0, 1, 2, 3, 17] {
            for spread in 0..=WIDEST {
                let before: Vec<u8> = (0..spans * SPAN).map(|_| next()).collect();
                let levels: Vec<u8> = (0..spans * span_bytes(spread)).map(|_| next()).collect();
                let table: [u8; 16] = std::array::from_fn(|_| next());
                let plain: Vec<u8> = (before.iter().enumerate())
                    .map(|(i, sum)| sum.saturating_add(table[usize::from(level(&levels, i, spread))]))
                    .collect();
                for kernels in crate::dispatch::available() {
                    let mut sums = before.clone();
                    (kernels.raise)(&mut sums, &levels, &table, spread);
                    assert_eq!(sums, plain, "{:?} {spread}", kernels.level);
                    for (enough, length) in
                        [0, 1, 127, 128, 200, 255].into_iter().zip([0, 1, 3, 5, 63, 64].iter().cycle())
                    {
                        let part = &plain[..plain.len().saturating_sub(*length)]; // whatever its length
                        let wanted = (0u32..).zip(part).filter(|(_, sum)| **sum >= enough).map(|(place, _)| place);
                        let mut found = Vec::new();
                        (kernels.reaching)(part, enough, &mut found);
                        assert_eq!(found, wanted.collect::<Vec<u32>>(), "{:?} {enough}", kernels.level);
                        assert_eq!((kernels.counting)(part, enough), found.len(), "{:?} {enough}", kernels.level);
                    }
                }
            }
        }
    }

    #[test]
    fn a_level_is_where_its_place_says() {
        for spread in 0..=WIDEST {
            let mut levels = vec![0; 3 * span_bytes(spread)];
            let count = (3 * SPAN) >> spread;
            for i in 0..count {
                let (byte, shift) = place(i, spread);
                levels[byte] |= ((i % 15 + 1) as u8) << shift;
            }
            for sum in 0..3 * SPAN {
                assert_eq!(usize::from(level(&levels, sum, spread)), (sum >> spread) % 15 + 1);
            }
        }
    }
}
