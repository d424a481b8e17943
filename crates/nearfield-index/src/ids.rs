//! Which row an id stands for. Rows are numbered in the order they came; a removed row keeps its number.

use std::collections::{HashMap, HashSet};

use nearfield_kernels::kernels;

use crate::{Error, Result};

/// The ids of rows, and the way back.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ids {
    of_row: Vec<i64>,
    live: Vec<bool>,
    dead: usize,
    /// One above the largest id ever given, removed ones included.
    next: i64,
    /// None while ids increase from row to row: then a binary search finds them, and no table is needed.
    rows: Option<HashMap<i64, u32>>,
}

impl Ids {
    /// Rows, removed ones included.
    pub fn rows(&self) -> usize {
        self.of_row.len()
    }

    /// Rows that are there.
    pub fn len(&self) -> usize {
        self.of_row.len() - self.dead
    }

    pub fn is_live(&self, row: usize) -> bool {
        self.dead == 0 || self.live[row] // the former spares a cache line
    }

    pub fn of(&self, row: u32) -> i64 {
        if self.are_rows() { i64::from(row) } else { self.of_row[row as usize] } // which spares a cache line
    }

    /// Whether every row's id is its own number.
    pub fn are_rows(&self) -> bool {
        self.rows.is_none() && self.of_row.last().is_none_or(|last| *last as usize + 1 == self.of_row.len())
    }

    /// Takes the bits of removed rows out.
    pub fn keep_live(&self, bits: &mut [u64]) {
        if self.dead > 0 {
            let mut live = vec![0; bits.len()];
            (kernels().pack_bits)(&self.live, &mut live);
            bits.iter_mut().zip(live).for_each(|(word, live)| *word &= live);
        }
    }

    /// Ids of the rows that are there, in row order.
    pub fn live_ids(&self) -> impl Iterator<Item = i64> + '_ {
        self.of_row.iter().zip(&self.live).filter(|(_, live)| **live).map(|(id, _)| *id)
    }

    /// One above the largest id ever given.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Ids below `next` count as given, though their rows are not here any more.
    pub fn keep_next(&mut self, next: i64) {
        self.next = self.next.max(next);
    }

    pub fn row(&self, id: i64) -> Option<u32> {
        let row = match &self.rows {
            Some(rows) => *rows.get(&id)?,
            None if self.of_row.get(id as usize) == Some(&id) => id as u32, // most are numbered as their rows
            None => self.of_row.binary_search(&id).ok()? as u32,
        };
        self.live[row as usize].then_some(row)
    }

    /// Ids for `count` new rows: those given, checked, or the next ones. Changes nothing.
    pub fn check_new(&self, count: usize, given: Option<&[i64]>) -> Result<Vec<i64>> {
        if self.rows() + count > u32::MAX as usize {
            return Err(Error::Invalid(format!("an index holds at most {} rows, this would be more", u32::MAX)));
        }
        let Some(given) = given else {
            let end = self.next.checked_add(count as i64).ok_or_else(|| {
                Error::Invalid(format!("no ids are left above {}: give ids of your own", self.next - 1))
            })?;
            return Ok((self.next..end).collect());
        };
        if given.len() != count {
            return Err(Error::Invalid(format!("got {} ids for {count} vectors: give one id a vector", given.len())));
        }
        if let Some(id) = given.iter().find(|id| **id < 0 || **id == i64::MAX) {
            return Err(Error::Invalid(format!("got id {id}: ids are whole numbers from 0 to 2**63 - 2")));
        }
        if !given.windows(2).all(|pair| pair[0] < pair[1]) {
            let mut seen = HashSet::with_capacity(count);
            if let Some(twice) = given.iter().find(|id| !seen.insert(**id)) {
                return Err(Error::Invalid(format!(
                    "id {twice} stands twice in this call: give every vector its own id"
                )));
            }
        }
        let taken: Vec<i64> = given.iter().copied().filter(|id| self.row(*id).is_some()).collect();
        if let Some(first) = taken.first() {
            let more = if taken.len() > 1 { format!(" and {} more", taken.len() - 1) } else { String::new() };
            return Err(Error::AlreadyExists(format!("id {first}{more} is in the index already: remove it first")));
        }
        Ok(given.to_vec())
    }

    /// Takes in ids that `check_new` returned.
    pub fn extend(&mut self, new: &[i64]) {
        let increasing = match (self.of_row.last(), new.first()) {
            (Some(last), Some(first)) => last < first,
            _ => true,
        } && new.windows(2).all(|pair| pair[0] < pair[1]);
        if !increasing && self.rows.is_none() {
            let known = self.of_row.iter().zip(0..).filter(|(_, row)| self.live[*row as usize]);
            self.rows = Some(known.map(|(id, row)| (*id, row)).collect());
        }
        if let Some(rows) = &mut self.rows {
            rows.extend(new.iter().copied().zip(self.of_row.len() as u32..));
        }
        self.of_row.extend_from_slice(new);
        self.live.resize(self.of_row.len(), true);
        self.next = new.iter().map(|id| id + 1).fold(self.next, i64::max);
    }

    /// Takes the ids out and returns their rows; all of them must be there.
    pub fn remove(&mut self, ids: &[i64]) -> Result<Vec<u32>> {
        let mut rows = Vec::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for &id in ids {
            match self.row(id) {
                Some(row) => rows.push(row),
                None => unknown.push(id),
            }
        }
        if let Some(first) = unknown.first() {
            let more = if unknown.len() > 1 { format!(" and {} more", unknown.len() - 1) } else { String::new() };
            return Err(Error::NotFound(format!("id {first}{more} is not in the index; nothing was removed")));
        }
        rows.sort_unstable();
        rows.dedup();
        for &row in &rows {
            self.live[row as usize] = false;
            if let Some(map) = &mut self.rows {
                map.remove(&self.of_row[row as usize]);
            }
        }
        self.dead += rows.len();
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_given_again_after_removal_finds_its_new_row() {
        let mut ids = Ids::default();
        ids.extend(&[3, 5, 9]);
        ids.remove(&[5]).unwrap();
        assert_eq!(ids.row(5), None);
        ids.extend(&ids.check_new(1, Some(&[5])).unwrap());
        assert_eq!((ids.row(3), ids.row(5), ids.row(9), ids.next(), ids.len()), (Some(0), Some(3), Some(2), 10, 3));
    }

    #[test]
    fn a_failed_call_changes_nothing() {
        let mut ids = Ids::default();
        ids.extend(&[0, 1, 2]);
        assert!(ids.remove(&[1, 7]).is_err());
        assert_eq!((ids.len(), ids.row(1)), (3, Some(1)));
        assert!(ids.check_new(2, Some(&[8, 8])).is_err());
        assert!(ids.check_new(2, Some(&[8, 1])).is_err());
        assert!(ids.check_new(1, Some(&[-1])).is_err());
    }
}
