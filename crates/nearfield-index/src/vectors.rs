//! Where the rows are kept in full: in memory, in the index file they were read from, in files of their own, or in files
//! without a name.
//!
//! Rows stand in *pieces*, one after the other. A piece in memory grows at its end; one in a file is never changed. Of the
//! rows in a file a search reads a few, so they need no memory of their own: what the system keeps of them it takes back
//! when it needs the room.

use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nearfield_kernels::pages;

use crate::Result;
use crate::codec::Kept;
use crate::mapped::Mapped;

/// Bytes of rows that are written to a file at once, at the least: fewer wait in memory for more.
const SPILL: usize = 64 << 20;

/// Rows that are let go together.
const PASSING: usize = if cfg!(test) { 8 } else { 8192 };

/// Where less than one row in so many of a file without a name is left, these are moved and the file is given up.
const SPARSE: usize = 4;

/// Rows of one dimension.
#[derive(Clone, Debug)]
pub(crate) struct Vectors {
    dimension: usize,
    pieces: Vec<Piece>,
    /// The folder where rows are kept in files; None keeps those that are added in memory.
    folder: Option<PathBuf>,
    spill: usize,
}

/// Rows from number `first` to `end - 1`.
#[derive(Clone, Debug)]
struct Piece {
    first: usize,
    end: usize,
    numbers: Numbers,
    /// Which rows of the file they are; None where they are all.
    slots: Option<Vec<u32>>,
}

#[derive(Clone, Debug)]
enum Numbers {
    Held(Arc<Vec<f32>>),
    Filed(Arc<Mapped>),
    Kept(Arc<Kept>),
}

impl Numbers {
    #[inline]
    fn all(&self) -> &[f32] {
        match self {
            Self::Held(numbers) => numbers,
            Self::Filed(mapped) => mapped.numbers(),
            Self::Kept(kept) => kept.mapped.numbers(),
        }
    }

    fn mapped(&self) -> Option<&Mapped> {
        match self {
            Self::Held(_) => None,
            Self::Filed(mapped) => Some(mapped),
            Self::Kept(kept) => Some(&kept.mapped),
        }
    }
}

impl Piece {
    #[inline]
    fn row(&self, row: usize, dimension: usize) -> &[f32] {
        let place = row - self.first;
        let slot = self.slots.as_ref().map_or(place, |slots| slots[place] as usize);
        &self.numbers.all()[slot * dimension..(slot + 1) * dimension]
    }
}

impl Vectors {
    pub fn new(dimension: usize) -> Self {
        Self { dimension, pieces: Vec::new(), folder: None, spill: SPILL }
    }

    /// Rows that stay in the file they were found in.
    pub fn kept(dimension: usize, numbers: Option<Kept>) -> Self {
        let mut vectors = Self::new(dimension);
        if let Some(kept) = numbers {
            let end = kept.mapped.numbers().len() / dimension;
            vectors.pieces.push(Piece { first: 0, end, numbers: Numbers::Kept(Arc::new(kept)), slots: None });
            vectors.in_order(false);
        }
        vectors
    }

    /// Rows that are added from now on are kept in files without a name in this folder.
    pub fn keep_in(&mut self, folder: &Path) {
        self.folder = Some(folder.to_path_buf());
    }

    /// Numbers in a row.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// How many there are.
    pub fn rows(&self) -> usize {
        self.pieces.last().map_or(0, |piece| piece.end)
    }

    /// One of them.
    #[inline]
    pub fn row(&self, row: usize) -> &[f32] {
        let piece = match self.pieces.as_slice() {
            [only] => only,
            pieces => &pieces[pieces.partition_point(|piece| piece.end <= row)],
        };
        piece.row(row, self.dimension)
    }

    /// Bytes in memory, and bytes that stay in files.
    pub fn bytes(&self) -> (usize, usize) {
        let mut bytes = (0, 0);
        for piece in &self.pieces {
            let slots = piece.slots.as_ref().map_or(0, |slots| 4 * slots.len());
            let of_rows = 4 * (piece.end - piece.first) * self.dimension;
            bytes.0 += slots + if piece.numbers.mapped().is_none() { of_rows } else { 0 };
            bytes.1 += if piece.numbers.mapped().is_some() { of_rows } else { 0 };
        }
        bytes
    }

    /// Adds rows at the end; all or none of them.
    pub fn extend(&mut self, rows: &[f32]) -> Result<()> {
        let (first, count) = (self.rows(), rows.len() / self.dimension);
        // What a copy shares does not grow: it would have to be copied.
        let grows = |numbers: &Numbers| matches!(numbers, Numbers::Held(held) if Arc::strong_count(held) == 1);
        let last = self.pieces.last_mut().filter(|piece| grows(&piece.numbers));
        let waiting = last.as_ref().map_or(0, |piece| size_of_val(piece.numbers.all()));
        if let Some(folder) = self.folder.as_deref().filter(|_| waiting + size_of_val(rows) >= self.spill) {
            let before = last.as_ref().map_or(&[][..], |piece| piece.numbers.all());
            let spilled = Mapped::spilled(folder, [before, rows].into_iter().filter(|part| !part.is_empty()))?;
            let first = last.as_ref().map_or(first, |piece| piece.first);
            let end = first + (waiting / 4 + rows.len()) / self.dimension;
            if last.is_some() {
                self.pieces.pop();
            }
            self.pieces.push(Piece { first, end, numbers: Numbers::Filed(Arc::new(spilled)), slots: None });
            return Ok(());
        }
        match last {
            Some(Piece { end, numbers: Numbers::Held(held), .. }) => {
                let held = Arc::make_mut(held);
                pages::reserve(held, rows.len());
                held.extend_from_slice(rows);
                *end += count;
            }
            _ if count > 0 => {
                let mut held = Vec::new();
                pages::reserve(&mut held, rows.len());
                held.extend_from_slice(rows);
                self.pieces.push(Piece {
                    first,
                    end: first + count,
                    numbers: Numbers::Held(Arc::new(held)),
                    slots: None,
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// None of the rows, kept in the same way.
    pub fn empty(&self) -> Self {
        Self { dimension: self.dimension, pieces: Vec::new(), folder: self.folder.clone(), spill: self.spill }
    }

    /// Adds rows at the end that stay where they are: those in `slots` of this file, or all of it.
    pub fn extend_mapped(&mut self, mapped: Mapped, slots: Option<Vec<u32>>) {
        let (first, rows) = (self.rows(), mapped.numbers().len() / self.dimension);
        assert!(slots.as_ref().is_none_or(|slots| slots.iter().all(|slot| (*slot as usize) < rows)));
        let end = first + slots.as_ref().map_or(rows, Vec::len);
        if end > first {
            self.pieces.push(Piece { first, end, numbers: Numbers::Filed(Arc::new(mapped)), slots });
        }
    }

    /// Writes what is left of many rows to a file too.
    pub fn write_rest(&mut self) -> Result<()> {
        let many = self.pieces.len() > 1;
        if let (Some(folder), Some(piece)) = (&self.folder, self.pieces.last_mut())
            && many
            && matches!(piece.numbers, Numbers::Held(_))
        {
            piece.numbers = Numbers::Filed(Arc::new(Mapped::spilled(folder, [piece.numbers.all()].into_iter())?));
        }
        Ok(())
    }

    /// Adds the rows of another at the end, wherever they are.
    pub fn append(&mut self, other: Vectors) {
        for mut piece in other.pieces {
            let first = self.rows();
            (piece.first, piece.end) = (first, first + piece.end - piece.first);
            self.pieces.push(piece);
        }
    }

    /// Gives up the rows that are not wanted; the others are numbered anew, in their order. Files stay as they are.
    pub fn retain(&mut self, wanted: impl Fn(usize) -> bool) {
        let (dimension, mut next) = (self.dimension, 0);
        for mut piece in std::mem::take(&mut self.pieces) {
            let left: Vec<usize> = (piece.first..piece.end).filter(|row| wanted(*row)).collect();
            if left.len() < piece.end - piece.first {
                let sparse = piece.numbers.all().len() / dimension > SPARSE * left.len();
                if matches!(piece.numbers, Numbers::Held(_)) {
                    let held = left.iter().flat_map(|row| piece.row(*row, dimension)).copied().collect();
                    piece.numbers = Numbers::Held(Arc::new(held));
                } else if sparse
                    && self.folder.is_some()
                    && let Some(moved) = self.moved(&piece, &left)
                {
                    (piece.numbers, piece.slots) = (moved, None);
                } else {
                    let slot = |row: &usize| {
                        piece.slots.as_ref().map_or((row - piece.first) as u32, |slots| slots[row - piece.first])
                    };
                    piece.slots = Some(left.iter().map(slot).collect());
                }
            }
            (piece.first, piece.end) = (next, next + left.len());
            if piece.end > next {
                next = piece.end;
                self.pieces.push(piece);
            }
        }
    }

    /// These rows of a file by themselves. None where they cannot be written: then they stay where they are.
    fn moved(&self, piece: &Piece, left: &[usize]) -> Option<Numbers> {
        let rows = left.iter().map(|row| piece.row(*row, self.dimension));
        if 4 * left.len() * self.dimension < self.spill {
            return Some(Numbers::Held(Arc::new(rows.flatten().copied().collect())));
        }
        Mapped::spilled(self.folder.as_deref()?, rows).ok().map(|spilled| Numbers::Filed(Arc::new(spilled)))
    }

    /// Tells the system that rows are about to be read one after the other, or no more. Whether they fit into memory depends on
    /// all that are in files, in however many: many small files are read a large page at a time no more than a large one.
    pub fn in_order(&self, yes: bool) {
        let (_, in_files) = self.bytes();
        for mapped in self.pieces.iter().filter_map(|piece| piece.numbers.mapped()) {
            mapped.in_order(yes);
            if !yes {
                mapped.in_large_pages(in_files);
            }
        }
    }

    /// As `row`, for those who go through many rows in order: what is behind them is let go.
    pub fn passing<'a>(&'a self) -> impl Fn(usize) -> &'a [f32] {
        let behind = Cell::new(0);
        move |row| {
            if row / PASSING != behind.replace(row / PASSING) {
                self.let_go(row.saturating_sub(row % PASSING + PASSING)..row);
            }
            self.row(row)
        }
    }

    /// Takes rows that were read in order out of this process's memory, as far as they stay in files.
    pub fn let_go(&self, rows: Range<usize>) {
        if rows.is_empty() {
            return;
        }
        let started = self.pieces.partition_point(|piece| piece.end <= rows.start);
        for piece in self.pieces[started..].iter().take_while(|piece| piece.first < rows.end) {
            let Some(mapped) = piece.numbers.mapped() else { continue };
            let places = rows.start.max(piece.first) - piece.first..rows.end.min(piece.end) - piece.first;
            let slots = piece.slots.as_ref().map(|slots| &slots[places.clone()]);
            let slots = slots.map_or(places, |slots| slots[0] as usize..slots[slots.len() - 1] as usize + 1);
            mapped.let_go(slots.start * self.dimension..slots.end * self.dimension);
        }
    }

    /// Reads what stays in an index file and checks that it is what was written.
    pub fn verify(&self) -> Result<()> {
        self.pieces.iter().try_for_each(|piece| match &piece.numbers {
            Numbers::Kept(kept) => kept.verify(),
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows in memory are the oracle of those in files, whatever comes and goes.
    #[test]
    fn rows_are_the_same_wherever_they_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for spill in [1, 100, 1000, usize::MAX] {
            let (mut kept, mut plain) = (Vectors::new(3), Vec::<[f32; 3]>::new());
            kept.keep_in(folder.path());
            kept.spill = spill;
            let mut state = spill as u64 | 1;
            let mut next = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            for step in 0..200 {
                if next(4) > 0 {
                    let rows: Vec<[f32; 3]> = (0..next(40)).map(|i| [step as f32, i as f32, next(9) as f32]).collect();
                    if next(4) == 0 && !rows.is_empty() {
                        let mapped = Mapped::spilled(folder.path(), [rows.as_flattened()].into_iter()).unwrap();
                        let slots: Vec<u32> = (0..rows.len() as u32).filter(|_| next(3) > 0).collect();
                        let all = next(2) == 0;
                        kept.extend_mapped(mapped, (!all).then(|| slots.clone()));
                        let chosen = |i: u32| all || slots.contains(&i);
                        plain.extend(rows.iter().zip(0..).filter(|(_, i)| chosen(*i)).map(|(row, _)| row));
                        let end = plain.len();
                        kept.let_go(end / 2..end);
                        continue;
                    }
                    if next(3) == 0 {
                        let mut batch = kept.empty();
                        rows.chunks(7).for_each(|rows| batch.extend(rows.as_flattened()).unwrap());
                        batch.write_rest().unwrap();
                        kept.append(batch);
                    } else {
                        kept.extend(rows.as_flattened()).unwrap();
                    }
                    plain.extend(rows);
                } else {
                    let (every, keep) = (2 + next(5) as usize, next(2) == 0);
                    kept.retain(|row| (row % every == 0) == keep);
                    let rows = plain.iter().copied().enumerate();
                    plain = rows.filter(|(row, _)| (row % every == 0) == keep).map(|(_, row)| row).collect();
                }
                assert_eq!(kept.rows(), plain.len());
                assert!((0..plain.len()).all(|row| kept.row(row) == plain[row]));
                let passing = kept.passing();
                assert!((0..plain.len()).step_by(3).all(|row| passing(row) == plain[row]));
            }
            let (held, mapped) = kept.bytes();
            assert!(held + mapped >= 12 * plain.len() && (mapped > 0 || spill == usize::MAX));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn many_files_that_do_not_fit_into_memory_together_are_not_read_a_large_page_at_a_time() {
        use crate::mapped::{ROOM, is_in_large_pages, memory};
        let mut vectors = Vectors::new(1024);
        let size = (memory() / ROOM / 3).next_multiple_of(4096) as u64;
        for count in 1..=4 {
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap(); // a hole: it takes no room
            vectors.extend_mapped(Mapped::of(&file, 0, size as usize / 4).unwrap(), None);
            if count == 2 || count == 4 {
                vectors.in_order(true);
                vectors.in_order(false);
                let last = vectors.row(vectors.rows() - 1).as_ptr();
                assert_eq!(is_in_large_pages(last), count == 2, "{count}");
            }
        }
    }

    #[test]
    fn a_folder_that_is_gone_fails_before_anything_changes() {
        let mut vectors = Vectors::new(2);
        vectors.extend(&[1.0, 2.0]).unwrap();
        vectors.keep_in(Path::new("/nowhere/at/all"));
        vectors.spill = 1;
        assert!(vectors.extend(&[3.0, 4.0]).is_err());
        assert_eq!((vectors.rows(), vectors.row(0)), (1, &[1.0, 2.0][..]));
    }
}
