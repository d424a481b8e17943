//! Product quantisation with 4 bits a part (Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search",
//! 2011), laid out so that one shuffle instruction looks a part of 32 rows up (André, Kermarrec and Le Scouarnec,
//! "Cache Locality is Not Enough: High-Performance Nearest Neighbor Search with Product Quantization Fast Scan", 2015).
//!
//! A vector is cut into parts of a few coordinates; each is replaced by the nearest of 16 that were trained for it. A
//! query is multiplied with all 16 of every part beforehand, and a product with a row is a sum of table entries. The
//! entries are rounded to 7 bits, so that two of them fit into a byte.
//!
//! Codes of 32 rows stand together. A [`Line`] holds four parts of them: byte 2i of a half is for row i, byte 2i + 1 for
//! row i + 16; the low four bits are for the first part of the half, the high four for its second.

use crate::{Kernels, LINE, Line};

/// Rows whose codes stand together.
pub const PQ_ROWS: usize = 32;

/// Parts in a line.
const PARTS: usize = 4;

/// Codes of a part.
const CODES: usize = 16;

/// Rounds of k-means for each part.
const ROUNDS: usize = 12;

/// Parts at the most: the sum of so many entries of up to 127 fits into 16 bits.
const MOST_PARTS: usize = 512;

/// See [`Kernels::scan_pq`].
pub type ScanPq = fn(codes: &[Line], table: &Table, biases: &[f32], base: f32, bar: f32, out: &mut Vec<(f32, u32)>);

/// Trained parts.
#[derive(Clone, Debug)]
pub struct Pq {
    dimension: usize,
    /// Coordinates in a part.
    width: usize,
    /// Entry `(part * width + j) * 16 + code`: coordinate j of a part's code.
    pub books: Vec<f32>,
}

/// A query's products with the codes of every part.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// For every line of codes two: what their low bits and what their high bits stand for.
    pub lines: Vec<Line>,
    /// What a sum of entries is multiplied by.
    pub step: f32,
    /// Added to that.
    pub base: f32,
    products: Vec<f32>,
}

/// Where the byte of row `row` of a block stands in each half of a line.
fn place(row: usize) -> usize {
    row % 16 * 2 + row / 16
}

fn put(part: usize, code: u8, row: usize, block: &mut [Line]) {
    block[part / PARTS].0[part % PARTS / 2 * (LINE / 2) + place(row)] |= code << (part % 2 * 4);
}

impl Pq {
    /// Untrained, with parts of `width` coordinates or more.
    pub fn new(dimension: usize, width: usize) -> Self {
        let width = width.max(dimension.div_ceil(MOST_PARTS));
        let parts = dimension.div_ceil(width).next_multiple_of(PARTS);
        Self { dimension, width, books: vec![0.0; parts * width * CODES] }
    }

    /// How many parts there are, those beyond the last coordinate included.
    pub fn parts(&self) -> usize {
        self.books.len() / (self.width * CODES)
    }

    /// Coordinates in a part.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Lines that the codes of 32 rows take.
    pub fn lines(&self) -> usize {
        self.parts() / PARTS
    }

    /// Trains one part by k-means on rows (row-major, in a random order); the result is a part of `books`.
    pub fn train(&self, part: usize, rows: &[f32]) -> Vec<f32> {
        let (width, first) = (self.width, part * self.width);
        let inside = self.dimension.saturating_sub(first).min(width);
        let mut book = vec![0.0; width * CODES];
        if inside == 0 || rows.is_empty() {
            return book;
        }
        let mut values = Vec::with_capacity(rows.len() / self.dimension * width);
        for row in rows.chunks_exact(self.dimension) {
            values.extend_from_slice(&row[first..first + inside]);
            values.resize(values.len() + width - inside, 0.0);
        }
        let count = values.len() / width;
        for code in 0..CODES {
            let from = code * count / CODES;
            (0..width).for_each(|j| book[j * CODES + code] = values[from * width + j]);
        }
        for _ in 0..ROUNDS {
            let (mut sums, mut sizes) = (vec![0.0f32; book.len()], [0usize; CODES]);
            for value in values.chunks_exact(width) {
                let code = nearest(&book, value);
                sizes[code] += 1;
                (0..width).for_each(|j| sums[j * CODES + code] += value[j]);
            }
            let largest = (0..CODES).max_by_key(|code| (sizes[*code], CODES - code)).unwrap_or(0);
            for code in 0..CODES {
                for j in 0..width {
                    book[j * CODES + code] = if sizes[code] > 0 {
                        sums[j * CODES + code] / sizes[code] as f32
                    } else {
                        // Nobody's: beside the one of the most.
                        sums[j * CODES + largest] / sizes[largest] as f32 * (1.0 + (code + 1) as f32 / 64.0)
                    };
                }
            }
        }
        book
    }

    /// Codes one row into place `row` of a block, whose lines hold zeros there.
    pub fn encode(&self, values: &[f32], row: usize, block: &mut [Line]) {
        let long = self.width * CODES;
        let mut part_values = vec![0.0; self.width];
        for (part, book) in self.books.chunks_exact(long).enumerate() {
            let first = (part * self.width).min(self.dimension);
            let inside = &values[first..(first + self.width).min(self.dimension)];
            part_values.fill(0.0);
            part_values[..inside.len()].copy_from_slice(inside);
            put(part, nearest(book, &part_values) as u8, row, block);
        }
    }

    /// Puts codes, one a part, into place `row` of a block, whose lines hold zeros there.
    pub fn set(&self, codes: &[u8], row: usize, block: &mut [Line]) {
        codes.iter().enumerate().for_each(|(part, code)| put(part, *code, row, block));
    }

    /// The codes of place `row` of a block, one a part.
    pub fn codes_of(&self, row: usize, block: &[Line]) -> Vec<u8> {
        let code =
            |part: usize| block[part / PARTS].0[part % PARTS / 2 * (LINE / 2) + place(row)] >> (part % 2 * 4) & 15;
        (0..self.parts()).map(code).collect()
    }

    /// What rows are worth to a query.
    pub fn table(&self, query: &[f32], table: &mut Table) {
        let long = self.width * CODES;
        table.products.clear();
        table.products.resize(self.parts() * CODES, 0.0);
        let (mut widest, mut base) = (0.0f32, 0.0f32);
        for (part, products) in table.products.chunks_exact_mut(CODES).enumerate() {
            let first = (part * self.width).min(query.len());
            let inside = &query[first..(first + self.width).min(query.len())];
            let book = &self.books[part * long..(part + 1) * long];
            for (x, entries) in inside.iter().zip(book.chunks_exact(CODES)) {
                for code in 0..CODES {
                    products[code] += x * entries[code];
                }
            }
            let (least, most) = products.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| {
                (if *x < low { *x } else { low }, if *x > high { *x } else { high })
            });
            products.iter_mut().for_each(|x| *x -= least);
            base += least;
            widest = widest.max(most - least);
        }
        let inverse = if widest.is_normal() { 127.0 / widest } else { 0.0 };
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        (table.step, table.base) = (widest / 127.0, base);
        table.lines.resize(2 * self.lines(), Line([0; LINE]));
        for (part, products) in table.products.chunks_exact(CODES).enumerate() {
            let half = part % PARTS / 2 * (LINE / 2);
            let line = &mut table.lines[part / PARTS * 2 + part % 2].0[half..half + 2 * CODES];
            for (code, x) in products.iter().enumerate() {
                let entry = (x * inverse + 0.5) as u8;
                (line[code], line[code + CODES]) = (entry, entry); // a shuffle looks into 16 bytes at a time
            }
        }
    }
}

/// The nearest code of a part, the first of several.
fn nearest(book: &[f32], value: &[f32]) -> usize {
    let mut distances = [0.0f32; CODES];
    for (x, entries) in value.iter().zip(book.chunks_exact(CODES)) {
        for code in 0..CODES {
            distances[code] += (x - entries[code]) * (x - entries[code]);
        }
    }
    let mut best = 0;
    for code in 1..CODES {
        if distances[code] < distances[best] {
            best = code;
        }
    }
    best
}

/// [`Kernels::scan_pq`] for every CPU.
pub(crate) fn scan(codes: &[Line], table: &Table, biases: &[f32], base: f32, bar: f32, out: &mut Vec<(f32, u32)>) {
    let lines = table.lines.len() / 2;
    for (b, (block, biases)) in codes.chunks_exact(lines).zip(biases.chunks_exact(PQ_ROWS)).enumerate() {
        let mut sums = [0u16; PQ_ROWS];
        for (line, tables) in block.iter().zip(table.lines.chunks_exact(2)) {
            for half in [0, LINE / 2] {
                for (row, sum) in sums.iter_mut().enumerate() {
                    let byte = line.0[half + place(row)];
                    *sum += u16::from(tables[0].0[half + usize::from(byte & 15)]);
                    *sum += u16::from(tables[1].0[half + usize::from(byte >> 4)]);
                }
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            let key = f32::from(*sum) * table.step + (biases[row] + base);
            if key >= bar {
                out.push((key, (b * PQ_ROWS + row) as u32));
            }
        }
    }
}

/// Keys of the rows of one block, for tests and for what is done once.
pub fn keys(kernels: &Kernels, codes: &[Line], table: &Table) -> Vec<f32> {
    let mut out = Vec::new();
    let biases = vec![0.0; codes.len() / (table.lines.len() / 2) * PQ_ROWS];
    (kernels.scan_pq)(codes, table, &biases, table.base, f32::NEG_INFINITY, &mut out);
    out.into_iter().map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_adds_up_the_nearest_codes() {
        let mut state = 3u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 32_768.0 - 1.0
        };
        for (dimension, width) in [(1, 2), (7, 2), (96, 2), (130, 4), (1030, 2)] {
            let rows: Vec<f32> = (0..200 * dimension).map(|_| next()).collect();
            let mut pq = Pq::new(dimension, width);
            pq.books = (0..pq.parts()).flat_map(|part| pq.train(part, &rows)).collect();
            let mut codes = vec![Line([0; LINE]); 7 * pq.lines()];
            for (r, row) in rows.chunks(dimension).enumerate() {
                pq.encode(row, r % PQ_ROWS, &mut codes[r / PQ_ROWS * pq.lines()..][..pq.lines()]);
            }
            let query: Vec<f32> = (0..dimension).map(|_| next()).collect();
            let mut table = Table::default();
            pq.table(&query, &mut table);
            let first = keys(&crate::portable::KERNELS, &codes, &table);
            for kernels in crate::dispatch::available() {
                assert_eq!(keys(kernels, &codes, &table), first, "{:?}", kernels.level);
            }
            let spread = rows[..dimension].iter().map(|x| x * x).sum::<f32>().sqrt();
            for (r, row) in rows.chunks(dimension).enumerate() {
                let block = &codes[r / PQ_ROWS * pq.lines()..][..pq.lines()];
                let coded = |(part, code): (usize, &u8)| -> f32 {
                    let entry = |j: usize| pq.books[(part * pq.width + j) * CODES + usize::from(*code)];
                    (0..pq.width).map(|j| query.get(part * pq.width + j).unwrap_or(&0.0) * entry(j)).sum()
                };
                let plain: f32 = pq.codes_of(r % PQ_ROWS, block).iter().enumerate().map(coded).sum();
                assert!((plain - first[r]).abs() <= table.step * pq.parts() as f32 / 2.0 + 1e-4);
                let exact: f32 = query.iter().zip(row).map(|(a, b)| a * b).sum();
                assert!((exact - first[r]).abs() < spread * 1.5 + 0.1, "{exact} {}", first[r]);
            }
        }
    }
}
