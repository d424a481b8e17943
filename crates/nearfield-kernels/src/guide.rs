//! Guide codes: 2 or 4 bits for each of the leading directions of a [`Projection`], small enough to steer a walk through
//! a graph by one or two cache lines a row.
//!
//! A projected row y is about f * (2 c - 15) with c in 0..=15. The step is fitted to the spread of y, and f to its
//! length, f = |y|² / <y, 2 c - 15>, as RaBitQ does (Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a
//! Theoretical Error Bound for Approximate Nearest Neighbor Search", 2024; several bits: Gao et al., 2025): then the
//! estimate of a product with y itself has no error, and near a row is where precision matters. The query keeps 8 bits.
//! With the other factor, half the squared norm of the *whole* row, the guide key of a row is
//!
//! ```text
//! bias - f <2 c - 15, query>        about (|o - u|² - |u|²) / 2
//! ```
//!
//! Codes of 2 bits are the upper halves of such codes, 2 c - 3 with a factor of their own: twice the directions in the
//! same room. The lower halves stand in a second array, which is read only for the nearest nodes a walk has found.
//!
//! A line holds its codes in planes: with 4 bits byte b has those of places b (low half) and b + 64 (high half), with 2
//! bits those of b, b + 64, b + 128 and b + 192, so that a query meets them after one shift and one AND. The last four
//! bytes of a row are its factors, two unsigned numbers of 16 bits; the query is zero where they stand.

use std::ops::Range;

use crate::project::{Projection, Sample, rounded};
use crate::quantize::Frame;
use crate::rest::{self, Rest, RestQuery};
use crate::{GROUP, Kernels, LINE, Line, Metric, errors, pages};

/// Step of the code in units of the spread of the coordinates. Alone, about the best for 16 levels of a normal variable
/// (Max, "Quantizing for Minimum Distortion", 1960); in halves, between that and a quarter of the best for 4 levels.
pub(crate) const STEP: f32 = 0.335;
const STEP_IN_HALVES: f32 = 0.285;

/// Bytes of a row's factors.
const FACTORS: usize = 4;

/// Codes in a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planes {
    /// Codes of 4 bits, kept whole.
    Two,
    /// Codes of 4 bits, kept in halves: the upper ones guide the walk.
    Four,
}

impl Planes {
    /// How many they are.
    pub const fn count(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Directions that fit into so many lines, beside the factors.
    pub const fn directions(self, lines: usize) -> usize {
        self.count() * (lines * LINE - FACTORS)
    }

    fn step(self) -> f32 {
        match self {
            Self::Two => STEP,
            Self::Four => STEP_IN_HALVES,
        }
    }

    fn surplus(self, sum: i32) -> i32 {
        sum * if self == Self::Two { 15 } else { 3 }
    }

    /// Share of a normal variable's variance that codes steering a walk miss.
    pub(crate) fn missed(self) -> f32 {
        match self {
            Self::Two => 0.0115,
            Self::Four => 0.125,
        }
    }
}

/// Guide codes of rows.
#[derive(Clone, Debug, Default)]
pub struct GuideCodes {
    /// What walks read, `lines` a row.
    pub coarse: Vec<Line>,
    /// With four planes the lower halves of the codes, as many lines; otherwise empty.
    pub fine: Vec<Line>,
    /// Codes of what is left of long rows, see [`Rest`]; otherwise empty.
    pub rest: Vec<Line>,
}

impl GuideCodes {
    /// The three arrays.
    pub fn arrays(&self) -> [&Vec<Line>; 3] {
        [&self.coarse, &self.fine, &self.rest]
    }

    /// The three arrays.
    pub fn arrays_mut(&mut self) -> [&mut Vec<Line>; 3] {
        [&mut self.coarse, &mut self.fine, &mut self.rest]
    }

    /// The codes of so many rows at a time.
    pub fn chunks_mut(&mut self, guide: &Guide, rows: usize) -> impl Iterator<Item = [&mut [Line]; 3]> + Send {
        fn parts(lines: &mut [Line], each: usize) -> impl Iterator<Item = &mut [Line]> + Send {
            // Where there are none, each part is empty.
            lines.chunks_mut(each.max(1)).chain(std::iter::repeat_with(Default::default))
        }
        let [coarse, fine, rest] = guide.array_lines().map(|lines| rows * lines);
        let [codes, whole, left] = self.arrays_mut();
        let parts = codes.chunks_mut(coarse).zip(parts(whole, fine)).zip(parts(left, rest));
        parts.map(|((coarse, fine), rest)| [coarse, fine, rest])
    }
}

/// Coder of rows and queries.
#[derive(Clone, Debug)]
pub struct Guide {
    /// Lines a row takes in each array.
    pub lines: usize,
    /// How codes are kept.
    pub planes: Planes,
    /// Where rows stand before they are projected.
    pub frame: Frame,
    /// The directions.
    pub projection: Projection,
    /// What the stored factor of a row is multiplied by.
    pub scale: f32,
    /// What the stored bias of a row is multiplied by.
    pub bias: f32,
    /// How far keys by what walks read and by whole codes may usually be off, in units of the product of the query's norm
    /// and its distance to the row.
    pub errors: [f32; 2],
    /// Coder of what is left of long rows.
    pub rest: Option<Rest>,
}

/// A query, ready to be compared with guide codes.
#[derive(Clone, Debug)]
pub struct GuideQuery {
    /// Signed codes; for every line of a row one for each plane.
    pub codes: Vec<Line>,
    /// What the codes of a row are above zero on an average, 15 (with four planes 3), times the sum of the query's.
    pub surplus: i32,
    /// Weight of factor times product.
    pub scale: f32,
    /// Weight of the bias.
    pub bias: f32,
    /// Squared norm of the query: twice a key and this make a squared distance. Infinite where keys are not distances.
    pub square: f32,
}

/// What a row's code is made from: everything about it but the projection, which is computed for many at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source {
    /// Scale of the row's 8-bit code.
    pub scale: f32,
    /// Half the squared norm that the guide key adds.
    pub bias: f32,
}

/// Where direction j stands: line, plane and byte.
pub(crate) fn place(lines: usize, planes: Planes, j: usize) -> (usize, usize, usize) {
    let line = j / (planes.count() * LINE);
    let (bytes, inside) = (if line + 1 == lines { LINE - FACTORS } else { LINE }, j % (planes.count() * LINE));
    (line, inside / bytes, inside % bytes)
}

/// So many directions as they stand: line, plane, and which of them begin at its first byte.
fn stretches(lines: usize, planes: Planes, outputs: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    (0..lines * planes.count()).map_while(move |i| {
        let (line, plane) = (i / planes.count(), i % planes.count());
        let bytes = if line + 1 == lines { LINE - FACTORS } else { LINE };
        let first = line * planes.count() * LINE + plane * bytes;
        (first < outputs).then(|| (line, plane, first..outputs.min(first + bytes)))
    })
}

/// The factors of a row: two unsigned numbers of 16 bits.
#[inline(always)]
pub(crate) fn factors(codes: &[Line], lines: usize, row: u32) -> u32 {
    let last = &codes[row as usize * lines + lines - 1].0;
    u32::from_le_bytes([last[60], last[61], last[62], last[63]])
}

impl GuideQuery {
    /// The guide key of a row, from the sum of its products and its two stored factors.
    #[inline(always)]
    pub fn key(&self, dot: i32, factors: u32) -> f32 {
        let (factor, offset) = ((factors & 0xFFFF) as f32, (factors >> 16) as f32);
        offset * self.bias - (2 * dot - self.surplus) as f32 * factor * self.scale
    }

    /// The guide key of a row by both halves of its codes, from the sums of their products and the row's factors.
    #[inline(always)]
    fn fine_key(&self, dots: [i32; 2], coarse: u32, fine: u32) -> f32 {
        let (factor, offset) = ((fine & 0xFFFF) as f32, (coarse >> 16) as f32);
        offset * self.bias - (2 * (4 * dots[0] + dots[1]) - 5 * self.surplus) as f32 * factor * self.scale
    }

    /// The key of what is behind a row of this key by so many times the product of the query's norm and its distance to
    /// the row: keys are off by that, times [`Guide::errors`]. Not finite where keys are no distances.
    pub fn behind(&self, key: f32, error: f32) -> f32 {
        key + error * ((2.0 * key + self.square).max(0.0) * self.square).sqrt()
    }

    /// The query whose coordinates, in units of `unit`, stand in `y` as rows have them: see [`lay_out`].
    fn set(&mut self, kernels: &Kernels, planes: Planes, y: &[f32], unit: f32) {
        self.codes.resize(y.len() / LINE, Line([0; LINE]));
        let (largest, sum) = (kernels.code8)(y, &mut self.codes);
        self.surplus = planes.surplus(sum);
        self.scale = unit * largest / 127.0;
    }
}

/// Moves projected coordinates to where the codes of rows have them: plane by plane of every line, the last line's
/// leaving room for the factors.
fn lay_out(lines: usize, planes: Planes, coordinates: &mut Vec<f32>) {
    let last = planes.count() * (lines - 1) * LINE;
    for plane in 0..planes.count() {
        let end = last + plane * LINE + LINE - FACTORS;
        if coordinates.len() > end {
            coordinates.splice(end..end, [0.0; FACTORS]);
        }
    }
    coordinates.resize(planes.count() * lines * LINE, 0.0);
}

impl Guide {
    /// A coder for rows given by their 8-bit codes (of `frame`) and sources, of the fewest lines that keep enough of the
    /// rows. The codes may be those of the first rows alone, if these are a fair sample.
    ///
    /// How far a walk must go depends on the share of squared norms that is lost, be it in directions left out or in the
    /// bits of the codes.
    pub fn fit(kernels: &Kernels, frame: &Frame, dimension: usize, codes: &[Line], sources: &[Source]) -> Self {
        const ENOUGH: f32 = 0.2;
        const LINES: [usize; 5] = [1, 2, 3, 4, 6];
        let (mut best, sample): (Option<(Self, f32)>, _) = (None, Self::sample(kernels, dimension, codes, sources));
        for lines in LINES {
            for planes in [Planes::Two, Planes::Four] {
                if 4 * planes.directions(lines) < dimension {
                    continue; // no spectrum of embeddings falls so fast
                }
                let (guide, kept) = Self::train_on(&sample, frame, dimension, (lines, planes), sources);
                let lost = 1.0 - kept * (1.0 - planes.missed());
                if best.as_ref().is_none_or(|(_, least)| lost < *least) {
                    best = Some((guide, lost));
                }
            }
            if best.as_ref().is_some_and(|(_, lost)| *lost <= ENOUGH) {
                break;
            }
        }
        let guide = best.expect("the last width is tried for every dimension").0;
        errors::measured(kernels, guide, codes, sources)
    }

    /// As `fit`, of so many lines and these planes.
    pub fn train(
        kernels: &Kernels,
        frame: &Frame,
        dimension: usize,
        (lines, planes): (usize, Planes),
        codes: &[Line],
        sources: &[Source],
    ) -> Self {
        let sample = Self::sample(kernels, dimension, codes, sources);
        let (guide, _) = Self::train_on(&sample, frame, dimension, (lines, planes), sources);
        errors::measured(kernels, guide, codes, sources)
    }

    fn sample<'a>(kernels: &'a Kernels, dimension: usize, codes: &'a [Line], sources: &[Source]) -> Sample<'a> {
        let count = codes.len() / dimension.div_ceil(LINE);
        Sample::new(kernels, codes, sources[..count].iter().map(|source| source.scale).collect(), dimension)
    }

    /// A coder whose errors are not known, and the share of the rows' squared norms that its directions keep.
    fn train_on(
        sample: &Sample,
        frame: &Frame,
        dimension: usize,
        (lines, planes): (usize, Planes),
        sources: &[Source],
    ) -> (Self, f32) {
        let (projection, kept) = Projection::train(sample, planes.directions(lines));
        let largest = |value: fn(&Source) -> f32| sources.iter().map(value).fold(0.0f32, f32::max);
        // f is half a step for an ordinary row; rows that one coordinate carries may need four times as much. The upper
        // halves' step is four times as wide.
        let norm = (2.0 * largest(|source| source.bias)).sqrt();
        let step = norm / (projection.outputs as f32).sqrt() * planes.step() * (planes.count() / 2).pow(2) as f32;
        let scale = (step * 2.0 / 65_535.0).max(f32::MIN_POSITIVE);
        let bias = (largest(|source| source.bias) / 65_535.0).max(f32::MIN_POSITIVE);
        let errors = [0.0; 2];
        let mut guide = Self { lines, planes, frame: frame.clone(), projection, scale, bias, errors, rest: None };
        guide.rest = Rest::pays(dimension).then(|| Rest::new(&guide, norm));
        (guide, kept)
    }

    /// Lines a row takes in each array of [`GuideCodes`].
    pub fn array_lines(&self) -> [usize; 3] {
        let fine = if self.planes == Planes::Four { self.lines } else { 0 };
        [self.lines, fine, self.rest.as_ref().map_or(0, |rest| rest.lines)]
    }

    /// Room for the codes of so many rows.
    pub fn room(&self, rows: usize) -> GuideCodes {
        let [coarse, fine, rest] = self.array_lines().map(|lines| pages::filled(rows * lines, Line([0; LINE])));
        GuideCodes { coarse, fine, rest }
    }

    /// Codes rows, given by their 8-bit codes and sources, into parts of the arrays of [`GuideCodes`].
    pub fn encode(&self, kernels: &Kernels, rows: &[Line], sources: &[Source], into: [&mut [Line]; 3]) {
        let [coarse, fine, left] = into;
        let (long, outputs) = (self.projection.lines(), self.projection.outputs);
        let padded = outputs.next_multiple_of(32);
        let mut packed = vec![Line::ZERO; padded * long * kernels.code_bytes];
        (kernels.pack_rows)(&self.projection.codes, long, &mut packed);
        let (mut group, mut dots, mut y) = (Vec::new(), vec![0; GROUP * padded], vec![0.0f32; outputs]);
        let (mut coordinates, mut scratch) = (vec![(Vec::new(), 0.0); GROUP], rest::Scratch::default());
        for first in (0..sources.len()).step_by(GROUP) {
            let inside = GROUP.min(sources.len() - first);
            let signed: Vec<Line> = rows[first * long..(first + inside) * long]
                .iter()
                .map(|line| Line(line.0.map(|code| code ^ 128)))
                .collect();
            let codes: Vec<&[Line]> = signed.chunks(long).collect();
            (kernels.pack_queries)(&codes, &mut group);
            (kernels.tile)(&packed, &group, long, inside, &mut dots, padded);
            for q in 0..inside {
                let source = &sources[first + q];
                for ((y, dot), scale) in y.iter_mut().zip(&dots[q * padded..]).zip(&self.projection.scales) {
                    *y = *dot as f32 * scale * source.scale;
                }
                let places = (first + q) * self.lines..(first + q + 1) * self.lines;
                let fine = fine.get_mut(places.clone()).unwrap_or_default();
                self.encode_row(&y, source, &mut coarse[places.clone()], fine);
                if self.rest.is_some() {
                    let (codes, factor) = &mut coordinates[q];
                    *factor = self.coordinates(&coarse[places], fine, codes).1;
                }
            }
            if let Some(rest) = &self.rest {
                let codes = &rows[first * long..(first + inside) * long];
                let into = &mut left[first * rest.lines..(first + inside) * rest.lines];
                let scale = |q: usize| sources[first + q].scale;
                rest.encode(kernels, (codes, scale), &coordinates[..inside], into, &mut scratch);
            }
        }
    }

    fn encode_row(&self, y: &[f32], source: &Source, coarse: &mut [Line], fine: &mut [Line]) {
        let square: f32 = y.iter().map(|y| y * y).sum();
        let spread = (square / y.len().max(1) as f32).sqrt();
        let inverse = if spread.is_normal() { 1.0 / (self.planes.step() * spread) } else { 0.0 };
        coarse.fill(Line([0; LINE]));
        fine.fill(Line([0; LINE]));
        let (mut along, mut along_upper) = (0.0, 0.0);
        for (line, plane, inside) in stretches(self.lines, self.planes, y.len()) {
            let (y, mut codes) = (&y[inside], [0u8; LINE]);
            for (code, y) in codes.iter_mut().zip(y) {
                *code = rounded((y * inverse + 7.5).clamp(0.0, 15.0)) as u8;
            }
            for (code, y) in codes.iter().zip(y) {
                along += y * (2.0 * f32::from(*code) - 15.0);
                along_upper += y * (2.0 * f32::from(code >> 2) - 3.0);
            }
            for (i, code) in codes[..y.len()].iter().enumerate() {
                match self.planes {
                    Planes::Two => coarse[line].0[i] |= code << (4 * plane),
                    Planes::Four => {
                        coarse[line].0[i] |= code >> 2 << (2 * plane);
                        fine[line].0[i] |= (code & 3) << (2 * plane);
                    }
                }
            }
        }
        let stored = |value: f32, unit: f32| (rounded((value / unit).clamp(0.0, 65_535.0)) as u16).to_le_bytes();
        let factor = |along: f32| stored(if along > 0.0 { square / along } else { 0.0 }, self.scale);
        let last = &mut coarse[self.lines - 1].0;
        last[60..62].copy_from_slice(&factor(if self.planes == Planes::Two { along } else { along_upper }));
        last[62..].copy_from_slice(&stored(source.bias, self.bias));
        if let Some(last) = fine.last_mut() {
            last.0[60..62].copy_from_slice(&factor(along));
        }
    }

    /// What the code of a row says of its coordinates: signed, as queries have them, with their sum and what they are
    /// to be multiplied by.
    fn coordinates(&self, coarse: &[Line], fine: &[Line], into: &mut Vec<Line>) -> (i32, f32) {
        let planes = self.planes;
        into.clear();
        into.resize(planes.count() * self.lines, Line([0; LINE]));
        let mut sum = 0;
        for (line, plane, inside) in stretches(self.lines, planes, self.projection.outputs) {
            let (upper, into) = (&coarse[line].0, &mut into[planes.count() * line + plane].0[..inside.len()]);
            match planes {
                Planes::Two => {
                    for (into, code) in into.iter_mut().zip(upper) {
                        *into = 2 * (code >> (4 * plane) & 15);
                    }
                }
                Planes::Four => {
                    for ((into, upper), lower) in into.iter_mut().zip(upper).zip(&fine[line].0) {
                        *into = 2 * ((upper >> (2 * plane) & 3) << 2 | lower >> (2 * plane) & 3);
                    }
                }
            }
            for coordinate in into {
                *coordinate = coordinate.wrapping_sub(15);
                sum += i32::from(*coordinate as i8);
            }
        }
        let whole = if planes == Planes::Two { coarse } else { fine };
        (sum, (factors(whole, self.lines, 0) & 0xFFFF) as f32 * self.scale)
    }

    /// The row of this code as a query, by the Euclidean distance in the frame.
    pub fn row_as_query(&self, codes: &GuideCodes, row: usize, query: &mut GuideQuery) {
        let places = row * self.lines..(row + 1) * self.lines;
        let (coarse, fine) = (&codes.coarse[places.clone()], codes.fine.get(places).unwrap_or_default());
        let (sum, factor) = self.coordinates(coarse, fine, &mut query.codes);
        query.surplus = self.planes.surplus(sum);
        query.scale = factor * self.scale;
        query.bias = self.bias;
        query.square = f32::INFINITY;
    }

    /// Replaces the guide keys of these rows by those of both halves of their codes; there must be such.
    pub fn fine_keys(&self, kernels: &Kernels, codes: &GuideCodes, rows: &mut [(f32, u32)], query: &GuideQuery) {
        let lines = self.lines;
        for rows in rows.chunks_mut(8) {
            let list = std::array::from_fn(|i| rows[i.min(rows.len() - 1)].1);
            let dots = [&codes.coarse, &codes.fine].map(|codes| (kernels.dot_planes)(codes, lines, list, &query.codes));
            for (i, (key, row)) in rows.iter_mut().enumerate() {
                let both = [factors(&codes.coarse, lines, *row), factors(&codes.fine, lines, *row)];
                *key = query.fine_key([dots[0][i], dots[1][i]], both[0], both[1]);
            }
        }
    }

    /// The squared norm of the row of this code: what the directions keep of it, and all of it.
    pub fn kept(&self, codes: &GuideCodes, row: usize, scratch: &mut GuideQuery) -> (f64, f64) {
        self.row_as_query(codes, row, scratch);
        let steps: i64 = scratch.codes.iter().flat_map(|line| line.0).map(|c| i64::from(c as i8).pow(2)).sum();
        let factor = f64::from(scratch.scale) / f64::from(self.scale);
        let bias = f64::from(factors(&codes.coarse, self.lines, row as u32) >> 16);
        (factor * factor * steps as f64, 2.0 * bias * f64::from(self.bias))
    }

    /// Codes a query of norm `norm`. For cosine and l2 the key grows with the Euclidean distance in the frame (of the
    /// normalised query, for the cosine); for the dot product with minus the product.
    pub fn encode_query(&self, kernels: &Kernels, metric: Metric, query: &[f32], norm: f64, into: &mut GuideScratch) {
        let (square, largest) = self.frame.place_wide(kernels, query, norm, &mut into.place);
        into.point.clear();
        into.point.extend(into.place.iter().map(|x| *x as f32));
        into.high.resize(self.projection.lines(), Line([0; LINE]));
        let (rounded, _) = (kernels.code8)(&into.point, &mut into.high);
        let far = largest > 1e12;
        let (high, unit) = (std::mem::take(&mut into.high), if far { 1.0 } else { rounded / 127.0 });
        self.encode_place(kernels, &high, unit, into);
        into.high = high;
        // Keys of a query very far away would leave the range of float32; there the direction alone matters.
        into.query.bias = if metric == Metric::Dot || far { 0.0 } else { self.bias };
        into.query.square = if into.query.bias == 0.0 { f32::INFINITY } else { square as f32 };
    }

    /// Codes the query that stands at these signed codes in the frame, in units of `unit`.
    pub(crate) fn encode_place(&self, kernels: &Kernels, codes: &[Line], unit: f32, into: &mut GuideScratch) {
        into.dots.resize(self.projection.outputs, 0);
        (kernels.scan)(&self.projection.codes, codes, &mut into.dots);
        into.point.clear();
        into.point.extend(into.dots.iter().zip(&self.projection.scales).map(|(dot, scale)| *dot as f32 * scale));
        lay_out(self.lines, self.planes, &mut into.point);
        into.query.set(kernels, self.planes, &into.point, self.scale * unit);
        if let Some(rest) = &self.rest {
            into.rest.set(rest, codes, unit);
        }
    }
}

/// Room to code a query in; the outcome is in `query`.
#[derive(Clone, Debug, Default)]
pub struct GuideScratch {
    place: Vec<f64>,
    point: Vec<f32>,
    high: Vec<Line>,
    dots: Vec<i32>,
    /// The query.
    pub query: GuideQuery,
    /// The query for what is left of long rows.
    pub rest: RestQuery,
}

impl Default for GuideQuery {
    fn default() -> Self {
        Self { codes: Vec::new(), surplus: 0, scale: 0.0, bias: 0.0, square: f32::INFINITY }
    }
}

/// The bits of a float32 as an unsigned number of the same order.
pub fn ordered(value: f32) -> u32 {
    let bits = value.to_bits();
    bits ^ (((bits as i32) >> 31) as u32 | 0x8000_0000)
}

/// The float32 that `ordered` made this number from.
pub fn unordered(bits: u32) -> f32 {
    f32::from_bits(bits ^ ((((!bits) as i32) >> 31) as u32 | 0x8000_0000))
}
