//! Which rows may be answered: what the caller names by id, and the bitmap over rows that searches look at.

use nearfield_kernels::{kernels, prefetch};

use crate::ids::Ids;

/// Vectors that may be answered, as the caller names them.
#[derive(Clone, Copy, Debug)]
pub enum Allow<'a> {
    /// These ids; unknown ones are passed over.
    Ids(&'a [i64]),
    /// Every id with a true at its place; ids beyond the end are not allowed.
    Mask(&'a [bool]),
}

/// Rows that may be answered, one bit a row, all of them live.
#[derive(Clone, Debug)]
pub(crate) struct Allowed {
    bits: Vec<u64>,
    count: usize,
}

impl Allowed {
    /// The live rows among those that the caller allows.
    pub fn new(allow: Allow, ids: &Ids) -> Self {
        let rows = ids.rows();
        let mut bits = vec![0u64; rows.div_ceil(64)];
        match allow {
            Allow::Ids(list) => {
                for row in list.iter().filter_map(|id| ids.row(*id)) {
                    bits[row as usize / 64] |= 1 << (row % 64);
                }
            }
            Allow::Mask(mask) if ids.are_rows() => {
                (kernels().pack_bits)(&mask[..mask.len().min(rows)], &mut bits);
                ids.keep_live(&mut bits);
            }
            Allow::Mask(mask) => {
                let holds = |row: u32| mask.get(ids.of(row) as usize).is_some_and(|allowed| *allowed);
                for row in (0..rows as u32).filter(|row| ids.is_live(*row as usize) && holds(*row)) {
                    bits[row as usize / 64] |= 1 << (row % 64);
                }
            }
        }
        let count = bits.iter().map(|word| word.count_ones() as usize).sum();
        Self { bits, count }
    }

    /// All live rows but these.
    pub fn but(ids: &Ids, rows: &[u32]) -> Self {
        let mut bits = vec![u64::MAX; ids.rows().div_ceil(64)];
        if let Some(last) = bits.last_mut().filter(|_| !ids.rows().is_multiple_of(64)) {
            *last = (1 << (ids.rows() % 64)) - 1;
        }
        ids.keep_live(&mut bits);
        rows.iter().for_each(|row| bits[*row as usize / 64] &= !(1 << (row % 64)));
        let count = bits.iter().map(|word| word.count_ones() as usize).sum();
        Self { bits, count }
    }

    /// A bit a row, the first row lowest.
    pub fn bits(&self) -> &[u64] {
        &self.bits
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn holds(&self, row: u32) -> bool {
        self.bits[row as usize / 64] >> (row % 64) & 1 == 1
    }

    /// Bits of the sixteen rows from `block * 16` on, the first row lowest.
    pub fn block(&self, block: usize) -> u16 {
        self.bits.get(block / 4).map_or(0, |word| (word >> (block % 4 * 16)) as u16)
    }

    /// The rows, ascending.
    pub fn rows(&self) -> Vec<u32> {
        let mut listed = Vec::with_capacity(self.count);
        for (first, word) in (0..).step_by(64).zip(&self.bits) {
            let mut left = *word;
            while left != 0 {
                listed.push(first + left.trailing_zeros());
                left &= left - 1;
            }
        }
        listed
    }
}

/// Rows that may be answered, for those who ask about few of them.
#[derive(Clone, Copy)]
pub(crate) enum Among<'a> {
    Bits(&'a Allowed),
    /// As [`Allow::Mask`]: to read all of it may take longer than a search.
    Mask(&'a [bool], &'a Ids),
}

/// Rows of a mask that a sample looks at; and of these, at first: where it holds none of them, it is of few rows.
const SAMPLED: usize = 128;
const FIRST: usize = 16;
const STEP: usize = 37;

impl Among<'_> {
    #[inline(always)]
    pub fn holds(&self, row: u32) -> bool {
        match self {
            Self::Bits(allowed) => allowed.holds(row),
            // Nobody could predict a branch on what the mask says, and it would wait for it.
            Self::Mask(mask, ids) => {
                mask.get(ids.of(row) as usize).is_some_and(|held| held & ids.is_live(row as usize))
            }
        }
    }

    /// Asks for what tells whether the row may be answered.
    pub fn fetch(&self, row: u32) {
        match self {
            Self::Bits(allowed) => prefetch(&allowed.bits, row as usize / 64),
            Self::Mask(mask, ids) => prefetch(mask, ids.of(row) as usize),
        }
    }

    /// How many there are; of a mask about that, as a sample tells: one row somewhere in every stretch.
    pub fn about(&self) -> usize {
        let ids = match self {
            Self::Bits(allowed) => return allowed.count(),
            Self::Mask(_, ids) => ids,
        };
        let (rows, looks) = (ids.rows(), SAMPLED.min(ids.rows()));
        let held = |i: &usize| {
            let i = i * STEP % looks; // far from those before it
            let [from, to] = [i, i + 1].map(|i| i * rows / looks);
            self.holds((from + ((i * 40_503) >> 4) % (to - from)) as u32)
        };
        let first = (0..looks.min(FIRST)).filter(held).count();
        let others = if first == 0 { 0 } else { (FIRST..looks).filter(held).count() };
        (first + others) * rows / looks.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_ids_name_the_same_rows() {
        let mut plain = Ids::default();
        plain.extend(&(0..200).collect::<Vec<i64>>());
        let mut mixed = Ids::default();
        mixed.extend(&(0..200).map(|i| i * 7 % 211).collect::<Vec<i64>>());
        for mut ids in [plain, mixed] {
            let gone: Vec<i64> = ids.live_ids().step_by(9).collect();
            ids.remove(&gone).unwrap();
            for length in [0, 5, 64, 130, 211, 300] {
                let mask: Vec<bool> = (0..length).map(|i| i * i % 5 < 2).collect();
                let list: Vec<i64> = (0..length as i64).filter(|i| mask[*i as usize]).rev().collect();
                let wanted: Vec<u32> =
                    (0..200u32).filter(|row| ids.is_live(*row as usize) && list.contains(&ids.of(*row))).collect();
                let asked = Among::Mask(&mask, &ids);
                assert!((0..200).all(|row| asked.holds(row) == wanted.contains(&row)));
                assert!(asked.about().abs_diff(wanted.len()) < 30, "{} of {}", asked.about(), wanted.len());
                for allow in [Allow::Mask(&mask), Allow::Ids(&list)] {
                    let allowed = Allowed::new(allow, &ids);
                    assert_eq!(Among::Bits(&allowed).about(), wanted.len());
                    assert_eq!((allowed.rows(), allowed.count()), (wanted.clone(), wanted.len()));
                    assert!((0..200).all(|row| allowed.holds(row) == wanted.contains(&row)));
                    let of_blocks =
                        (0..14).flat_map(|b| (0..16).filter(move |i| b < 13 && *i < 16).map(move |i| (b, i)));
                    for (block, lane) in of_blocks {
                        let row = (block * 16 + lane) as u32;
                        assert_eq!(allowed.block(block) >> lane & 1 == 1, wanted.contains(&row));
                    }
                }
            }
        }
    }
}
