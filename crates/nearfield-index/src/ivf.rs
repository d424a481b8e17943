//! Inverted lists of 8-bit codes: rows in lists around centres, and a search scans those nearest to the query.
//!
//! The codes of a list lie together and give each row a provable interval for its score, so among the lists that are
//! scanned nothing is missed. Effort is the number of lists.

use nearfield_kernels::quantize;
use nearfield_kernels::{BLOCK, Factors, Line, pages, prefetch};

use crate::Result;
use crate::codec::{Reader, Writer};
use crate::flat::Flat;
use crate::partition::{Partition, sort_first};
use crate::probe::{Bench, Probe, Probed, Sight, Structure};
use crate::walk::NONE;

/// An index that scans the lists nearest to a query.
pub type Ivf = Probed<Lists>;

/// Where fewer than one row in so many of a list is allowed, those are gathered instead of scanning the list.
const SPARSE: usize = 4;

/// Lists of 8-bit codes.
#[derive(Debug)]
pub struct Lists {
    partition: Partition,
    codes: Vec<Line>,
    factors: Vec<Factors>,
}

/// How many lists serve so many rows best: with few, too many rows are scanned; with many, too many centres.
fn lists(rows: usize) -> usize {
    ((rows as f64).sqrt() * 4.0) as usize
}

impl Lists {
    fn of(partition: Partition, flat: &Flat) -> Self {
        let mut made = Self { partition, codes: Vec::new(), factors: Vec::new() };
        made.copy(flat);
        made
    }

    /// Copies the codes of the rows into the order of the lists.
    fn copy(&mut self, flat: &Flat) {
        let lines = quantize::lines(flat.dimension);
        self.codes = pages::filled(self.partition.rows.len() * lines, Line::ZERO);
        self.factors = vec![Factors::ABSENT; self.partition.rows.len() / BLOCK];
        for (place, &row) in self.partition.rows.iter().enumerate().filter(|(_, row)| **row != NONE) {
            let at = row as usize;
            self.codes[place * lines..(place + 1) * lines].copy_from_slice(&flat.codes[at * lines..(at + 1) * lines]);
            self.factors[place / BLOCK].copy_lane(place % BLOCK, &flat.factors[at / BLOCK], at % BLOCK);
        }
    }

    fn scan(&self, list: usize, probe: &Probe, bench: &mut Bench, sight: &mut Sight) {
        let Partition { starts, sizes, rows, .. } = &self.partition;
        let (start, size, lines) = (starts[list], sizes[list], probe.code.high.len());
        let rows = &rows[start..start + size];
        sight.visited += size;
        if probe.allowed.is_some() {
            let mut listed = std::mem::take(&mut bench.listed);
            listed.clear();
            listed.extend(rows.iter().copied().filter(|row| probe.answerable(*row)));
            sight.seen += listed.len();
            let few = listed.len() * SPARSE < size;
            if few {
                probe.judge(&listed, sight);
            }
            bench.listed = listed;
            if few {
                return;
            }
        }
        let codes = &self.codes[start * lines..(start + size) * lines];
        let factors = &self.factors[start / BLOCK..(start + size).div_ceil(BLOCK)];
        probe.run((codes, factors), |place| rows[place as usize], bench, sight);
    }
}

impl Structure for Lists {
    const KIND: u32 = 2;
    const NAME: &'static str = "ivf";

    fn build(flat: &Flat, rows: &[u32], trained: usize, threads: usize) -> Self {
        Self::of(Partition::train(flat, rows, trained, lists(rows.len()).min(trained), BLOCK, threads), flat)
    }

    fn most(&self) -> usize {
        self.partition.sizes.len()
    }

    fn look(&self, probe: &Probe, bench: &mut Bench, sight: &mut Sight) {
        let lines = probe.code.high.len();
        let mut near = self.partition.nearest(probe, bench);
        let mut sorted = probe.effort.min(near.len());
        let mut done = 0;
        while done < near.len() && probe.goes_on(done, sight) {
            if done == sorted {
                sorted = (2 * sorted).min(near.len());
                sort_first(&mut near[done..], sorted - done);
            }
            if let Some((_, later)) = near[..sorted].get(done + 1) {
                let start = self.partition.starts[*later as usize];
                (0..4 * lines).for_each(|line| prefetch(&self.codes, start * lines + line));
            }
            self.scan(near[done].1 as usize, probe, bench, sight);
            done += 1;
        }
        bench.near = near;
    }

    fn refresh(&mut self, flat: &Flat) {
        self.copy(flat);
    }

    fn bytes(&self) -> usize {
        size_of_val(self.codes.as_slice()) + size_of_val(self.factors.as_slice()) + self.partition.bytes()
    }

    fn write(&self, file: &mut Writer, rows: &[u32]) -> Result<()> {
        self.partition.write(file, rows)
    }

    fn read(file: &mut Reader, flat: &Flat, covered: usize) -> Result<Self> {
        Ok(Self::of(Partition::read(file, flat, covered, BLOCK)?, flat))
    }
}
