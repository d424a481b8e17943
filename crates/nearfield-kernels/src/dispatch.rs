//! Looks at the CPU once and hands out the fastest kernels it can run.
//!
//! `NEARFIELD_SIMD=scalar|avx2|avx512` forces one; [`forced`] says so where that cannot be had.

use std::sync::OnceLock;

use crate::guide::GuideQuery;
use crate::pq::ScanPq;
use crate::walk::{Graph, Reach, Walker};
use crate::{Factors, Line, Weights, portable};

/// A family of instructions, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever the compiler makes of plain loops on the baseline CPU.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512,
}

impl Level {
    /// Every level, slowest first.
    pub const ALL: [Level; 3] = [Level::Scalar, Level::Avx2, Level::Avx512];

    /// The name that `NEARFIELD_SIMD` takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
}

/// See [`Kernels::tile`].
pub type Tile = fn(rows: &[Line], queries: &[Line], lines: usize, count: usize, dots: &mut [i32], stride: usize);

/// See [`Kernels::select`]. `dots` is laid out as by [`Kernels::tile`]; its first `rows` rows are looked at.
pub type Select = fn(dots: &Dots, factors: &[Factors], weights: &[Weights], bars: &[f32], selected: &mut [Vec<u32>]);

/// See [`Kernels::place`].
pub type Place = fn(x: &[f32], origin: &[f32], factor: f64, sigma: f64, into: &mut [f64]) -> (f64, f64);

/// See [`Kernels::code16`].
pub type Code16 = fn(u: &[f64], step: f64, high: &mut [Line], low: &mut [Line]) -> (f64, f64);

/// See [`Kernels::fit`].
pub type Fit = fn(u: &[f64], largest: f64, into: &mut [Line]) -> (f32, f64, f64);

/// See [`Kernels::walk`].
pub type Walk = fn(walker: &mut Walker, graph: &Graph, query: &GuideQuery, reach: Reach);

/// See [`Kernels::dot_planes`].
pub type DotPlanes = fn(&[Line], usize, [u32; 8], &[Line]) -> [i32; 8];

/// See [`Kernels::dot_rows`].
pub type DotRows = fn(codes: &[Line], rows: &[u32], query: &[Line], dots: &mut [i32]);

/// See [`Kernels::sweep`].
pub type Sweep = fn(walker: &mut Walker, graph: &Graph, query: &GuideQuery, nodes: &[u32], width: usize);

/// See [`Kernels::raise`].
pub type Raise = fn(sums: &mut [u8], levels: &[u8], table: &[u8; 16], spread: u32);

/// Dot products of a tile: `values[q * stride + r]`, for `rows` rows.
#[derive(Clone, Copy, Debug)]
pub struct Dots<'a> {
    /// The products.
    pub values: &'a [i32],
    /// Places from one query to the next.
    pub stride: usize,
    /// Rows that count.
    pub rows: usize,
}

/// The kernels of one level. Queries and rows are slices of [`Line`]s, filled up with codes of zero.
#[derive(Debug)]
pub struct Kernels {
    /// The level these belong to.
    pub level: Level,
    /// Bytes that a packed code takes, in rows and in queries.
    pub code_bytes: usize,
    /// Dot product of two float32 slices of equal length, accumulated in doubled precision and rounded once.
    pub dot_exact: fn(&[f32], &[f32]) -> f64,
    /// Squared Euclidean distance of two float32 slices of equal length, likewise.
    pub l2_exact: fn(&[f32], &[f32]) -> f64,
    /// Dot product of two float32 slices of equal length; by what it may be off tells [`crate::metric`]. It depends on the
    /// level.
    pub dot_near: fn(&[f32], &[f32]) -> f64,
    /// Squared Euclidean distance of two float32 slices of equal length, likewise, and what it may be off by.
    pub l2_near: fn(&[f32], &[f32]) -> (f64, f64),
    /// Dot product of two float32 slices of equal length, every operation rounded: the same on every level, but not exact.
    pub dot_plain: fn(&[f32], &[f32]) -> f32,
    /// Adds `by * from` to a float32 slice of equal length, likewise.
    pub add_scaled: fn(to: &mut [f32], by: f32, from: &[f32]),
    /// Writes `(x * factor - origin) * sigma`; returns its squared norm and the largest absolute value. `into` has room
    /// for a multiple of 16.
    pub place: Place,
    /// Codes numbers (whole lines of them) as `step * (256 * high + low)`; returns the squared norms of what the high
    /// codes alone miss, and both together.
    pub code16: Code16,
    /// Codes numbers (whole lines of them) as 127ths of the largest absolute value, with 128 added; returns by what codes
    /// are to be multiplied to be nearest to the numbers, and the squared norms of the codes and of what is missed then.
    pub fit: Fit,
    /// Codes numbers (whole lines of them) as 127ths of the largest absolute value; returns it, and the sum of codes.
    pub code8: fn(x: &[f32], into: &mut [Line]) -> (f32, i32),
    /// Dot product of one row of codes and one query code.
    pub dot_codes: fn(row: &[Line], query: &[Line]) -> i32,
    /// Dot products of consecutive rows with one query.
    pub scan: fn(codes: &[Line], query: &[Line], dots: &mut [i32]),
    /// Dot products of these rows of codes with one query.
    pub dot_rows: DotRows,
    /// Lays whole rows (of `lines` lines) out for `tile`, in blocks of 16; `packed` has room for full blocks.
    pub pack_rows: fn(codes: &[Line], lines: usize, packed: &mut [Line]),
    /// Lays up to 12 queries out for `tile`.
    pub pack_queries: fn(queries: &[&[Line]], packed: &mut Vec<Line>),
    /// `dots[q * stride + r]` = dot product of packed row r and packed query q, for an even number of row blocks.
    /// `dots` holds a multiple of four queries.
    pub tile: Tile,
    /// For up to 12 queries, one bar and one list each: appends the rows whose upper bound reaches the bar.
    pub select: Select,
    /// Appends key and place of those rows (in blocks of 32 product-quantised codes) whose key, `sum * step + (bias + base)`,
    /// reaches the bar.
    pub scan_pq: ScanPq,
    /// Sums of the products of eight rows of guide codes, of so many lines each, with a query that has a line for each of
    /// their planes.
    pub dot_planes: DotPlanes,
    /// Walks through a graph for one query and leaves the nearest nodes in the walker.
    pub walk: Walk,
    /// Scores all of these nodes of a graph for one query, whatever their neighbours, and leaves the nearest `width` in
    /// the walker.
    pub sweep: Sweep,
    /// Truth values as bits, 64 a word, the first one lowest; there is a word for the last of them.
    pub pack_bits: fn(places: &[bool], words: &mut [u64]),
    /// Adds to sums (whole spans of them) what a table says of their levels, up to 255: see [`crate::groups`].
    pub raise: Raise,
    /// Appends the places of the sums that are enough.
    pub reaching: fn(sums: &[u8], enough: u8, found: &mut Vec<u32>),
    /// How many sums are enough.
    pub counting: fn(sums: &[u8], enough: u8) -> usize,
}

/// The kernels of every level that this CPU can run, slowest first.
pub fn available() -> Vec<&'static Kernels> {
    let mut found = vec![&portable::KERNELS];
    #[cfg(target_arch = "x86_64")]
    found.extend(crate::x86::available());
    found
}

/// The kernels in use: those that `NEARFIELD_SIMD` names, else the fastest. Decided at the first call.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| forced().ok().flatten().unwrap_or_else(|| available().pop().expect("scalar is always there")))
}

/// The kernels that `NEARFIELD_SIMD` names, None where it is not set, or a sentence why it cannot be had.
pub fn forced() -> Result<Option<&'static Kernels>, String> {
    let Some(name) = std::env::var_os("NEARFIELD_SIMD").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let available = available();
    let names: Vec<&str> = available.iter().map(|kernels| kernels.level.name()).collect();
    let found = available.iter().find(|kernels| *kernels.level.name() == *name).copied();
    found.map(Some).ok_or_else(|| {
        format!("NEARFIELD_SIMD is {name:?}, this CPU can run {}: set it to one of these or unset it", names.join(", "))
    })
}
