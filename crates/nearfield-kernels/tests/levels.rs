//! Every level of kernels against the slow reference: odd sizes, unaligned slices, extreme values.
#![allow(missing_docs)]

use nearfield_kernels::guide::{Guide, GuideQuery, GuideScratch, Planes, Source, ordered};
use nearfield_kernels::quantize::{Frame, absent, lines};
use nearfield_kernels::walk::{Graph, Links, NONE, Reach, Sieve, WIDEST, Walker};
use nearfield_kernels::{
    BLOCK, Dots, Factors, GROUP, Kernels, LINE, Line, Metric, Weights, dispatch, kernels, reference,
};

/// A small generator of repeatable numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    /// Codes: every byte value a kernel may meet, the ends of the range often.
    fn codes(&mut self, count: usize, offset: i32) -> Vec<Line> {
        let mut code = || match self.next() % 4 {
            0 => (127 + offset) as u8,
            1 => (-127 + offset) as u8,
            _ => ((self.next() % 255) as i32 - 127 + offset) as u8,
        };
        (0..count).map(|_| Line(std::array::from_fn(|_| code()))).collect()
    }
}

fn sizes() -> impl Iterator<Item = usize> {
    (1..=130).chain([384, 768, 1536])
}

fn every_level(mut check: impl FnMut(&Kernels)) {
    for kernels in dispatch::available() {
        check(kernels);
    }
}

fn bytes(lines: &[Line]) -> Vec<u8> {
    lines.iter().flat_map(|line| line.0).collect()
}

fn expected(row: &[Line], query: &[Line]) -> i32 {
    let query: Vec<i8> = bytes(query).into_iter().map(|byte| byte as i8).collect();
    reference::dot_codes(&bytes(row), &query)
}

#[test]
fn exact_sums_are_rounded_once_on_every_level() {
    let mut random = Random(1);
    for size in sizes() {
        for spread in [0, 20, 60] {
            // One element more than needed: the slices start off the boundary of their allocation.
            let mut wide = |_| -> Vec<f32> {
                (0..=size).map(|_| random.float() * 2f32.powi((random.next() % (spread + 1)) as i32)).collect()
            };
            let (x, y) = (wide(0), wide(1));
            let (x, y) = (&x[1..], &y[1..]);
            every_level(|kernels| {
                assert_eq!((kernels.dot_exact)(x, y), reference::dot(x, y), "{:?} {size}", kernels.level);
                assert_eq!((kernels.l2_exact)(x, y), reference::l2(x, y), "{:?} {size}", kernels.level);
                assert_eq!((kernels.l2_exact)(x, x), 0.0);
            });
        }
    }
}

#[test]
fn order_of_dimensions_does_not_change_an_exact_sum() {
    let mut random = Random(2);
    let (x, y) = (random.floats(777), random.floats(777));
    let reversed = |v: &[f32]| v.iter().rev().copied().collect::<Vec<_>>();
    every_level(|kernels| {
        assert_eq!((kernels.dot_exact)(&x, &y), (kernels.dot_exact)(&reversed(&x), &reversed(&y)));
        assert_eq!((kernels.l2_exact)(&x, &y), (kernels.l2_exact)(&reversed(&x), &reversed(&y)));
    });
}

#[test]
fn huge_and_tiny_values_neither_overflow_nor_vanish() {
    let (huge, tiny) = (vec![f32::MAX; 130], vec![f32::from_bits(1); 130]);
    every_level(|kernels| {
        assert_eq!((kernels.dot_exact)(&huge, &huge), reference::dot(&huge, &huge));
        assert_eq!((kernels.dot_exact)(&tiny, &tiny), reference::dot(&tiny, &tiny));
        assert!((kernels.dot_exact)(&tiny, &tiny) > 0.0);
    });
}

#[test]
fn code_products_equal_the_reference_on_every_level() {
    let mut random = Random(3);
    for size in sizes() {
        let lines = lines(size);
        for count in [1, 2, 3, 4, 5, 16, 33] {
            let (rows, query) = (random.codes(count * lines, 128), random.codes(lines, 0));
            every_level(|kernels| {
                let mut dots = vec![0; count];
                (kernels.scan)(&rows, &query, &mut dots);
                for (row, dot) in rows.chunks(lines).zip(&dots) {
                    assert_eq!(*dot, expected(row, &query), "{:?}", kernels.level);
                    assert_eq!((kernels.dot_codes)(row, &query), *dot);
                }
                let list: Vec<u32> = (0..2 * count).map(|i| (7 * i % count) as u32).collect();
                let mut listed = vec![0; list.len()];
                (kernels.dot_rows)(&rows, &list, &query, &mut listed);
                assert!(list.iter().zip(listed).all(|(row, dot)| dot == dots[*row as usize]), "{:?}", kernels.level);
            });
        }
    }
}

#[test]
fn largest_dimension_does_not_overflow_a_sum() {
    let lines = lines(65_535);
    let (row, query) = (vec![Line([255; LINE]); lines], vec![Line([127; LINE]); lines]);
    let opposite = vec![Line([(-127i8) as u8; LINE]); lines];
    every_level(|kernels| {
        assert_eq!((kernels.dot_codes)(&row, &query), expected(&row, &query));
        assert_eq!((kernels.dot_codes)(&row, &opposite), expected(&row, &opposite));
    });
}

#[test]
fn tiles_equal_the_reference_for_every_number_of_queries_and_rows() {
    let mut random = Random(4);
    for size in [1, 63, 64, 65, 128, 200, 384] {
        let lines = lines(size);
        for rows in [1, 15, 16, 17, 31, 32, 50, 64] {
            let codes = random.codes(rows * lines, 128);
            for count in 1..=GROUP {
                let queries = random.codes(count * lines, 0);
                let queries: Vec<&[Line]> = queries.chunks(lines).collect();
                every_level(|kernels| {
                    let blocks = rows.div_ceil(2 * BLOCK) * 2;
                    let mut packed_rows = vec![Line::ZERO; blocks * BLOCK * lines * kernels.code_bytes];
                    let mut packed_queries = Vec::new();
                    (kernels.pack_rows)(&codes, lines, &mut packed_rows);
                    (kernels.pack_queries)(&queries, &mut packed_queries);
                    let stride = blocks * BLOCK;
                    let mut dots = vec![0; GROUP * stride];
                    (kernels.tile)(&packed_rows, &packed_queries, lines, count, &mut dots, stride);
                    for (q, query) in queries.iter().enumerate() {
                        for (r, row) in codes.chunks(lines).enumerate() {
                            assert_eq!(dots[q * stride + r], expected(row, query), "{:?} {size}", kernels.level);
                        }
                    }
                });
            }
        }
    }
}

/// Rows of many kinds: scaled, shifted, constant, zero.
fn rows(random: &mut Random, count: usize, dimension: usize) -> Vec<f32> {
    let mut rows = Vec::new();
    for i in 0..count {
        let (scale, shift) = ([1.0, 1e-3, 1e20, 1e-30, 0.0][i % 5], [0.0, 1.0, -3.0][i % 3]);
        rows.extend(random.floats(dimension).into_iter().map(|x| (x + shift) * scale));
    }
    rows
}

/// Rows selected with the last of several weights; the others may only widen the selection.
fn select(kernels: &Kernels, dots: &[i32], factors: &[Factors], weights: &[Weights], bar: f32) -> Vec<u32> {
    let stride = dots.len() + 3;
    let mut values = vec![i32::MIN; stride * (weights.len() - 1)];
    values.extend(dots);
    let mut selected = vec![Vec::new(); weights.len()];
    let dots = Dots { values: &values, stride, rows: dots.len() };
    (kernels.select)(&dots, factors, weights, &vec![bar; weights.len()], &mut selected);
    selected.pop().unwrap()
}

#[test]
fn selection_keeps_every_row_whose_true_score_reaches_the_bar() {
    let mut random = Random(5);
    for metric in Metric::ALL {
        for dimension in [1, 2, 17, 64, 100, 384] {
            let count = 75;
            let data = rows(&mut random, count, dimension);
            let norms: Vec<f64> = data.chunks(dimension).map(|row| reference::dot(row, row).sqrt()).collect();
            let frame = Frame::train(metric, dimension, &data, &norms);
            let lines = lines(dimension);
            let (mut codes, mut factors, mut scratch) = (vec![Line::ZERO; count * lines], absent(count), Vec::new());
            for (i, row) in data.chunks(dimension).enumerate() {
                let code = &mut codes[i * lines..(i + 1) * lines];
                frame.encode(row, Some(norms[i]), &mut scratch, code, &mut factors[i / BLOCK], i % BLOCK);
            }
            for turn in 0..15 {
                let query: Vec<f32> = match turn % 3 {
                    0 => random.floats(dimension),
                    1 => data[turn * dimension..(turn + 1) * dimension].to_vec(),
                    _ => random.floats(dimension).iter().map(|x| x * [1e25, 1e-25, 0.0][turn / 3 % 3]).collect(),
                };
                let norm = reference::dot(&query, &query).sqrt();
                let code = frame.encode_query(&query, norm);
                every_level(|kernels| {
                    let mut dots = vec![0; count];
                    (kernels.scan)(&codes, &code.high, &mut dots);
                    for i in 0..count {
                        let row = &data[i * dimension..(i + 1) * dimension];
                        let rank = metric.rank(kernels, row, norms[i], &query, norm);
                        let (block, lane) = (&factors[i / BLOCK], i % BLOCK);
                        let low = (kernels.dot_codes)(&codes[i * lines..(i + 1) * lines], &code.low);
                        let coarse = code.interval(dots[i], block, lane);
                        let fine = code.fine_interval(dots[i], low, block, lane);
                        for (lower, upper) in [coarse, fine] {
                            assert!(lower <= upper);
                            assert!(code.highest_rank(upper) >= rank, "{metric:?} {dimension} {i} {turn}");
                            // A lower end is used to discard others: some row must be able to reach it.
                            assert!(code.lowest_rank(lower) <= rank, "{metric:?} {dimension} {i} {turn}");
                        }
                        let bar = coarse.0.max(f32::MIN);
                        let selected = select(kernels, &dots, &factors, &[code.coarse], bar);
                        assert!(selected.contains(&(i as u32)), "a row fell below its own lower end");
                        let reference = reference::select(&dots, &factors, &code.coarse, bar);
                        assert!(selected.len().abs_diff(reference.len()) <= 2, "{} rows", kernels.level.name());
                        let far = code.coarse;
                        let narrow = Weights { residual: 0.1, norm: 0.0, bias: 2.0 * far.bias, constant: 0.0, ..far };
                        let wider = select(kernels, &dots, &factors, &[narrow, far], bar);
                        assert!(selected.iter().all(|row| wider.contains(row)), "another query narrowed a bound");
                    }
                    let selected = select(kernels, &dots, &absent(count), &[code.coarse; GROUP], f32::MIN);
                    assert_eq!(selected, [], "rows that are not there were selected");
                });
            }
        }
    }
}

#[test]
fn codes_of_ordinary_rows_are_tight() {
    // A proof that selects everything would pass the tests above.
    let mut random = Random(6);
    let (count, dimension) = (200, 384);
    let data = random.floats(count * dimension);
    let norms: Vec<f64> = data.chunks(dimension).map(|row| reference::dot(row, row).sqrt()).collect();
    let frame = Frame::train(Metric::Cosine, dimension, &data, &norms);
    let (mut code, mut factors, mut scratch) = (vec![Line::ZERO; lines(dimension)], absent(1), Vec::new());
    frame.encode(&data[..dimension], Some(norms[0]), &mut scratch, &mut code, &mut factors[0], 0);
    let query = frame.encode_query(&data[dimension..2 * dimension], norms[1]);
    let (high, low) = (expected(&code, &query.high), expected(&code, &query.low));
    let width = |(lower, upper): (f32, f32)| query.highest_rank(upper) - query.lowest_rank(lower);
    assert!(width(query.interval(high, &factors[0], 0)) < 0.03);
    assert!(width(query.fine_interval(high, low, &factors[0], 0)) < 0.011);
}

#[test]
fn guide_keys_equal_the_reference_on_every_level() {
    let mut random = Random(7);
    for (lines, planes) in [(1, 2), (2, 2), (3, 2), (4, 2), (6, 2), (1, 4), (2, 4), (3, 4)] {
        let rows = 41;
        let codes: Vec<Line> = (0..rows * lines).map(|_| Line(std::array::from_fn(|_| random.next() as u8))).collect();
        let mut query = random.codes(planes * lines, 0);
        let last = query.len() - planes;
        query[last..].iter_mut().for_each(|line| line.0[60..].fill(0));
        let surplus = [15, 3][planes / 4] * bytes(&query).iter().map(|byte| i32::from(*byte as i8)).sum::<i32>();
        let query = GuideQuery {
            codes: query,
            surplus,
            scale: random.float() * 1e-6,
            bias: random.float().abs() * 1e-3,
            square: 0.0,
        };
        let keys: Vec<u32> =
            codes.chunks(lines).map(|row| ordered(reference::guide_key(&bytes(row), &query))).collect();
        every_level(|kernels| {
            let plain = GuideQuery { surplus: 0, scale: -0.5, bias: 0.0, ..query.clone() };
            for first in 0..rows as u32 {
                let list = std::array::from_fn(|i| (first + 3 * i as u32) % rows as u32);
                let dots = (kernels.dot_planes)(&codes, lines, list, &query.codes);
                for (row, dot) in list.into_iter().zip(dots) {
                    let mut of_one = bytes(&codes[row as usize * lines..][..lines]);
                    let end = of_one.len() - 4;
                    of_one[end..].copy_from_slice(&[1, 0, 0, 0]);
                    assert_eq!(dot as f32, reference::guide_key(&of_one, &plain));
                }
            }
        });
        // Everybody is everybody's neighbour, or the next few are: a wide walk finds all, a narrow one the nearest.
        for (degree, width) in [(16usize, 1usize), (16, 3), (7, 41), (32, 17), (41, 41), (41, 8), (41, 100)] {
            let wide = degree.div_ceil(Links::WIDTH);
            let mut links = vec![Links([NONE; Links::WIDTH]); rows * wide];
            for node in 0..rows {
                for i in 0..degree {
                    links[node * wide + i / 16].0[i % 16] = ((node + 1 + i) % rows) as u32;
                }
            }
            // The same among the first of them, as an upper level.
            let above = 20;
            let mut upper = vec![Links([NONE; Links::WIDTH]); above * wide];
            for (node, links) in upper.chunks_mut(wide).enumerate() {
                (0..above - 1).take(degree).for_each(|i| links[i / 16].0[i % 16] = ((node + 1 + i) % above) as u32);
            }
            let mut walks: Vec<(Vec<u64>, usize, usize)> = Vec::new();
            let numbers: Vec<u32> = (0..rows as u32).collect();
            let thirds = vec![0x9249_2492_4924_9249u64; rows.div_ceil(64)];
            every_level(|kernels| {
                let mut walker = Walker::default();
                for (entries, upper) in [(3, &[][..]), (41, &[]), (20, &[]), (3, &upper)] {
                    let graph = Graph {
                        codes: &codes,
                        lines,
                        links: &links,
                        width: wide,
                        upper,
                        above: 5,
                        entries,
                        ..Graph::default()
                    };
                    let adaptive = Reach { depth: width.min(5), slack: 0.01, ..Reach::wide(width) };
                    for reach in [Reach::wide(width), adaptive, Reach { far: 0.01, steep: 0.5, keep: 0.1, ..adaptive }]
                    {
                        (kernels.walk)(&mut walker, &graph, &query, reach);
                        let found = walker.nearest().to_vec();
                        assert!(found.windows(2).all(|pair| pair[0] < pair[1]) && found.len() <= width);
                        for entry in &found {
                            assert_eq!((entry >> 32) as u32, keys[*entry as u32 as usize >> 1], "{:?}", kernels.level);
                        }
                        if degree >= 32 && reach.slack == 0.0 && width >= 8 {
                            let mut nearest = keys.clone();
                            nearest.sort_unstable();
                            let found: Vec<u32> = found.iter().map(|entry| (entry >> 32) as u32).collect();
                            assert_eq!(found, nearest[..width.min(rows)], "{:?}", kernels.level);
                        }
                        walks.push((found, walker.scored, walker.hops));
                        // A sweep over some nodes leaves the nearest of them, whoever their neighbours are.
                        (kernels.sweep)(&mut walker, &graph, &query, &numbers[3..], width);
                        let mut swept: Vec<u32> = keys[3..].to_vec();
                        swept.sort_unstable();
                        swept.truncate(width);
                        let found: Vec<u32> = walker.nearest().iter().map(|entry| (entry >> 32) as u32).collect();
                        assert_eq!(found, swept, "{:?}", kernels.level);
                        // Where every third row may be answered, the walk ends by these.
                        let sieve = Sieve { rows: &numbers, bits: &thirds, patience: 4, budget: 30, expanded: 3 };
                        (kernels.walk)(&mut walker, &Graph { sieve: Some(sieve), ..graph }, &query, reach);
                        walks.push((
                            walker.nearest().to_vec(),
                            walker.scored,
                            walker.hops + usize::from(walker.starved),
                        ));
                    }
                }
            });
            let each = 24;
            let goes_on = |walks: &[(Vec<u64>, usize, usize)]| walks[4].2 >= walks[2].2;
            assert!(walks.chunks(6).all(goes_on), "a walk for a query that lies far out ends no earlier");
            assert!(walks.chunks(each).all(|walk| walk == &walks[..each]), "levels walk differently");
        }
    }
}

#[test]
fn truth_values_are_packed_the_same_way() {
    let mut random = Random(9);
    for count in [0usize, 1, 7, 8, 63, 64, 65, 128, 200, 1000] {
        let places: Vec<bool> = (0..count).map(|_| random.float() < 0.0).collect();
        every_level(|kernels| {
            let mut words = vec![u64::MAX; count.div_ceil(64)];
            (kernels.pack_bits)(&places, &mut words);
            let bit = |i: usize| words.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1);
            assert!((0..words.len() * 64).all(|i| bit(i) == places.get(i).is_some_and(|place| *place)));
        });
    }
}

/// Rows whose variance falls from axis to axis, their 8-bit codes, and what guide codes are made from.
fn coded(count: usize, dimension: usize) -> (Vec<f32>, Frame, Vec<Line>, Vec<Source>) {
    coded_by(count, dimension, |axis| 1.0 / axis)
}

/// As `coded`, of this spread along each axis.
fn coded_by(count: usize, dimension: usize, spread: fn(f32) -> f32) -> (Vec<f32>, Frame, Vec<Line>, Vec<Source>) {
    let mut random = Random(8);
    let data: Vec<f32> =
        (0..count * dimension).map(|i| random.float() * spread(1.0 + (i % dimension) as f32)).collect();
    let frame = Frame::train(Metric::L2, dimension, &data, &[]);
    let lines = lines(dimension);
    let (mut codes, mut factors, mut scratch) = (vec![Line::ZERO; count * lines], absent(count), Vec::new());
    let mut sources = Vec::new();
    for (i, row) in data.chunks(dimension).enumerate() {
        let code = &mut codes[i * lines..(i + 1) * lines];
        frame.encode(row, None, &mut scratch, code, &mut factors[i / BLOCK], i % BLOCK);
        let (scale, norm) = (factors[i / BLOCK].scale[i % BLOCK], factors[i / BLOCK].norm[i % BLOCK]);
        sources.push(Source { scale, bias: norm * norm / 2.0 });
    }
    (data, frame, codes, sources)
}

#[test]
fn guide_keys_follow_the_distance_and_do_not_depend_on_the_level() {
    let both = [Planes::Two, Planes::Four]
        .into_iter()
        .flat_map(|planes| [1, 2, 7, 60, 61, 100, 120, 121, 240, 241, 248, 400].map(|dimension| (planes, dimension)));
    for (planes, dimension) in both {
        let count = 300;
        let (data, frame, codes, sources) = coded(count, dimension);
        let width = if dimension <= planes.directions(1) { 1 } else { 2 };
        let mut made = Vec::new();
        every_level(|kernels| {
            let guide = Guide::train(kernels, &frame, dimension, (width, planes), &codes, &sources);
            let mut rows = guide.room(count);
            guide.encode(kernels, &codes, &sources, rows.arrays_mut().map(|lines| &mut lines[..]));
            let mut scratch = GuideScratch::default();
            let query = &data[..dimension];
            guide.encode_query(kernels, Metric::L2, query, 0.0, &mut scratch);
            let mut links = vec![Links([NONE; Links::WIDTH]); count * WIDEST];
            for (i, place) in links.iter_mut().flat_map(|links| &mut links.0).enumerate() {
                let degree = WIDEST * Links::WIDTH;
                *place = ((i / degree + 1 + i % degree) % count) as u32;
            }
            let codes = &rows.coarse[..];
            let graph = Graph { codes, lines: width, links: &links, width: WIDEST, entries: 9, ..Graph::default() };
            let mut walker = Walker::default();
            (kernels.walk)(&mut walker, &graph, &scratch.query, Reach::wide(count));
            let order: Vec<u32> = walker.nodes().collect();
            assert_eq!(order.len(), count);
            if dimension >= 7 {
                let distance = |row: u32| reference::l2(&data[row as usize * dimension..][..dimension], query);
                let (near, far): (f64, f64) = (
                    order[..50].iter().map(|row| distance(*row)).sum(),
                    order[250..].iter().map(|row| distance(*row)).sum(),
                );
                assert!(order[..3].contains(&0) && near < far, "{dimension} {near} {far}");
            }
            let mut keyed: Vec<(f32, u32)> = walker.keyed().collect();
            if planes == Planes::Four {
                // Whole codes tell distances better than their upper halves.
                let off = |keyed: &[(f32, u32)]| {
                    let of = |(key, row): &(f32, u32)| {
                        let moved = scratch.query.square + 2.0 * key;
                        let right = reference::l2(&data[*row as usize * dimension..][..dimension], query);
                        (f64::from(moved) / guide.frame.sigma().powi(2) - right).powi(2)
                    };
                    keyed.iter().map(of).sum::<f64>()
                };
                let coarse = off(&keyed);
                guide.fine_keys(kernels, &rows, &mut keyed, &scratch.query);
                assert!(dimension < 60 || off(&keyed) < coarse / 4.0, "{dimension} {} {coarse}", off(&keyed));
            }
            let keys = keyed.iter().map(|(key, _)| ordered(*key)).collect();
            made.push(([rows.coarse, rows.fine, rows.rest], [order, keys]));
        });
        assert!(made.windows(2).all(|pair| pair[0] == pair[1]), "{dimension}");
    }
}

#[test]
fn near_sums_hold_the_exact_ones_and_are_near() {
    let mut random = Random(9);
    for length in [1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 48, 384, 1000] {
        for scale in [1e-20, 1.0, 1e18] {
            let (x, mut y) = (random.floats(length), random.floats(length));
            y.iter_mut().for_each(|y| *y *= scale);
            every_level(|kernels| {
                let (dot, distance) = (reference::dot(&x, &y), reference::l2(&x, &y));
                let norms = [reference::dot(&x, &x).sqrt(), reference::dot(&y, &y).sqrt()];
                let off = 1e-14 * norms[0] * norms[1];
                assert!(((kernels.dot_near)(&x, &y) - dot).abs() <= off, "{length} {off}");
                let (sum, off) = (kernels.l2_near)(&x, &y);
                assert!((sum - distance).abs() <= off && off <= 1e-12 * distance, "{length} {off}");
                for metric in Metric::ALL {
                    let (low, high) = metric.rank_near(kernels, &x, norms[0], &y, norms[1]);
                    let rank = metric.rank(kernels, &x, norms[0], &y, norms[1]);
                    assert!(low <= rank && rank <= high, "{metric:?} {length}");
                }
            });
        }
    }
}

#[test]
fn queries_are_placed_and_coded_the_same_on_every_level() {
    let mut random = Random(10);
    for length in [1, 5, 16, 63, 64, 65, 128, 400] {
        let (x, origin) = (random.floats(length), random.floats(length));
        for x in [x.clone(), vec![0.0; length], x.iter().map(|x| x * 1e30).collect()] {
            let whole = length.next_multiple_of(LINE);
            let (mut made, mut measured) = (Vec::new(), Vec::new());
            every_level(|kernels| {
                let mut placed = vec![0.0; whole];
                let (square, largest) = (kernels.place)(&x, &origin, 0.37, 0.25, &mut placed);
                let wanted: Vec<f64> =
                    x.iter().zip(&origin).map(|(x, o)| (f64::from(*x) * 0.37 - f64::from(*o)) * 0.25).collect();
                assert_eq!(placed[..length], wanted);
                assert!((square - wanted.iter().map(|x| x * x).sum::<f64>()).abs() <= 1e-12 * square);
                assert_eq!(largest, wanted.iter().fold(0.0, |a, x| x.abs().max(a)));
                let (mut high, mut low) = (vec![Line([0; LINE]); whole / LINE], vec![Line([0; LINE]); whole / LINE]);
                let step = f64::from((largest / 32_512.0) as f32);
                let missed = (kernels.code16)(&placed, step, &mut high, &mut low);
                let (mut coarse, mut fine) = (0.0f64, 0.0f64);
                for ((x, high), low) in placed.iter().zip(bytes(&high)).zip(bytes(&low)) {
                    let (high, low) = (f64::from(high as i8), f64::from(low as i8));
                    assert!((x - step * (256.0 * high + low)).abs() <= 0.6 * step, "{x} {high} {low}");
                    coarse += (x - step * 256.0 * high).powi(2);
                    fine += (x - step * (256.0 * high + low)).powi(2);
                }
                assert!((missed.0 - coarse).abs() <= 1e-9 * coarse && (missed.1 - fine).abs() <= 1e-9 * fine);
                let mut fitted = vec![Line([0; LINE]); whole / LINE];
                let (scale, length, left) = (kernels.fit)(&placed, largest, &mut fitted);
                let (fitted, mut sums) = (bytes(&fitted), (0.0, 0.0));
                for (x, code) in placed.iter().zip(&fitted) {
                    let code = f64::from(*code) - 128.0;
                    assert!((x * 127.0 - code * largest).abs() <= 0.5001 * largest);
                    sums.0 += code * code;
                    sums.1 += (x - f64::from(scale) * code).powi(2);
                }
                assert!(length == sums.0 && (left - sums.1).abs() <= 1e-9 * sums.1 + 1e-14 * square);
                let narrow: Vec<f32> = placed.iter().map(|x| *x as f32).collect();
                let mut codes = vec![Line([0; LINE]); whole / LINE];
                let (most, sum) = (kernels.code8)(&narrow, &mut codes);
                let codes = bytes(&codes);
                assert_eq!(most, narrow.iter().fold(0.0, |a, x| x.abs().max(a)));
                assert_eq!(sum, codes.iter().map(|code| i32::from(*code as i8)).sum::<i32>());
                for (x, code) in narrow.iter().zip(&codes) {
                    assert!((x * 127.0 - f32::from(*code as i8) * most).abs() <= 0.51 * most);
                }
                made.push((square.to_bits(), bytes(&high), bytes(&low), missed.0.to_bits(), missed.1.to_bits(), codes));
                measured.push((fitted, scale.to_bits(), left.to_bits()));
            });
            assert!(made.windows(2).all(|pair| pair[0] == pair[1]), "{length}");
            assert!(measured.windows(2).all(|pair| pair[0] == pair[1]), "{length}");
        }
    }
}

#[test]
fn a_guide_takes_no_more_lines_than_the_rows_need() {
    let flat = |dimension: usize| {
        let count = 4 * dimension;
        let mut random = Random(11);
        let data = random.floats(count * dimension);
        let frame = Frame::train(Metric::L2, dimension, &data, &[]);
        let mut codes = vec![Line::ZERO; count * lines(dimension)];
        let (mut factors, mut scratch) = (absent(count), Vec::new());
        for (i, row) in data.chunks(dimension).enumerate() {
            let code = &mut codes[i * lines(dimension)..(i + 1) * lines(dimension)];
            frame.encode(row, None, &mut scratch, code, &mut factors[i / BLOCK], i % BLOCK);
        }
        (frame, codes, vec![Source { scale: 0.01, bias: 0.5 }; count])
    };
    let falling = |dimension: usize| {
        let (_, frame, codes, sources) = coded(300, dimension);
        (frame, codes, sources)
    };
    // As many lines as directions with as much weight as any other need; one, where the first few carry nearly all.
    for (dimension, made, wanted) in [
        (100, flat(100), 1),
        (128, flat(128), 1),
        (240, flat(240), 1),
        (400, flat(400), 2),
        (128, falling(128), 1),
        (400, falling(400), 1),
    ] {
        let (frame, codes, sources) = made;
        let guide = Guide::fit(kernels(), &frame, dimension, &codes, &sources);
        assert_eq!(guide.lines, wanted, "{dimension}");
    }
}

#[test]
fn keys_of_long_rows_are_off_by_as_little_as_is_said_and_do_not_depend_on_the_level() {
    let count = 150;
    for (dimension, planes) in [(512, Planes::Four), (570, Planes::Two), (641, Planes::Two), (1100, Planes::Four)] {
        let (data, frame, codes, sources) = coded_by(count, dimension, |axis| 1.0 / axis.sqrt());
        let mut made = Vec::new();
        every_level(|kernels| {
            let guide = Guide::train(kernels, &frame, dimension, (2, planes), &codes, &sources);
            let mut rows = guide.room(count);
            guide.encode(kernels, &codes, &sources, rows.arrays_mut().map(|lines| &mut lines[..]));
            let rest = guide.rest.as_ref().expect("rows are long");
            let (mut scratch, mut walker) = (GuideScratch::default(), Walker::default());
            let (links, nodes) = (vec![Links([NONE; Links::WIDTH]); count], (0..count as u32).collect::<Vec<_>>());
            let (codes, lines) = (&rows.coarse[..], guide.lines);
            let graph = Graph { codes, lines, links: &links, width: 1, entries: count, ..Graph::default() };
            let mut keys = Vec::new();
            let (mut before, mut after, mut pairs) = (0.0, 0.0, 0.0);
            for (q, query) in data.chunks(dimension).take(6).enumerate() {
                guide.encode_query(kernels, Metric::L2, query, 0.0, &mut scratch);
                (kernels.sweep)(&mut walker, &graph, &scratch.query, &nodes, count);
                let mut keyed: Vec<(f32, u32)> = walker.keyed().collect();
                // Squared, in the units of `Guide::errors`.
                let off = |keyed: &[(f32, u32)]| {
                    let of = |(key, row): &(f32, u32)| {
                        let right = reference::l2(&data[*row as usize * dimension..][..dimension], query)
                            * guide.frame.sigma().powi(2);
                        let square = f64::from(scratch.query.square);
                        (f64::from(*key) - (right - square) / 2.0).powi(2) / (right * square)
                    };
                    keyed.iter().filter(|(_, row)| *row as usize != q).map(of).sum::<f64>()
                };
                before += off(&keyed);
                if planes == Planes::Four {
                    guide.fine_keys(kernels, &rows, &mut keyed, &scratch.query);
                }
                scratch.rest.sharpen(kernels, rest, &rows.rest, &mut keyed);
                after += off(&keyed);
                pairs += (count - 1) as f64;
                keys.extend(keyed.iter().map(|(key, row)| (ordered(*key), *row)));
            }
            let [before, after] = [before, after].map(|sum| (sum / pairs).sqrt() as f32);
            let context = format!("{dimension} {before} {after} {}", rest.error);
            assert!(after < before / 3.0 && (0.2..0.7).contains(&(after / rest.error)), "{context}");
            made.push(([rows.coarse, rows.fine, rows.rest], keys));
        });
        assert!(made.windows(2).all(|pair| pair[0] == pair[1]), "{dimension}");
    }
}

#[test]
fn a_walker_that_knew_a_larger_graph_walks_a_smaller_one_as_a_new_one_does() {
    let mut random = Random(14);
    let query = GuideQuery { codes: random.codes(2, 0), scale: 1e-6, ..GuideQuery::default() };
    let mut codes = |nodes: usize| -> Vec<Line> {
        (0..nodes).map(|_| Line(std::array::from_fn(|_| random.next() as u8))).collect()
    };
    // Neighbours of the first node, or of as many as there are, fill a step's room but for what is seen already.
    let links = |nodes: usize, of: &dyn Fn(usize) -> Option<u32>| -> Vec<Links> {
        let line = |i: usize| of(i / 2).map(|first| first + 16 * (i as u32 % 2));
        let of_line = |first: Option<u32>| Links(std::array::from_fn(|j| first.map_or(NONE, |first| first + j as u32)));
        (0..2 * nodes).map(|i| of_line(line(i))).collect()
    };
    let large = links(5000, &|node| [Some(1000), Some(2000)][usize::from(node > 0)].filter(|_| node < 2000));
    let small = links(50, &|node| (node == 0).then_some(0)); // itself among them
    let (many, few) = (codes(5000), codes(50));
    every_level(|kernels| {
        let big = Graph { codes: &many, lines: 1, links: &large, width: 2, entries: 1, ..Graph::default() };
        let little = Graph { codes: &few, links: &small, ..big };
        let (mut known, mut new) = (Walker::default(), Walker::default());
        (kernels.walk)(&mut known, &big, &query, Reach::wide(300));
        for walker in [&mut known, &mut new] {
            (kernels.walk)(walker, &little, &query, Reach::wide(40));
        }
        assert_eq!((known.nearest(), known.scored, known.scored), (new.nearest(), new.scored, 32));
    });
}

#[test]
fn a_walk_starts_where_the_upper_level_leads_to() {
    // Nodes on a line, each beside the next: without an upper level a walk goes through all of them, with one through few.
    let (count, share) = (4096usize, 64usize);
    let factors = |node: usize| ((node as u32) << 16 | 1).to_le_bytes();
    let code = |node: usize| {
        let mut line = Line([0; 64]);
        line.0[60..].copy_from_slice(&factors(node));
        line
    };
    // The first nodes stand at every 64th place, the others between them, so that keys fall from place to place.
    let above = count / share;
    let (mut first, mut later): (Vec<usize>, Vec<usize>) = (0..count).partition(|place| place % share == 0);
    first.append(&mut later);
    let places = first;
    let mut node_at = vec![0u32; count];
    (0u32..).zip(&places).for_each(|(node, place)| node_at[*place] = node);
    let codes: Vec<Line> = places.iter().map(|place| code(count - place)).collect();
    let beside = |place: usize| Links(std::array::from_fn(|i| node_at.get(place + 1 + i).copied().unwrap_or(NONE)));
    let links: Vec<Links> = places.iter().map(|place| beside(*place)).collect();
    let next =
        |node: usize| Links(std::array::from_fn(|i| if i == 0 && node + 1 < above { node as u32 + 1 } else { NONE }));
    let upper: Vec<Links> = (0..above).map(next).collect();
    let query = GuideQuery { codes: vec![Line([0; 64]); 2], bias: 1.0, ..GuideQuery::default() };
    every_level(|kernels| {
        let mut walker = Walker::default();
        let flat = Graph { codes: &codes, lines: 1, links: &links, width: 1, entries: 1, ..Graph::default() };
        let mut hops = [&[][..], &upper].map(|upper| {
            (kernels.walk)(&mut walker, &Graph { upper, ..flat }, &query, Reach::wide(8));
            assert_eq!(walker.nodes().next(), Some(node_at[count - 1]), "{:?}", kernels.level);
            walker.hops
        });
        hops[1] += 100;
        assert!(hops[1] < hops[0], "{hops:?}");
    });
}
