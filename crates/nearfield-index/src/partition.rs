//! Rows in lists, each around a centre: the inverted file of Jégou, Douze and Schmid ("Product Quantization for Nearest
//! Neighbor Search", 2011). Trained by k-means on all threads, with the same outcome for any number of them.

use nearfield_kernels::kmeans::{self, Centres};
use nearfield_kernels::quantize::{self, Frame};
use nearfield_kernels::{BLOCK, Kernels, Line, Metric, kernels};

use crate::codec::{Reader, Writer};
use crate::flat::Flat;
use crate::pool::each_job;
use crate::probe::{Bench, Probe};
use crate::walk::NONE;
use crate::{Error, Result};

/// Rows a list that k-means looks at.
const SAMPLED: usize = 64;

/// Rounds of k-means.
const ROUNDS: usize = 8;

/// Rows that one thread takes at a time.
const PER_JOB: usize = 1024;

/// Which list each row is in, and which rows each list has.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// Where rows stood when the centres were found.
    pub frame: Frame,
    pub centres: Centres,
    /// List of each row; NONE where it is in none.
    pub of: Vec<u32>,
    /// Place of each list's first row; a list begins at a multiple of the alignment.
    pub starts: Vec<usize>,
    /// Rows a list.
    pub sizes: Vec<usize>,
    /// Row at each place; NONE where a list is filled up.
    pub rows: Vec<u32>,
}

/// A list by the nearness of its centre to a query.
pub(crate) type Near = (f32, u32);

/// 8-bit codes of some rows of an index, and their scales.
fn gathered(flat: &Flat, rows: &[u32]) -> (Vec<Line>, Vec<f32>) {
    let lines = quantize::lines(flat.dimension);
    let code = |row: &u32| &flat.codes[*row as usize * lines..(*row as usize + 1) * lines];
    let scale = |row: &u32| flat.factors[*row as usize / BLOCK].scale[*row as usize % BLOCK];
    (rows.iter().flat_map(code).copied().collect(), rows.iter().map(scale).collect())
}

/// The nearest centre of each of the rows.
fn assigned(flat: &Flat, kernels: &Kernels, centres: &Centres, rows: &[u32], threads: usize) -> Vec<u32> {
    let mut lists = vec![0; rows.len()];
    let jobs = lists.chunks_mut(PER_JOB).zip(rows.chunks(PER_JOB));
    each_job(
        threads,
        jobs,
        || (),
        |(), (lists, rows)| {
            let (codes, scales) = gathered(flat, rows);
            centres.nearest(kernels, &codes, &scales, lists);
        },
    );
    lists
}

impl Partition {
    /// Finds `count` centres on the first `trained` of the rows (in a random order) and puts all of them in lists that
    /// begin at multiples of `align`.
    pub fn train(flat: &Flat, rows: &[u32], trained: usize, count: usize, align: usize, threads: usize) -> Self {
        let (kernels, dimension, lines) = (kernels(), flat.dimension, quantize::lines(flat.dimension));
        let sample = &rows[..trained.min(SAMPLED * count)];
        let (codes, scales) = gathered(flat, &sample[..count]);
        let mut values = vec![0.0; count * dimension];
        for ((value, code), scale) in values.chunks_mut(dimension).zip(codes.chunks(lines)).zip(&scales) {
            kmeans::add_row(value, code, *scale);
        }
        let mut centres = Centres::new(kernels, dimension, values);
        for round in 0..ROUNDS {
            let lists = assigned(flat, kernels, &centres, sample, threads);
            let (starts, members) = grouped(&lists, sample, count);
            let mut values = centres.values.clone();
            let jobs = values.chunks_mut(dimension).zip(starts.windows(2));
            each_job(
                threads,
                jobs,
                || (),
                |(), (value, ends)| {
                    let members = &members[ends[0]..ends[1]];
                    if members.is_empty() {
                        return;
                    }
                    value.fill(0.0);
                    for &row in members {
                        let code = &flat.codes[row as usize * lines..(row as usize + 1) * lines];
                        kmeans::add_row(value, code, flat.factors[row as usize / BLOCK].scale[row as usize % BLOCK]);
                    }
                    value.iter_mut().for_each(|x| *x /= members.len() as f32);
                },
            );
            if round + 2 < ROUNDS {
                let sizes: Vec<usize> = starts.windows(2).map(|ends| ends[1] - ends[0]).collect();
                kmeans::balance(&mut values, dimension, &sizes);
            }
            centres = Centres::new(kernels, dimension, values);
        }
        let mut of = vec![NONE; flat.ids.rows()];
        for (row, list) in rows.iter().zip(assigned(flat, kernels, &centres, rows, threads)) {
            of[*row as usize] = list;
        }
        Self::of(flat.frame.clone(), centres, of, align)
    }

    /// Lists by what list each row is in.
    fn of(frame: Frame, centres: Centres, of: Vec<u32>, align: usize) -> Self {
        let mut sizes = vec![0usize; centres.count()];
        of.iter().filter(|list| **list != NONE).for_each(|list| sizes[*list as usize] += 1);
        let mut starts = Vec::with_capacity(sizes.len());
        let mut end = 0;
        for &size in &sizes {
            starts.push(end);
            end += size.next_multiple_of(align);
        }
        let (mut rows, mut next) = (vec![NONE; end], starts.clone());
        for (row, &list) in of.iter().enumerate().filter(|(_, list)| **list != NONE) {
            rows[next[list as usize]] = row as u32;
            next[list as usize] += 1;
        }
        Self { frame, centres, of, starts, sizes, rows }
    }

    /// The row's values in this partition's frame less those of its centre. The row's codes must be of that frame.
    pub fn residual(&self, flat: &Flat, row: u32, into: &mut Vec<f32>) {
        let lines = quantize::lines(flat.dimension);
        let centre = self.centres.of(self.of[row as usize] as usize);
        into.clear();
        into.extend(centre.iter().map(|x| -x));
        let code = &flat.codes[row as usize * lines..(row as usize + 1) * lines];
        kmeans::add_row(into, code, flat.factors[row as usize / BLOCK].scale[row as usize % BLOCK]);
    }

    /// All lists, the `effort` nearest to the query first and in order. The query's place is left in the bench.
    pub fn nearest(&self, probe: &Probe, bench: &mut Bench) -> Vec<Near> {
        bench.place.clear();
        self.frame.place(probe.query, probe.norm, &mut bench.place);
        bench.lists.set(&bench.place);
        let weight = if probe.flat.metric == Metric::Dot { 0.0 } else { 1.0 };
        self.centres.keys(probe.kernels, &mut bench.lists, weight, &mut bench.keys);
        let mut near = std::mem::take(&mut bench.near);
        near.clear();
        near.extend(bench.keys.iter().zip(0..).map(|(key, list)| (*key, list)));
        sort_first(&mut near, probe.effort);
        near
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * (self.centres.values.len() + self.of.len() + self.rows.len()) + 16 * self.sizes.len()
    }

    /// Writes the frame, the centres, and the lists of these rows.
    pub fn write(&self, file: &mut Writer, rows: &[u32]) -> Result<()> {
        let centre = self.frame.centre();
        file.section(b"centre  ", centre.len(), centre.iter().copied(), f32::to_le_bytes)?;
        file.section(b"units   ", 1, [self.frame.sigma()].into_iter(), f64::to_le_bytes)?;
        file.section(b"counts  ", 1, [self.centres.count() as u64].into_iter(), u64::to_le_bytes)?;
        let values = &self.centres.values;
        file.section(b"centres ", values.len(), values.iter().copied(), f32::to_le_bytes)?;
        file.section(b"lists   ", rows.len(), rows.iter().map(|row| self.of[*row as usize]), u32::to_le_bytes)
    }

    /// Reads what `write` wrote, for the first `covered` rows of an index.
    pub fn read(file: &mut Reader, flat: &Flat, covered: usize, align: usize) -> Result<Self> {
        let centre = file.section(b"centre  ", flat.dimension, f32::from_le_bytes)?;
        let units = file.section(b"units   ", 1, f64::from_le_bytes)?;
        let count = file.section(b"counts  ", 1, u64::from_le_bytes)?[0];
        let wrong = |file: &Reader| -> Error { file.corrupt("its lists do not fit together") };
        let count = usize::try_from(count).ok().filter(|count| (1..=covered.max(1)).contains(count));
        let count = count.ok_or_else(|| wrong(file))?;
        let values = file.section(b"centres ", count * flat.dimension, f32::from_le_bytes)?;
        let of = file.section(b"lists   ", covered, u32::from_le_bytes)?;
        if of.iter().any(|list| *list != NONE && *list as usize >= count) {
            return Err(wrong(file));
        }
        let centres = Centres::new(kernels(), flat.dimension, values);
        Ok(Self::of(Frame::from_parts(flat.metric, centre, units[0]), centres, of, align))
    }
}

/// Members of each list, in the order of the rows: those of list l stand from `starts[l]` to `starts[l + 1]`.
fn grouped(lists: &[u32], rows: &[u32], count: usize) -> (Vec<usize>, Vec<u32>) {
    let mut starts = vec![0; count + 1];
    lists.iter().for_each(|list| starts[*list as usize + 1] += 1);
    (0..count).for_each(|list| starts[list + 1] += starts[list]);
    let (mut next, mut members) = (starts.clone(), vec![0; rows.len()]);
    for (row, list) in rows.iter().zip(lists) {
        members[next[*list as usize]] = *row;
        next[*list as usize] += 1;
    }
    (starts, members)
}

/// Puts the `wanted` greatest first and in order; equal ones in the order of their numbers.
pub(crate) fn sort_first(near: &mut [Near], wanted: usize) {
    let order = |a: &Near, b: &Near| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if wanted < near.len() {
        near.select_nth_unstable_by(wanted, order);
        near[..wanted].sort_unstable_by(order);
    } else {
        near.sort_unstable_by(order);
    }
}
