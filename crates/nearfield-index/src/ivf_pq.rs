//! Inverted lists of product-quantised residuals: what a row differs from its list's centre, in 2 bits a dimension
//! (`nearfield_kernels::pq`). A search looks the rows of the nearest lists up in one table of products, and judges the
//! most promising by their 8-bit codes.
//!
//! A product with a row is that with the centre plus that with the residual, so one table serves all lists. By the
//! distance, half the row's squared norm is taken off, which is stored. Effort is the number of lists.

use nearfield_kernels::pq::{PQ_ROWS, Pq};
use nearfield_kernels::{LINE, Line, Metric, pages};

use crate::Result;
use crate::codec::{Reader, Writer};
use crate::flat::Flat;
use crate::partition::{Partition, sort_first};
use crate::pool::each_job;
use crate::probe::{Bench, Probe, Probed, Sight, Structure};
use crate::walk::NONE;

/// An index that looks rows of the nearest lists up in tables.
pub type IvfPq = Probed<Coded>;

/// Coordinates in a part of 4 bits.
const WIDTH: usize = 2;

/// Rows that the parts are trained on.
const SAMPLE: usize = 16_384;

/// Lists of product-quantised residuals.
#[derive(Debug)]
pub struct Coded {
    partition: Partition,
    pq: Pq,
    codes: Vec<Line>,
    /// At each place, minus half the squared norm of the row (none by the inner product); minus infinity for no row.
    biases: Vec<f32>,
}

/// How many lists serve so many rows best.
fn lists(rows: usize) -> usize {
    ((rows as f64).sqrt() * 2.0) as usize
}

/// Rows that are judged by their 8-bit codes, for k answers out of so many lists: the more lists, the more is expected.
fn judged(k: usize, effort: usize) -> usize {
    let k = k.max(10); // for fewer, effort is not measured
    (2 * k + 16).max(k * (effort + 8) / 8)
}

impl Structure for Coded {
    const KIND: u32 = 3;
    const NAME: &'static str = "ivf_pq";

    fn build(flat: &Flat, rows: &[u32], trained: usize, threads: usize) -> Self {
        let partition = Partition::train(flat, rows, trained, lists(rows.len()).min(trained), PQ_ROWS, threads);
        let mut pq = Pq::new(flat.dimension, WIDTH);
        let (mut sample, mut residual) = (Vec::new(), Vec::new());
        for &row in &rows[..trained.min(SAMPLE)] {
            partition.residual(flat, row, &mut residual);
            sample.extend_from_slice(&residual);
        }
        let mut books = vec![Vec::new(); pq.parts()];
        each_job(threads, books.iter_mut().enumerate(), || (), |(), (part, book)| *book = pq.train(part, &sample));
        pq.books = books.concat();
        let places = partition.rows.len();
        let mut codes = pages::filled(places / PQ_ROWS * pq.lines(), Line([0; LINE]));
        let mut biases = vec![f32::NEG_INFINITY; places];
        let sigma = flat.frame.sigma() as f32;
        let jobs = codes.chunks_mut(pq.lines()).zip(biases.chunks_mut(PQ_ROWS)).zip(partition.rows.chunks(PQ_ROWS));
        each_job(threads, jobs, Vec::new, |residual, ((codes, biases), rows)| {
            for (place, &row) in rows.iter().enumerate().filter(|(_, row)| **row != NONE) {
                partition.residual(flat, row, residual);
                pq.encode(residual, place, codes);
                let centre = partition.centres.of(partition.of[row as usize] as usize);
                let square: f32 = residual.iter().zip(centre).map(|(r, c)| (r + c) * (r + c)).sum();
                // A zero row has cosine 0 with everything: it stands as far off as a unit row at a right angle.
                let zero = flat.norms.get(row as usize).is_some_and(|norm| *norm == 0.0);
                let lift = if zero { sigma * sigma } else { 0.0 };
                biases[place] = if flat.metric == Metric::Dot { 0.0 } else { -(square + lift) / 2.0 };
            }
        });
        Self { partition, pq, codes, biases }
    }

    fn most(&self) -> usize {
        self.partition.sizes.len()
    }

    fn look(&self, probe: &Probe, bench: &mut Bench, sight: &mut Sight) {
        let mut near = self.partition.nearest(probe, bench);
        let weight = if probe.flat.metric == Metric::Dot { 0.0 } else { 1.0 };
        self.pq.table(&bench.place, &mut bench.table);
        // Rows that a filter leaves over are seen in more lists than the effort says.
        let filter = if probe.least > 0 { 4 } else { 1 };
        let (wanted, lines) = (filter * judged(probe.k, probe.effort), self.pq.lines());
        let (mut best, mut bar) = (std::mem::take(&mut bench.approximate), f32::MIN);
        best.clear();
        let mut sorted = probe.effort.min(near.len());
        let mut done = 0;
        while done < near.len() && probe.goes_on(done, sight) {
            if done == sorted {
                sorted = (2 * sorted).min(near.len());
                sort_first(&mut near[done..], sorted - done);
            }
            let (key, list) = near[done];
            let list = list as usize;
            let (start, size) = (self.partition.starts[list], self.partition.sizes[list]);
            let blocks = start / PQ_ROWS..(start + size).div_ceil(PQ_ROWS);
            let rows = &self.partition.rows[start..];
            // The key of the centre less its own norm: the product with it.
            let base = key + weight * self.partition.centres.half(list) + bench.table.base;
            let before = best.len();
            (probe.kernels.scan_pq)(
                &self.codes[blocks.start * lines..blocks.end * lines],
                &bench.table,
                &self.biases[start..blocks.end * PQ_ROWS],
                base,
                bar,
                &mut best,
            );
            let mut kept = before;
            for i in before..best.len() {
                let (key, place) = best[i];
                let row = rows[place as usize];
                if probe.answerable(row) {
                    best[kept] = (key, row);
                    kept += 1;
                }
            }
            best.truncate(kept);
            if best.len() >= 2 * wanted {
                sort_first(&mut best, wanted);
                best.truncate(wanted);
                bar = best[wanted - 1].0;
            }
            if let Some(allowed) = probe.allowed.filter(|_| probe.least > 0) {
                sight.seen += rows[..size].iter().filter(|row| allowed.holds(**row)).count();
            }
            sight.visited += size;
            sight.scored += size;
            done += 1;
        }
        sort_first(&mut best, wanted);
        best.truncate(wanted);
        bench.listed.clear();
        bench.listed.extend(best.iter().map(|(_, row)| *row));
        let scored = sight.scored;
        probe.judge(&bench.listed, sight);
        sight.scored = scored + best.len();
        (bench.approximate, bench.near) = (best, near);
    }

    fn bytes(&self) -> usize {
        size_of_val(self.codes.as_slice()) + size_of_val(self.biases.as_slice()) + self.partition.bytes()
    }

    fn write(&self, file: &mut Writer, rows: &[u32]) -> Result<()> {
        self.partition.write(file, rows)?;
        file.section(b"books   ", self.pq.books.len(), self.pq.books.iter().copied(), f32::to_le_bytes)?;
        let mut places = vec![0; self.partition.of.len()];
        for (place, row) in self.partition.rows.iter().enumerate().filter(|(_, row)| **row != NONE) {
            places[*row as usize] = place;
        }
        let (parts, lines) = (self.pq.parts(), self.pq.lines());
        let listed = || rows.iter().filter(|row| self.partition.of[**row as usize] != NONE);
        let codes = listed().flat_map(|row| {
            let place = places[*row as usize];
            self.pq.codes_of(place % PQ_ROWS, &self.codes[place / PQ_ROWS * lines..][..lines])
        });
        let count = listed().count();
        file.section(b"parts   ", count * parts, codes, |code| [code])?;
        file.section(b"biases  ", count, listed().map(|row| self.biases[places[*row as usize]]), f32::to_le_bytes)
    }

    fn read(file: &mut Reader, flat: &Flat, covered: usize) -> Result<Self> {
        let partition = Partition::read(file, flat, covered, PQ_ROWS)?;
        let mut pq = Pq::new(flat.dimension, WIDTH);
        pq.books = file.section(b"books   ", pq.books.len(), f32::from_le_bytes)?;
        let (parts, lines, count) = (pq.parts(), pq.lines(), partition.sizes.iter().sum::<usize>());
        let read = file.section(b"parts   ", count * parts, |[code]: [u8; 1]| code)?;
        let given = file.section(b"biases  ", count, f32::from_le_bytes)?;
        if read.iter().any(|code| *code > 15) {
            return Err(file.corrupt("its parts do not fit together"));
        }
        let places = partition.rows.len();
        let mut codes = pages::filled(places / PQ_ROWS * lines, Line([0; LINE]));
        let mut biases = vec![f32::NEG_INFINITY; places];
        // The file has the listed rows in their order; `numbers` tells which of them a row is.
        let mut next = 0;
        let numbers: Vec<usize> = partition
            .of
            .iter()
            .map(|list| {
                next += usize::from(*list != NONE);
                next.wrapping_sub(1)
            })
            .collect();
        for (place, &row) in partition.rows.iter().enumerate().filter(|(_, row)| **row != NONE) {
            let number = numbers[row as usize];
            pq.set(
                &read[number * parts..(number + 1) * parts],
                place % PQ_ROWS,
                &mut codes[place / PQ_ROWS * lines..][..lines],
            );
            biases[place] = given[number];
        }
        Ok(Self { partition, pq, codes, biases })
    }
}
