//! 8-bit codes of vectors, and the interval that provably holds a row's score.
//!
//! A [`Frame`] moves every row to the origin and to unit scale, o = sigma (x - centre); for the cosine x is
//! normalised first. A row is coded as `scale * code + r`, with `code` in [-127, 127] and `scale` fitted so that r is
//! orthogonal to the code. A query u is coded twice: `step * (high + low / 256) + e`. A scan uses `high` alone, a
//! second look adds `low`. By Cauchy and Schwarz
//!
//! ```text
//! |<o, u> - <scale code, step high>|  <=  |r| |u|  +  |scale code| |u - step high|
//! ```
//!
//! so the *key* of a row, (<o, u> + bias) / unit, lies in an interval whose ends are known from the codes and a few
//! floats a row. The key grows with the rank ([`crate::Metric::rank`]): rank = offset + gain * key. For l2,
//! bias = -|o|² / 2, since |x - q|² = |o|² - 2 <o, u> + |u|² in the frame. Float32 rounding in the key is paid for by
//! inflating |r|, |scale code|, the bias and the weights; see `INFLATE`.

use crate::{BLOCK, Factors, Kernels, LINE, Line, Metric, Weights, kernels};

/// Relative inflation of stored bounds: 16 units in the last place of float32, more than the handful of roundings.
const INFLATE: f64 = 1.0 / 1_048_576.0;

/// Slack in keys for what lies beneath the range of float32; rows are at unit scale.
const BENEATH: f64 = 1e-28;

/// Rows larger than this (at unit scale) are not coded: every query reads them in full.
const LARGEST: f64 = 1e15;

/// Lines that a row of `dimension` codes takes.
pub fn lines(dimension: usize) -> usize {
    dimension.div_ceil(LINE)
}

/// Where the codes stand: the mean of the rows, and the power of two that brings them to unit scale.
#[derive(Clone, Debug)]
pub struct Frame {
    metric: Metric,
    centre: Vec<f32>,
    /// Its norm.
    distance: f64,
    /// As many zeros.
    origin: Vec<f32>,
    sigma: f64,
}

/// A query in a frame: its codes, and the weights that go with them.
#[derive(Clone, Debug)]
pub struct QueryCode {
    /// The code a scan uses.
    pub high: Vec<Line>,
    /// The next eight bits.
    pub low: Vec<Line>,
    /// Weights for the dot product with `high`.
    pub coarse: Weights,
    /// Weights for 256 * (dot with `high`) + (dot with `low`).
    fine: Weights,
    /// Norm of the query over the unit of its keys.
    length: f64,
    offset: f64,
    gain: f64,
    slack: f64,
}

impl Frame {
    /// The frame of no rows: the identity.
    pub fn identity(metric: Metric, dimension: usize) -> Self {
        Self::from_parts(metric, vec![0.0; dimension], 1.0)
    }

    /// The frame of `rows`, row-major; `norms` are theirs (cosine). At most 65,536 rows, evenly spread, are looked at.
    pub fn train(metric: Metric, dimension: usize, rows: &[f32], norms: &[f64]) -> Self {
        let row = |i| &rows[i * dimension..(i + 1) * dimension];
        Self::train_on(metric, dimension, rows.len() / dimension, row, norms)
    }

    /// As `train`, of `count` rows wherever they are.
    pub fn train_on<'a>(
        metric: Metric,
        dimension: usize,
        count: usize,
        row: impl Fn(usize) -> &'a [f32],
        norms: &[f64],
    ) -> Self {
        let every = count.div_ceil(65_536).max(1);
        let sample = || (0..count).step_by(every).map(|i| (row(i), i));
        let mut frame = Self::identity(metric, dimension);
        let mut sum = vec![0.0f64; dimension];
        for (row, i) in sample() {
            let factor = frame.normaliser(norms.get(i).copied());
            for (total, &x) in sum.iter_mut().zip(row) {
                *total += f64::from(x) * factor;
            }
        }
        let used = sample().count().max(1) as f64;
        frame = Self::from_parts(metric, sum.iter().map(|&total| (total / used) as f32).collect(), 1.0);
        let mut moved = vec![0.0; dimension.next_multiple_of(LINE)];
        let squares = sample().map(|(row, i)| {
            (kernels().place)(row, &frame.centre, frame.normaliser(norms.get(i).copied()), 1.0, &mut moved).0
        });
        let largest = squares.fold(0.0, f64::max).sqrt();
        if largest > 0.0 {
            frame.sigma = (-largest.log2().ceil()).exp2();
        }
        frame
    }

    /// Whether the rows of another frame are coded nearly as well in this one: their scale is the next one at most, and
    /// their mean has moved by no more than a sixteenth of the largest distance from it.
    pub fn suits(&self, other: &Frame) -> bool {
        let moved = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).powi(2);
        let square: f64 = self.centre.iter().zip(&other.centre).map(moved).sum();
        (0.5..=2.0).contains(&(self.sigma / other.sigma)) && square.sqrt() * self.sigma.max(other.sigma) <= 1.0 / 16.0
    }

    /// What a row is multiplied by before it is moved: 1 / norm for the cosine (0 for a zero row), else 1.
    fn normaliser(&self, norm: Option<f64>) -> f64 {
        match (self.metric, norm) {
            (Metric::Cosine, Some(norm)) if norm > 0.0 => 1.0 / norm,
            (Metric::Cosine, _) => 0.0,
            _ => 1.0,
        }
    }

    /// A frame from its parts.
    pub fn from_parts(metric: Metric, centre: Vec<f32>, sigma: f64) -> Self {
        let distance = squares(&centre.iter().map(|&c| f64::from(c)).collect::<Vec<_>>()).sqrt();
        let origin = vec![0.0; centre.len()];
        Self { metric, centre, distance, origin, sigma }
    }

    /// The mean of the rows.
    pub fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// What brings the rows to unit scale: a power of two.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// Appends where a query of norm `norm` stands, see [`Frame::place_wide`].
    pub fn place(&self, query: &[f32], norm: f64, into: &mut Vec<f32>) {
        let mut wide = Vec::new();
        self.place_wide(kernels(), query, norm, &mut wide);
        into.extend(wide[..query.len()].iter().map(|x| *x as f32));
    }

    /// Where a query of norm `norm` stands: with the rows for cosine and l2, its direction for the dot product. `into`
    /// gets zeros up to a whole line; returns the squared norm and the largest absolute value.
    pub fn place_wide(&self, kernels: &Kernels, query: &[f32], norm: f64, into: &mut Vec<f64>) -> (f64, f64) {
        into.clear();
        into.resize(query.len().next_multiple_of(LINE), 0.0);
        if self.metric == Metric::Dot {
            let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            (kernels.place)(query, &self.origin, factor, 1.0, into)
        } else {
            (kernels.place)(query, &self.centre, self.normaliser(Some(norm)), self.sigma, into)
        }
    }

    /// Codes one row into `codes` and into place `lane` of `factors`. `moved` is scratch space, of one frame.
    pub fn encode(
        &self,
        row: &[f32],
        norm: Option<f64>,
        moved: &mut Vec<f64>,
        codes: &mut [Line],
        factors: &mut Factors,
        lane: usize,
    ) {
        let kernels = kernels();
        moved.resize(codes.len() * LINE, 0.0); // what is behind the row stays zero
        let (square, largest) = (kernels.place)(row, &self.centre, self.normaliser(norm), self.sigma, moved);
        if square.is_nan() || square.sqrt() >= LARGEST {
            codes.fill(Line::ZERO);
            (factors.scale[lane], factors.norm[lane], factors.bias[lane]) = (0.0, 0.0, 0.0);
            factors.residual[lane] = f32::INFINITY;
            return;
        }
        let (scale, length, missed) = (kernels.fit)(moved, largest, codes);
        factors.scale[lane] = scale;
        factors.residual[lane] = above(missed.sqrt());
        factors.norm[lane] = above(f64::from(scale).abs() * length.sqrt());
        factors.bias[lane] = match self.metric {
            Metric::L2 => (-square / 2.0 * (1.0 - INFLATE)) as f32,
            _ => 0.0,
        };
    }

    /// Codes a query of norm `norm` (which may be zero).
    pub fn encode_query(&self, query: &[f32], norm: f64) -> QueryCode {
        let kernels = kernels();
        let mut u = vec![0.0; query.len().next_multiple_of(LINE)];
        let ((square, largest), offset, gain, magnitude) = match self.metric {
            Metric::Cosine | Metric::Dot => {
                let inverse = if norm > 0.0 { 1.0 / norm } else { 0.0 };
                let length = if self.metric == Metric::Dot { norm } else { 1.0 };
                let placed = (kernels.place)(query, &self.origin, inverse, 1.0, &mut u);
                let offset = (kernels.dot_exact)(query, &self.centre) * inverse * length;
                (placed, offset, length / self.sigma, (self.distance + 1.0) * length)
            }
            Metric::L2 => {
                let placed = (kernels.place)(query, &self.centre, 1.0, self.sigma, &mut u);
                let square = placed.0 / (self.sigma * self.sigma);
                (placed, -square, 2.0 / (self.sigma * self.sigma), square)
            }
        };
        // Queries far away are brought to unit length, or their keys would leave the range of float32.
        let mut length = square.sqrt();
        let unit = if self.metric == Metric::L2 { length.max(1.0) } else { 1.0 };
        if unit > 1.0 {
            u.iter_mut().for_each(|x| *x /= unit);
            length = squares(&u).sqrt();
        }
        QueryCode::new(kernels, &u, (length, largest / unit), (unit, offset, gain * unit, magnitude))
    }
}

impl QueryCode {
    fn new(
        kernels: &Kernels,
        u: &[f64],
        (length, largest): (f64, f64),
        (unit, offset, gain, magnitude): (f64, f64, f64, f64),
    ) -> Self {
        // 16 bits: 256 * high + low, with both in the range of int8.
        let step = (largest / 32_512.0) as f32;
        let blank = vec![Line([0; LINE]); lines(u.len())];
        let mut code = Self { high: blank.clone(), low: blank, ..Self::empty() };
        let (coarse, fine) = (kernels.code16)(u, f64::from(step), &mut code.high, &mut code.low);
        // The offset and the rank are rounded to float64, so rows whose keys differ by less may tie: this much, in ranks.
        code.slack = 1e-13 * magnitude;
        code.offset = offset;
        code.gain = gain;
        code.length = length;
        let rounding = INFLATE * length;
        let ties = if gain > 0.0 { code.slack / gain } else { 0.0 };
        let weights = |scale: f32, missed: f64| Weights {
            scale,
            residual: above(length).max(1e-30),
            norm: above(missed.sqrt() + rounding),
            bias: ((1.0 / unit) as f32).max(1e-30),
            constant: above(BENEATH + ties),
        };
        code.coarse = weights(step * 256.0, coarse);
        code.fine = weights(step, fine);
        code
    }

    fn empty() -> Self {
        let weights = Weights::default();
        let (length, offset, gain, slack) = (0.0, 0.0, 0.0, 0.0);
        Self { high: Vec::new(), low: Vec::new(), coarse: weights, fine: weights, length, offset, gain, slack }
    }

    /// The interval of the key of a row, from its dot product with `high`.
    pub fn interval(&self, dot: i32, factors: &Factors, lane: usize) -> (f32, f32) {
        let half = f64::from(factors.residual[lane]) * f64::from(self.coarse.residual);
        self.ends(f64::from(dot) * f64::from(self.coarse.scale), half, &self.coarse, factors, lane)
    }

    /// The tighter interval, from the dot products with `high` and `low`. The residual is orthogonal to the row's
    /// code, so only the part of the query orthogonal to it meets the residual.
    pub fn fine_interval(&self, high: i32, low: i32, factors: &Factors, lane: usize) -> (f32, f32) {
        let dot = (256 * i64::from(high) + i64::from(low)) as f64 * f64::from(self.fine.scale);
        let norm = f64::from(factors.norm[lane]);
        let along = if norm > 0.0 { (dot * f64::from(factors.scale[lane]) / norm).abs() } else { 0.0 };
        let along = (along - f64::from(self.fine.norm) - INFLATE * self.length).max(0.0);
        let across = (self.length * self.length - along * along).max(0.0).sqrt() + INFLATE * self.length + 1e-30;
        let half = f64::from(factors.residual[lane]) * across;
        self.ends(dot, half, &self.fine, factors, lane)
    }

    fn ends(&self, dot: f64, half: f64, weights: &Weights, factors: &Factors, lane: usize) -> (f32, f32) {
        let bias = f64::from(factors.bias[lane]) * f64::from(weights.bias);
        let middle = dot * f64::from(factors.scale[lane]) + bias;
        let half = half + f64::from(factors.norm[lane]) * f64::from(weights.norm) + f64::from(weights.constant);
        // The bias was inflated upwards only, so the lower end gives twice as much back.
        let (low, high) = (middle - half + 2.0 * INFLATE * bias, middle + half);
        ((low - INFLATE * low.abs()) as f32, (high + INFLATE * high.abs()) as f32)
    }

    /// The highest rank that a row with this upper end of its key can have.
    pub fn highest_rank(&self, upper: f32) -> f64 {
        self.offset + self.gain * f64::from(upper) + self.slack
    }

    /// The lowest rank that a row with this lower end of its key can have.
    pub fn lowest_rank(&self, lower: f32) -> f64 {
        self.offset + self.gain * f64::from(lower) - self.slack
    }
}

/// Sum of squares, in four sums that do not wait for each other.
fn squares(values: &[f64]) -> f64 {
    let (mut sums, fours) = ([0.0; 4], values.chunks_exact(4));
    let rest: f64 = fours.remainder().iter().map(|x| x * x).sum();
    for four in fours {
        for i in 0..4 {
            sums[i] += four[i] * four[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// The next float32 not below `x`, with room for a few roundings.
fn above(x: f64) -> f32 {
    let rounded = (x * (1.0 + INFLATE)) as f32;
    if x > 0.0 { rounded.max(f32::MIN_POSITIVE) } else { rounded }
}

/// Factors for `rows` rows, none of them there yet. An even number of blocks, as the tile kernel wants it.
pub fn absent(rows: usize) -> Vec<Factors> {
    vec![Factors::ABSENT; rows.div_ceil(2 * BLOCK) * 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_suits_rows_of_its_scale_about_its_mean() {
        let rows: Vec<f32> = (0..400).map(|i| ((i * 37 % 101) as f32 - 50.0) / 60.0).collect();
        let moved = |by: f32, scale: f32| rows.iter().map(|x| (x + by) * scale).collect::<Vec<_>>();
        let frame = Frame::train(Metric::L2, 4, &rows, &[]);
        for (by, scale, suits) in [(0.0, 1.0, true), (0.01, 1.0, true), (0.5, 1.0, false), (0.0, 8.0, false)] {
            assert_eq!(frame.suits(&Frame::train(Metric::L2, 4, &moved(by, scale), &[])), suits, "{by} {scale}");
        }
    }
}
