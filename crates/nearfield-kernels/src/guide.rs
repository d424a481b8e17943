//! Guide codes: 4 bits for each of the leading directions of a [`Projection`], small enough to steer a walk through a
//! graph by one or two cache lines a row.
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
//! Byte b of a line holds the codes of places b (low half) and b + 64 (high half), so that a query meets them after
//! one AND and one shift. The last four bytes of a row are its factors, two unsigned numbers of 16 bits; the query
//! is zero where they stand.

use crate::project::{Projection, rounded};
use crate::quantize::Frame;
use crate::{GROUP, Kernels, LINE, Line, Metric};

/// Step of the code in units of the spread of the coordinates: about the best for 16 levels of a normal variable
/// (Max, "Quantizing for Minimum Distortion", 1960).
const STEP: f32 = 0.335;

/// Directions that fit into so many lines, beside the factors.
pub const fn directions(lines: usize) -> usize {
    lines * 2 * LINE - 8
}

/// Coder of rows and queries.
#[derive(Clone, Debug)]
pub struct Guide {
    /// Lines a row takes.
    pub lines: usize,
    /// Where rows stand before they are projected.
    pub frame: Frame,
    /// The directions.
    pub projection: Projection,
    /// What the stored factor of a row is multiplied by.
    pub scale: f32,
    /// What the stored bias of a row is multiplied by.
    pub bias: f32,
}

/// A query, ready to be compared with guide codes.
#[derive(Clone, Debug)]
pub struct GuideQuery {
    /// Signed codes; for every line of a row one for its low halves and one for its high halves.
    pub codes: Vec<Line>,
    /// 15 times the sum of the codes.
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

/// Where direction j stands: line, byte, and whether in the high half.
fn place(lines: usize, j: usize) -> (usize, usize, bool) {
    let line = j / (2 * LINE);
    let (bytes, inside) = (if line + 1 == lines { LINE - 4 } else { LINE }, j % (2 * LINE));
    (line, inside % bytes, inside >= bytes)
}

impl GuideQuery {
    /// The guide key of a row, from the sum of its products and its two stored factors.
    #[inline(always)]
    pub fn key(&self, dot: i32, factors: u32) -> f32 {
        let (factor, offset) = ((factors & 0xFFFF) as f32, (factors >> 16) as f32);
        offset * self.bias - (2 * dot - self.surplus) as f32 * factor * self.scale
    }

    /// The query whose coordinates, in units of `unit`, stand in `y` as rows have them: see [`lay_out`].
    fn set(&mut self, kernels: &Kernels, y: &[f32], unit: f32) {
        self.codes.resize(y.len() / LINE, Line([0; LINE]));
        let (largest, sum) = (kernels.code8)(y, &mut self.codes);
        self.surplus = 15 * sum;
        self.scale = unit * largest / 127.0;
    }
}

/// Moves projected coordinates to where the codes of rows have them: by turns a line of low halves and one of high
/// halves, the last two of which leave room for the factors.
fn lay_out(lines: usize, coordinates: &mut Vec<f32>) {
    let last = (2 * lines - 2) * LINE;
    if coordinates.len() > last + LINE - 4 {
        coordinates.splice(last + LINE - 4..last + LINE - 4, [0.0; 4]);
    }
    coordinates.resize(2 * lines * LINE, 0.0);
}

impl Guide {
    /// A coder for rows given by their 8-bit codes (of `frame`) and sources, of the fewest lines that keep enough of the
    /// rows. The codes may be those of the first rows alone, if these are a fair sample.
    ///
    /// The share of squared norms kept tells well how far a walk must go: with 95 % (248 of 384 directions of sentence
    /// embeddings) or more, four bits are as good as all directions; with 75 % a walk takes several times as long.
    pub fn fit(kernels: &Kernels, frame: &Frame, dimension: usize, codes: &[Line], sources: &[Source]) -> Self {
        const ENOUGH: f32 = 0.9;
        const LINES: [usize; 5] = [1, 2, 3, 4, 6];
        let mut widths = LINES.into_iter().skip_while(|lines| 4 * directions(*lines) < dimension);
        let first = widths.next().unwrap_or(LINES[4]);
        let (mut guide, mut kept) = Self::train(kernels, frame, dimension, first, codes, sources);
        for lines in widths {
            if kept >= ENOUGH {
                break;
            }
            (guide, kept) = Self::train(kernels, frame, dimension, lines, codes, sources);
        }
        guide
    }

    /// As `fit`, of so many lines; also returns the share of the rows' squared norms that is kept.
    pub fn train(
        kernels: &Kernels,
        frame: &Frame,
        dimension: usize,
        lines: usize,
        codes: &[Line],
        sources: &[Source],
    ) -> (Self, f32) {
        let count = codes.len() / dimension.div_ceil(LINE);
        let scales: Vec<f32> = sources[..count].iter().map(|source| source.scale).collect();
        let (projection, kept) = Projection::train(kernels, codes, &scales, dimension, directions(lines));
        let largest = |value: fn(&Source) -> f32| sources.iter().map(value).fold(0.0f32, f32::max);
        // f is half a step for an ordinary row; rows that one coordinate carries may need four times as much.
        let norm = (2.0 * largest(|source| source.bias)).sqrt();
        let step = norm / (projection.outputs as f32).sqrt() * STEP;
        let scale = (step * 2.0 / 65_535.0).max(f32::MIN_POSITIVE);
        let bias = (largest(|source| source.bias) / 65_535.0).max(f32::MIN_POSITIVE);
        (Self { lines, frame: frame.clone(), projection, scale, bias }, kept)
    }

    /// Codes rows, given by their 8-bit codes and sources.
    pub fn encode(&self, kernels: &Kernels, rows: &[Line], sources: &[Source], into: &mut [Line]) {
        let (long, outputs) = (self.projection.lines(), self.projection.outputs);
        let padded = outputs.next_multiple_of(32);
        let mut packed = vec![Line::ZERO; padded * long * kernels.code_bytes];
        (kernels.pack_rows)(&self.projection.codes, long, &mut packed);
        let (mut group, mut dots, mut y) = (Vec::new(), vec![0; GROUP * padded], vec![0.0f32; outputs]);
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
                let at = first + q;
                self.encode_row(&y, source, &mut into[at * self.lines..(at + 1) * self.lines]);
            }
        }
    }

    fn encode_row(&self, y: &[f32], source: &Source, into: &mut [Line]) {
        let square: f32 = y.iter().map(|y| y * y).sum();
        let spread = (square / y.len().max(1) as f32).sqrt();
        let inverse = if spread.is_normal() { 1.0 / (STEP * spread) } else { 0.0 };
        into.fill(Line([0; LINE]));
        let mut along = 0.0;
        for (j, y) in y.iter().enumerate() {
            let code = rounded((y * inverse + 7.5).clamp(0.0, 15.0));
            along += y * (2.0 * code - 15.0);
            let (line, byte, high) = place(self.lines, j);
            into[line].0[byte] |= (code as u8) << if high { 4 } else { 0 };
        }
        let factor = if along > 0.0 { square / along } else { 0.0 };
        let stored = |value: f32, unit: f32| rounded((value / unit).clamp(0.0, 65_535.0)) as u16;
        let last = &mut into[self.lines - 1].0;
        last[60..62].copy_from_slice(&stored(factor, self.scale).to_le_bytes());
        last[62..].copy_from_slice(&stored(source.bias, self.bias).to_le_bytes());
    }

    /// The row of this code as a query, by the Euclidean distance in the frame.
    pub fn row_as_query(&self, code: &[Line], query: &mut GuideQuery) {
        query.codes.clear();
        query.codes.resize(2 * self.lines, Line([0; LINE]));
        let mut sum = 0;
        for j in 0..self.projection.outputs {
            let (line, byte, high) = place(self.lines, j);
            let c = i32::from((code[line].0[byte] >> if high { 4 } else { 0 }) & 15);
            query.codes[2 * line + usize::from(high)].0[byte] = (2 * c - 15) as i8 as u8;
            sum += 2 * c - 15;
        }
        let last = &code[self.lines - 1].0;
        let factor = f32::from(u16::from_le_bytes([last[60], last[61]]));
        query.surplus = 15 * sum;
        query.scale = factor * self.scale * self.scale;
        query.bias = self.bias;
        query.square = f32::INFINITY;
    }

    /// Codes a query of norm `norm`. For cosine and l2 the key grows with the Euclidean distance in the frame (of the
    /// normalised query, for the cosine); for the dot product with minus the product.
    pub fn encode_query(&self, kernels: &Kernels, metric: Metric, query: &[f32], norm: f64, into: &mut GuideScratch) {
        let (square, largest) = self.frame.place_wide(kernels, query, norm, &mut into.place);
        into.point.clear();
        into.point.extend(into.place.iter().map(|x| *x as f32));
        into.high.resize(self.projection.lines(), Line([0; LINE]));
        let (rounded, _) = (kernels.code8)(&into.point, &mut into.high);
        into.dots.resize(self.projection.outputs, 0);
        (kernels.scan)(&self.projection.codes, &into.high, &mut into.dots);
        into.point.clear();
        into.point.extend(into.dots.iter().zip(&self.projection.scales).map(|(dot, scale)| *dot as f32 * scale));
        lay_out(self.lines, &mut into.point);
        // Keys of a query very far away would leave the range of float32; there the direction alone matters.
        let far = largest > 1e12;
        into.query.bias = if metric == Metric::Dot || far { 0.0 } else { self.bias };
        into.query.square = if into.query.bias == 0.0 { f32::INFINITY } else { square as f32 };
        into.query.set(kernels, &into.point, self.scale * if far { 1.0 } else { rounded / 127.0 });
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
