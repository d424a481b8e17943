//! Codes of what guide codes leave of long rows: 4 bits for each coordinate of the frame.
//!
//! A guide code says where a row stands along some directions, about ô. What is left of the row, o - ô, is a small part
//! of it, so 4 bits a coordinate tell it as well as 7 would tell the row, in half the cache lines. With a factor
//! r = |o - ô|² / <o - ô, 2 c - 15> as guide codes have (RaBitQ), <o - ô, q> is about r <2 c - 15, q>, and minus that is
//! what a guide key lacks. The query is the 8-bit code that its guide code is made from; nothing is projected again.
//!
//! Codes lie in two planes as in guide codes of 4 bits: byte b of line l has coordinates 128 l + b and 128 l + 64 + b. In
//! the last line two bytes hold the factor, and the four coordinates that belong there are left out.

use crate::guide::{Guide, STEP, factors, place};
use crate::project::rounded;
use crate::{GROUP, Kernels, LINE, Line};

/// Numbers in a row from which on such codes are kept: a vector in full takes eight times their lines, 24 and more.
const LONG: usize = 384;

/// Bytes of a row's factor.
const FACTOR: usize = 2;

/// Coder of what is left of rows.
#[derive(Clone, Debug)]
pub struct Rest {
    /// Lines a row takes.
    pub lines: usize,
    /// What the stored factor of a row is multiplied by.
    pub scale: f32,
    /// How far a key may usually be off, in the units of [`Guide::errors`].
    pub error: f32,
    /// How a guide code stands along each coordinate of the frame: `turn_scales[j]` times the codes of row j.
    turns: Vec<Line>,
    turn_scales: Vec<f32>,
}

/// Scratch space for coding rows.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    packed: Vec<Line>,
    group: Vec<Line>,
    dots: Vec<i32>,
}

impl Rest {
    /// Whether rows of this dimension have such codes.
    pub fn pays(dimension: usize) -> bool {
        dimension >= LONG
    }

    /// Lines that a row of this dimension takes.
    pub fn lines(dimension: usize) -> usize {
        dimension.div_ceil(2 * LINE)
    }

    /// A coder beside `guide` of rows at the most `norm` long, whose error is not known.
    pub fn new(guide: &Guide, norm: f32) -> Self {
        let step = norm / (guide.projection.inputs as f32).sqrt() * STEP;
        Self::of(guide, (step * 2.0 / 65_535.0).max(f32::MIN_POSITIVE), 0.0)
    }

    /// A coder of which these are known.
    pub fn of(guide: &Guide, scale: f32, error: f32) -> Self {
        let projection = &guide.projection;
        let (dimension, long) = (projection.inputs, projection.lines());
        let each = guide.planes.count() * guide.lines;
        let (mut turns, mut turn_scales) = (vec![Line::ZERO; dimension * each], vec![0.0; dimension]);
        let mut along = vec![0.0f32; projection.outputs];
        for (d, scale) in turn_scales.iter_mut().enumerate() {
            for (j, along) in along.iter_mut().enumerate() {
                let code = projection.codes[j * long + d / LINE].0[d % LINE];
                *along = (f32::from(code) - 128.0) * projection.scales[j];
            }
            let largest = along.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            *scale = largest / 127.0;
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (j, along) in along.iter().enumerate() {
                let (line, plane, byte) = place(guide.lines, guide.planes, j);
                let line = d * each + guide.planes.count() * line + plane;
                turns[line].0[byte] = (rounded(along * inverse) + 128.0) as u8;
            }
        }
        Self { lines: Self::lines(dimension), scale, error, turns, turn_scales }
    }

    /// Codes up to [`GROUP`] rows: `rows` are their 8-bit codes, with 128 added and of these scales, `coordinates` the signed
    /// coordinates of their guide codes and their factors.
    pub(crate) fn encode(
        &self,
        kernels: &Kernels,
        rows: (&[Line], impl Fn(usize) -> f32),
        coordinates: &[(Vec<Line>, f32)],
        into: &mut [Line],
        scratch: &mut Scratch,
    ) {
        let dimension = self.turn_scales.len();
        let (each, padded) = (self.turns.len() / dimension, dimension.next_multiple_of(32));
        if scratch.packed.is_empty() {
            scratch.packed.resize(padded * each * kernels.code_bytes, Line::ZERO);
            (kernels.pack_rows)(&self.turns, each, &mut scratch.packed);
            scratch.dots.resize(GROUP * padded, 0);
        }
        let codes: Vec<&[Line]> = coordinates.iter().map(|(codes, _)| &codes[..]).collect();
        (kernels.pack_queries)(&codes, &mut scratch.group);
        (kernels.tile)(&scratch.packed, &scratch.group, each, codes.len(), &mut scratch.dots, padded);
        let long = dimension.div_ceil(LINE);
        let mut left = vec![0.0f32; dimension];
        for (i, (into, (_, factor))) in into.chunks_mut(self.lines).zip(coordinates).enumerate() {
            let (row, scale, dots) = (&rows.0[i * long..(i + 1) * long], rows.1(i), &scratch.dots[i * padded..]);
            let codes = row.iter().flat_map(|line| line.0);
            for (((left, code), dot), turn) in left.iter_mut().zip(codes).zip(dots).zip(&self.turn_scales) {
                *left = scale * (f32::from(code) - 128.0) - factor * turn * *dot as f32;
            }
            self.encode_row(&left, into);
        }
    }

    fn encode_row(&self, left: &[f32], into: &mut [Line]) {
        let square: f32 = left.iter().map(|x| x * x).sum();
        let spread = (square / left.len() as f32).sqrt();
        let inverse = if spread.is_normal() { 1.0 / (STEP * spread) } else { 0.0 };
        into.fill(Line([0; LINE]));
        let (mut along, mut coded) = (0.0, 0.0);
        for (j, x) in left.iter().enumerate() {
            let (line, byte) = (j / (2 * LINE), j % LINE);
            if line + 1 == self.lines && byte >= LINE - FACTOR {
                continue; // the factor's place
            }
            let code = rounded((x * inverse + 7.5).clamp(0.0, 15.0)) as u8;
            along += x * (2.0 * f32::from(code) - 15.0);
            coded += x * x;
            into[line].0[byte] |= code << (4 * (j / LINE % 2));
        }
        let factor = if along > 0.0 { coded / along } else { 0.0 };
        let stored = rounded((factor / self.scale).clamp(0.0, 65_535.0)) as u16;
        into[self.lines - 1].0[LINE - FACTOR..].copy_from_slice(&stored.to_le_bytes());
    }
}

/// A query, ready to be compared with what is left of rows.
#[derive(Clone, Debug, Default)]
pub struct RestQuery {
    codes: Vec<Line>,
    surplus: i32,
    scale: f32,
}

impl RestQuery {
    /// The query of these signed 8-bit codes in the frame, in units of `unit`.
    pub(crate) fn set(&mut self, rest: &Rest, codes: &[Line], unit: f32) {
        self.codes.clear();
        self.codes.extend_from_slice(codes);
        self.codes.resize(2 * rest.lines, Line([0; LINE]));
        for line in &mut self.codes[2 * rest.lines - 2..] {
            line.0[LINE - FACTOR..].fill(0);
        }
        let sum = self.codes.iter().flat_map(|line| line.0).map(|code| i32::from(code as i8)).sum::<i32>();
        (self.surplus, self.scale) = (15 * sum, unit * rest.scale);
    }

    /// Adds to guide keys what they lack.
    pub fn sharpen(&self, kernels: &Kernels, rest: &Rest, codes: &[Line], keyed: &mut [(f32, u32)]) {
        for keyed in keyed.chunks_mut(8) {
            let list = std::array::from_fn(|i| keyed[i.min(keyed.len() - 1)].1);
            let dots = (kernels.dot_planes)(codes, rest.lines, list, &self.codes);
            for ((key, row), dot) in keyed.iter_mut().zip(dots) {
                let factor = (factors(codes, rest.lines, *row) >> 16) as f32;
                *key -= (2 * dot - self.surplus) as f32 * factor * self.scale;
            }
        }
    }
}
