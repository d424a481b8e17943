//! Locality-sensitive hashing by random hyperplanes (Charikar, "Similarity Estimation Techniques from Rounding
//! Algorithms", 2002). A table holds the rows by the sides of its hyperplanes they lie on, a bit each. A search looks
//! into the query's own bucket of every table and then into the buckets that differ in the bits the query is least sure
//! of, surest last (Lv et al., "Multi-Probe LSH: Efficient Indexing for High-Dimensional Similarity Search", 2007).
//! Effort is the number of buckets.
//!
//! For the dot product rows get one more coordinate that brings them to the same norm (Neyshabur and Srebro, "On
//! Symmetric and Asymmetric LSHs for Inner Product Search", 2015), so that near rows are at small angles again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use nearfield_kernels::project::Random;
use nearfield_kernels::quantize::{self, Frame};
use nearfield_kernels::{BLOCK, LINE, Line, Metric, kernels};

use crate::Result;
use crate::codec::{Reader, Writer};
use crate::flat::Flat;
use crate::pool::each_job;
use crate::probe::{Bench, Probe, Probed, Sight, Structure};
use crate::walk::NONE;

/// An index that looks into buckets of rows on the same sides of random hyperplanes.
pub type Lsh = Probed<Tables>;

/// Tables: with more of them, a near row is more likely to share a bucket with the query in one.
const TABLES: usize = 16;

/// Rows that a bucket has on an average, at the least.
const BUCKET: usize = 8;

/// Rows that one thread hashes at a time.
const PER_JOB: usize = 1024;

/// Hash tables over the rows.
#[derive(Debug)]
pub struct Tables {
    frame: Frame,
    bits: usize,
    /// One hyperplane's normal a row of lines, table by table.
    planes: Vec<Line>,
    /// For the dot product: what the further coordinate is multiplied by, one for each hyperplane; the largest norm (in
    /// the frame's units), and the mean of that coordinate.
    heights: Vec<f32>,
    largest: f32,
    mean: f32,
    /// Key of each row in each table, row-major; NONE in the first for a row that is in none.
    keys: Vec<u32>,
    /// For each table, where the rows of each key begin.
    starts: Vec<Vec<u32>>,
    /// For each table, rows by key.
    rows: Vec<Vec<u32>>,
}

fn signed(codes: &[Line]) -> Vec<Line> {
    codes.iter().map(|line| Line(line.0.map(|code| code ^ 128))).collect()
}

impl Tables {
    fn planes(dimension: usize, bits: usize, metric: Metric) -> (Vec<Line>, Vec<f32>) {
        let (lines, mut random) = (quantize::lines(dimension), Random::new(0x6C73_6800));
        let mut planes = vec![Line::ZERO; TABLES * bits * lines];
        let mut heights = Vec::new();
        for plane in planes.chunks_mut(lines) {
            for j in 0..dimension {
                plane[j / LINE].0[j % LINE] = (random.normal() * 48.0).clamp(-127.0, 127.0) as i32 as u8 ^ 128;
            }
            if metric == Metric::Dot {
                heights.push(random.normal() * 48.0);
            }
        }
        (planes, heights)
    }

    /// Buckets from the keys of the rows.
    fn filled(mut self) -> Self {
        for table in 0..TABLES {
            let key = |row: usize| self.keys[row * TABLES + table];
            let present = (0..self.keys.len() / TABLES).filter(|row| self.keys[row * TABLES] != NONE);
            let mut starts = vec![0u32; (1 << self.bits) + 1];
            present.clone().for_each(|row| starts[key(row) as usize + 1] += 1);
            (0..1 << self.bits).for_each(|bucket| starts[bucket + 1] += starts[bucket]);
            let (mut next, mut rows) = (starts.clone(), vec![0; *starts.last().unwrap_or(&0) as usize]);
            for row in present {
                let place = &mut next[key(row) as usize];
                rows[*place as usize] = row as u32;
                *place += 1;
            }
            self.starts.push(starts);
            self.rows.push(rows);
        }
        self
    }
}

/// The next buckets of one table: bits to flip, as places in the order of how unsure they are.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Flips {
    cost: f32,
    table: u32,
    places: u32,
}

impl Eq for Flips {}
impl PartialOrd for Flips {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flips {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.cost.total_cmp(&other.cost).then(self.table.cmp(&other.table)).then(self.places.cmp(&other.places))
    }
}

impl Structure for Tables {
    const KIND: u32 = 4;
    const NAME: &'static str = "lsh";
    const SCATTERED: bool = true;

    fn build(flat: &Flat, rows: &[u32], _trained: usize, threads: usize) -> Self {
        let bits = (rows.len() / BUCKET).ilog2().clamp(4, 20) as usize;
        let (planes, heights) = Self::planes(flat.dimension, bits, flat.metric);
        let (lines, sigma, kernels) = (quantize::lines(flat.dimension), flat.frame.sigma(), kernels());
        let norm = |row: u32| -> f64 {
            let row = flat.vectors.row(row as usize).iter();
            row.map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() * sigma
        };
        let norms: Vec<f64> =
            if flat.metric == Metric::Dot { rows.iter().map(|row| norm(*row)).collect() } else { Vec::new() };
        let largest = norms.iter().fold(0.0f64, |a, x| a.max(*x));
        let lifts: Vec<f32> =
            norms.iter().map(|norm| (largest * largest - norm * norm).max(0.0).sqrt() as f32).collect();
        let mean = lifts.iter().sum::<f32>() / lifts.len().max(1) as f32;
        let mut made = vec![0; rows.len() * TABLES];
        let jobs = made.chunks_mut(PER_JOB * TABLES).zip(rows.chunks(PER_JOB)).enumerate();
        each_job(
            threads,
            jobs,
            || vec![0; TABLES * bits],
            |dots, (job, (keys, rows))| {
                for (i, (keys, &row)) in keys.chunks_mut(TABLES).zip(rows).enumerate() {
                    let at = row as usize;
                    (kernels.scan)(&planes, &signed(&flat.codes[at * lines..(at + 1) * lines]), dots);
                    let scale = flat.factors[at / BLOCK].scale[at % BLOCK];
                    let lift = lifts.get(job * PER_JOB + i).map_or(0.0, |lift| lift - mean);
                    for (table, key) in keys.iter_mut().enumerate() {
                        *key = (0..bits).fold(0, |key, bit| {
                            let plane = table * bits + bit;
                            let side =
                                dots[plane] as f32 * scale + heights.get(plane).map_or(0.0, |height| height * lift);
                            key << 1 | u32::from(side >= 0.0)
                        });
                    }
                }
            },
        );
        let mut keys = vec![NONE; flat.ids.rows() * TABLES];
        for (row, made) in rows.iter().zip(made.chunks(TABLES)) {
            keys[*row as usize * TABLES..(*row as usize + 1) * TABLES].copy_from_slice(made);
        }
        let (frame, largest) = (flat.frame.clone(), largest as f32);
        Self { frame, bits, planes, heights, largest, mean, keys, starts: Vec::new(), rows: Vec::new() }.filled()
    }

    fn most(&self) -> usize {
        TABLES << self.bits
    }

    fn look(&self, probe: &Probe, bench: &mut Bench, sight: &mut Sight) {
        let bits = self.bits;
        bench.place.clear();
        self.frame.place(probe.query, probe.norm, &mut bench.place);
        if probe.flat.metric == Metric::Dot {
            // At the norm of the largest row, and where the rows' mean is the origin.
            let sigma = self.frame.sigma() as f32;
            bench.place.iter_mut().zip(self.frame.centre()).for_each(|(x, c)| *x = *x * self.largest - c * sigma);
        }
        bench.lists.set(&bench.place);
        let (dots, step) = bench.lists.products(probe.kernels, &self.planes);
        let side =
            |plane: usize| dots[plane] as f32 * step - self.heights.get(plane).map_or(0.0, |height| height * self.mean);
        // Each table's bits, the least sure first.
        let mut own = [0u32; TABLES];
        let mut unsure = vec![(0.0f32, 0u32); TABLES * bits];
        for table in 0..TABLES {
            for bit in 0..bits {
                let value = side(table * bits + bit);
                own[table] = own[table] << 1 | u32::from(value >= 0.0);
                unsure[table * bits + bit] = (value * value, 1 << (bits - 1 - bit));
            }
            unsure[table * bits..(table + 1) * bits].sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        }
        let mut waiting: BinaryHeap<Reverse<Flips>> =
            (0..TABLES as u32).map(|table| Reverse(Flips { cost: 0.0, table, places: 0 })).collect();
        bench.marks.resize(probe.flat.ids.rows().div_ceil(64), 0);
        bench.listed.clear();
        let mut done = 0;
        while let Some(Reverse(Flips { cost, table, places })) = waiting.pop().filter(|_| probe.goes_on(done, sight)) {
            let order = &unsure[table as usize * bits..(table as usize + 1) * bits];
            // From a set of places follow the one with a further place, and the one with its last place moved by one.
            let next = (u32::BITS - places.leading_zeros()) as usize;
            if next < bits {
                let further = places | 1 << next;
                waiting.push(Reverse(Flips { cost: cost + order[next].0, table, places: further }));
                if next > 0 {
                    let cost = cost + order[next].0 - order[next - 1].0;
                    waiting.push(Reverse(Flips { cost, table, places: further & !(1 << (next - 1)) }));
                }
            }
            let flipped = (0..next).filter(|place| places >> place & 1 == 1).fold(0, |key, place| key | order[place].1);
            let key = (own[table as usize] ^ flipped) as usize;
            let starts = &self.starts[table as usize];
            let bucket = &self.rows[table as usize][starts[key] as usize..starts[key + 1] as usize];
            for &row in bucket {
                let (word, bit) = (&mut bench.marks[row as usize / 64], 1 << (row % 64));
                if *word & bit == 0 && probe.answerable(row) {
                    *word |= bit;
                    sight.seen += 1;
                }
            }
            sight.visited += bucket.len();
            done += 1;
        }
        // In the order of the rows: those that lie side by side share what is read of them.
        for (first, word) in (0..).step_by(64).zip(&mut bench.marks) {
            while *word != 0 {
                bench.listed.push(first + word.trailing_zeros());
                *word &= *word - 1;
            }
        }
        probe.judge(&bench.listed, sight);
    }

    fn bytes(&self) -> usize {
        let tables: usize = self.starts.iter().chain(&self.rows).map(|table| size_of_val(table.as_slice())).sum();
        tables + size_of_val(self.keys.as_slice()) + size_of_val(self.planes.as_slice())
    }

    fn write(&self, file: &mut Writer, rows: &[u32]) -> Result<()> {
        let centre = self.frame.centre();
        file.section(b"centre  ", centre.len(), centre.iter().copied(), f32::to_le_bytes)?;
        let units = [self.frame.sigma(), f64::from(self.largest), f64::from(self.mean), self.bits as f64];
        file.section(b"units   ", units.len(), units.into_iter(), f64::to_le_bytes)?;
        let keys = rows.iter().flat_map(|row| &self.keys[*row as usize * TABLES..(*row as usize + 1) * TABLES]);
        file.section(b"keys    ", rows.len() * TABLES, keys.copied(), u32::to_le_bytes)
    }

    fn read(file: &mut Reader, flat: &Flat, covered: usize) -> Result<Self> {
        let centre = file.section(b"centre  ", flat.dimension, f32::from_le_bytes)?;
        let units = file.section(b"units   ", 4, f64::from_le_bytes)?;
        let keys = file.section(b"keys    ", covered.saturating_mul(TABLES), u32::from_le_bytes)?;
        let bits = units[3] as usize;
        let wrong = |key: &u32| *key >> bits.min(31) != 0 && *key != NONE;
        let torn = |keys: &[u32]| keys.contains(&NONE) && keys.iter().any(|key| *key != NONE);
        if !(1..=20).contains(&bits) || keys.iter().any(wrong) || keys.chunks(TABLES).any(torn) {
            return Err(file.corrupt("its tables do not fit together"));
        }
        let (planes, heights) = Self::planes(flat.dimension, bits, flat.metric);
        let (largest, mean) = (units[1] as f32, units[2] as f32);
        let frame = Frame::from_parts(flat.metric, centre, units[0]);
        Ok(Self { frame, bits, planes, heights, largest, mean, keys, starts: Vec::new(), rows: Vec::new() }.filled())
    }
}
