//! How far guide keys may be off: measured on some rows as queries about those near them.
//!
//! A key misses what lies outside the directions and what codes round, and no spectrum tells how much of that lies where
//! queries do: so keys are compared with those by 8-bit codes, which are off by a tenth as much.

use crate::guide::{Guide, GuideScratch, Planes, Source, factors};
use crate::{Kernels, Line};

/// Rows coded, those of them that are queries, and the nearest rows that a query is compared with.
const ROWS: usize = 1024;
const QUERIES: usize = 64;
const NEAR: usize = 32;

/// Rows whose squared distance is less than this share of the query's squared norm say nothing, since 8-bit codes do not
/// tell them apart; nor do queries whose squared norm is less than this share of the mean, where rounding is all there is.
const APART: f32 = 0.01;

// Usual errors are multiplied by how much is let through to the next look: more where that is cheap. All were found by
// time at equal recall, on vectors of 128 to 768 numbers.

/// To the lower halves of codes; and to vectors by all that is known of them, since that is off by so little.
const CHEAP: f32 = 2.9;
/// To so many lines of what codes leave, by the root of that.
const LINES: f32 = 4.2;
/// To vectors by guide codes alone.
const DEAR: f32 = 1.6;

/// The guide with its errors measured on the first of these rows, given by their 8-bit codes and sources.
pub(crate) fn measured(kernels: &Kernels, mut guide: Guide, codes: &[Line], sources: &[Source]) -> Guide {
    let [coarse, whole, last] = usual(kernels, &guide, codes, sources);
    let closer = guide.rest.as_ref().map_or(DEAR, |rest| LINES / (rest.lines as f32).sqrt());
    guide.errors = [coarse * if guide.planes == Planes::Four { CHEAP } else { closer }, whole * closer];
    if let Some(rest) = &mut guide.rest {
        rest.error = last * CHEAP;
    }
    guide
}

/// Usual errors of keys by what walks read, by whole codes, and by what these leave as well, in the units of
/// [`Guide::errors`].
fn usual(kernels: &Kernels, guide: &Guide, codes: &[Line], sources: &[Source]) -> [f32; 3] {
    let long = guide.projection.lines();
    let rows = ROWS.min(codes.len() / long);
    let (codes, sources) = (&codes[..rows * long], &sources[..rows]);
    let mut coded = guide.room(rows);
    guide.encode(kernels, codes, sources, coded.arrays_mut().map(|lines| &mut lines[..]));
    let (mut scratch, mut sums, mut pairs) = (GuideScratch::default(), [0.0f64; 3], 0usize);
    let mean = sources.iter().map(|source| source.bias).sum::<f32>() / rows.max(1) as f32;
    let asked = codes.chunks(long).zip(sources).filter(|(_, source)| source.bias > APART * mean);
    for (place, source) in asked.take(QUERIES) {
        let place: Vec<Line> = place.iter().map(|line| Line(line.0.map(|code| code ^ 128))).collect();
        guide.encode_place(kernels, &place, source.scale, &mut scratch);
        scratch.query.bias = guide.bias;
        // Half the squared norm of the query, which keys leave out, and right keys of the rows near it.
        let half = source.bias;
        let right = |row: usize| {
            let dot = (kernels.dot_codes)(&codes[row * long..(row + 1) * long], &place) as f32;
            (sources[row].bias - dot * source.scale * sources[row].scale, row as u32)
        };
        let mut near: Vec<(f32, u32)> = (0..rows).map(right).filter(|(key, _)| key + half > APART * half).collect();
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        near.truncate(NEAR);
        pairs += near.len();
        let off = |keyed: &[(f32, u32)]| {
            let of = |((key, _), (right, _)): (&(f32, u32), &(f32, u32))| {
                f64::from((key - right).powi(2) / (4.0 * half * (right + half)))
            };
            keyed.iter().zip(&near).map(of).sum::<f64>()
        };
        let mut keyed = near.clone();
        for keyed in keyed.chunks_mut(8) {
            let list = std::array::from_fn(|i| keyed[i.min(keyed.len() - 1)].1);
            let dots = (kernels.dot_planes)(&coded.coarse, guide.lines, list, &scratch.query.codes);
            for ((key, row), dot) in keyed.iter_mut().zip(dots) {
                *key = scratch.query.key(dot, factors(&coded.coarse, guide.lines, *row));
            }
        }
        sums[0] += off(&keyed);
        if guide.planes == Planes::Four {
            guide.fine_keys(kernels, &coded, &mut keyed, &scratch.query);
        }
        sums[1] += off(&keyed);
        if let Some(rest) = &guide.rest {
            scratch.rest.sharpen(kernels, rest, &coded.rest, &mut keyed);
        }
        sums[2] += off(&keyed);
    }
    sums.map(|sum| (sum / pairs.max(1) as f64).sqrt() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Random;
    use crate::quantize::Frame;
    use crate::{LINE, Metric, kernels, reference};

    /// Rows of this spread along each axis as 8-bit codes, and what guide codes are made from.
    fn coded(count: usize, dimension: usize, spread: fn(f32) -> f32) -> (Vec<Line>, Vec<Source>) {
        let (mut random, long) = (Random::new(8), dimension.div_ceil(LINE));
        let (mut codes, mut sources) = (vec![Line::ZERO; count * long], Vec::new());
        for codes in codes.chunks_mut(long) {
            let row: Vec<f32> = (0..dimension).map(|j| random.normal() * spread(1.0 + j as f32)).collect();
            let scale = row.iter().fold(0.0f32, |a, x| a.max(x.abs())) / 127.0;
            let mut square = 0.0;
            for (j, x) in row.iter().enumerate() {
                let code = (x / scale).round();
                codes[j / LINE].0[j % LINE] = (code + 128.0) as u8;
                square += (scale * code).powi(2);
            }
            sources.push(Source { scale, bias: square / 2.0 });
        }
        (codes, sources)
    }

    #[test]
    fn keys_are_not_said_to_be_nearer_the_truth_than_they_are() {
        // Some directions are left out, none is, or what is left of rows has codes of its own.
        let spreads: [fn(f32) -> f32; 2] = [|_| 1.0, |axis| 1.0 / axis.sqrt()];
        let shapes = [(60usize, 1), (160, 1), (200, 1), (240, 1), (496, 2), (600, 2)];
        let all = shapes.into_iter().flat_map(|shape| [Planes::Two, Planes::Four].map(|planes| (shape, planes)));
        for (((dimension, lines), planes), spread) in all.flat_map(|shape| spreads.map(|spread| (shape, spread))) {
            let (count, kernels, long) = (400, kernels(), dimension.div_ceil(LINE));
            let (codes, sources) = coded(count, dimension, spread);
            let frame = Frame::from_parts(Metric::L2, vec![0.0; dimension], 1.0);
            let guide = Guide::train(kernels, &frame, dimension, (lines, planes), &codes, &sources);
            let mut rows = guide.room(count);
            guide.encode(kernels, &codes, &sources, rows.arrays_mut().map(|lines| &mut lines[..]));
            let value = |i: usize, j: usize| {
                f64::from(sources[i].scale) * (f64::from(codes[i * long + j / LINE].0[j % LINE]) - 128.0)
            };
            let (mut scratch, mut off) = (GuideScratch::default(), [0.0; 3]);
            for q in count - 10..count {
                let query: Vec<f32> = (0..dimension).map(|j| value(q, j) as f32).collect();
                guide.encode_query(kernels, Metric::L2, &query, 0.0, &mut scratch);
                let distance = |i: usize| (0..dimension).map(|j| (value(i, j) - value(q, j)).powi(2)).sum::<f64>();
                let mut near: Vec<(f64, u32)> =
                    (0..count).filter(|i| *i != q).map(|i| (distance(i), i as u32)).collect();
                near.sort_by(|a, b| a.0.total_cmp(&b.0));
                near.truncate(20);
                let square = 2.0 * f64::from(sources[q].bias);
                let key = |&(_, i): &(f64, u32)| {
                    let row = &rows.coarse[i as usize * lines..][..lines];
                    let bytes: Vec<u8> = row.iter().flat_map(|line| line.0).collect();
                    (reference::guide_key(&bytes, &scratch.query), i)
                };
                let mut keyed: Vec<(f32, u32)> = near.iter().map(key).collect();
                let add = |keyed: &[(f32, u32)], off: &mut f64| {
                    for ((key, _), (distance, _)) in keyed.iter().zip(&near) {
                        *off += (f64::from(*key) - (distance - square) / 2.0).powi(2) / (distance * square) / 200.0;
                    }
                };
                add(&keyed, &mut off[0]);
                if planes == Planes::Four {
                    guide.fine_keys(kernels, &rows, &mut keyed, &scratch.query);
                }
                add(&keyed, &mut off[1]);
                if let Some(rest) = &guide.rest {
                    scratch.rest.sharpen(kernels, rest, &rows.rest, &mut keyed);
                }
                add(&keyed, &mut off[2]);
            }
            let said =
                [guide.errors[0], guide.errors[1], guide.rest.as_ref().map_or(guide.errors[1], |rest| rest.error)];
            for (off, said) in off.into_iter().zip(said) {
                let ratio = off.sqrt() as f32 / said;
                assert!((0.25..0.85).contains(&ratio), "{dimension} {planes:?} {said} {ratio}");
            }
        }
    }

    #[test]
    fn rows_in_the_middle_of_all_do_not_make_every_key_doubtful() {
        let dimension = 200;
        let (mut codes, mut sources) = coded(400, dimension, |_| 1.0);
        let errors = |codes: &[Line], sources: &[Source]| {
            let frame = Frame::from_parts(Metric::L2, vec![0.0; dimension], 1.0);
            Guide::train(kernels(), &frame, dimension, (1, Planes::Four), codes, sources).errors
        };
        let usual = errors(&codes, &sources);
        codes[..dimension.div_ceil(LINE)].fill(Line::ZERO);
        sources[0].bias = 0.0;
        sources[1] = Source { scale: 1e-6 * sources[1].scale, bias: 1e-12 * sources[1].bias };
        for (with, usual) in errors(&codes, &sources).into_iter().zip(usual) {
            assert!((0.9..1.1).contains(&(with / usual)), "{with} {usual}");
        }
    }
}
