//! Writing a graph to an index file, and reading it back. Removed rows are left out, so rows are numbered anew.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use nearfield_kernels::Line;
use nearfield_kernels::guide::{Guide, GuideCodes, Planes};
use nearfield_kernels::project::Projection;
use nearfield_kernels::quantize::Frame;
use nearfield_kernels::rest::Rest;

use crate::codec::{Reader, Writer};
use crate::flat::Flat;
use crate::hnsw::{Graph, Hnsw};
use crate::hnsw_change::Change;
use crate::hnsw_widths::{DEPTHS, TARGETS, Widths};
use crate::walk::{Level, Lie, Links, NONE, WIDEST, above};
use crate::{Error, Result};

/// The place of this kind in index files.
pub(crate) const KIND: u32 = 1;

/// Numbers of answers that widths were measured for by versions that did not say how many.
const OLD_DEPTHS: usize = 2;

/// Numbers in the section that says what has happened to a graph since it was built, how far out rows lie, and how wide a
/// walk through the upper level is; earlier versions did not say the last one, or three.
const CHANGES: usize = 9;
const OLD_CHANGES: [usize; 2] = [6, 8];

/// Their walks through the upper level.
const OLD_ABOVE: u64 = 8;

/// No file asks for wider ones.
const WIDEST_ABOVE: u64 = 64;

/// Numbers in the section that says how long the others are.
const SHAPE: usize = 8;

/// Added to one of them where there are codes of what guide codes leave.
const REST: usize = 65_536;

impl Hnsw {
    /// Writes the vectors, their ids and the graph to a file.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.save_kind(path, KIND)
    }

    /// As `save`, for a kind that keeps its graph in the same way.
    pub(crate) fn save_kind(&self, path: &Path, kind: u32) -> Result<()> {
        let mut file = Writer::create(path, self.flat.header(kind))?;
        self.flat.write(&mut file)?;
        let mut shape = [0u64; SHAPE];
        if let Some(graph) = &self.graph {
            let covered = (0..graph.covered).filter(|row| self.flat.ids.is_live(*row)).count();
            let levels = 1 + usize::from(!graph.level.upper.is_empty());
            let sizes = [graph.rows.len(), graph.guide.lines, graph.guide.projection.outputs, levels];
            for (place, size) in shape.iter_mut().zip(sizes.into_iter().chain([covered, graph.level.width])) {
                *place = size as u64;
            }
            let rest = if graph.guide.rest.is_some() { REST } else { 0 };
            shape[7] = (graph.guide.planes.count() + 16 * CHANGES + 256 * DEPTHS.len() + rest) as u64;
            shape[6] = self.renumbered(&graph.outside).filter(|row| *row != NONE).count() as u64;
        }
        file.section(b"shape   ", SHAPE, shape.into_iter(), u64::to_le_bytes)?;
        if let Some(graph) = &self.graph {
            self.write_graph(graph, &mut file)?;
        }
        file.finish()
    }

    /// Rows as they will be numbered in the file; NONE for those that are gone.
    pub(crate) fn renumbered<'a>(&'a self, rows: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let mut next = 0;
        let numbers: Vec<u32> = (0..self.flat.ids.rows())
            .map(|row| {
                let live = self.flat.ids.is_live(row);
                next += u32::from(live);
                if live { next - 1 } else { NONE }
            })
            .collect();
        rows.iter().map(move |row| numbers.get(*row as usize).copied().unwrap_or(NONE))
    }

    fn write_graph(&self, graph: &Graph, file: &mut Writer) -> Result<()> {
        let Guide { frame, projection, scale, bias, errors: [coarse, fine], .. } = &graph.guide;
        file.section(b"centre  ", frame.centre().len(), frame.centre().iter().copied(), f32::to_le_bytes)?;
        let mut units = vec![frame.sigma(), f64::from(*scale), f64::from(*bias), f64::from(*coarse), f64::from(*fine)];
        units.extend(graph.guide.rest.iter().flat_map(|rest| [rest.scale, rest.error]).map(f64::from));
        file.section(b"units   ", units.len(), units.into_iter(), f64::to_le_bytes)?;
        file.section(b"turns   ", projection.codes.len(), projection.codes.iter(), |line| line.0)?;
        file.section(b"lengths ", projection.scales.len(), projection.scales.iter().copied(), f32::to_le_bytes)?;
        let widths = graph.widths.as_flattened();
        file.section(b"widths  ", widths.len(), widths.iter().copied(), u32::to_le_bytes)?;
        file.section(b"nodes   ", graph.rows.len(), self.renumbered(&graph.rows), u32::to_le_bytes)?;
        let outside: Vec<u32> = self.renumbered(&graph.outside).filter(|row| *row != NONE).collect();
        file.section(b"outside ", outside.len(), outside.into_iter(), u32::to_le_bytes)?;
        for (name, codes) in [b"guide   ", b"fine    ", b"rest    "].into_iter().zip(graph.codes.arrays()) {
            if !codes.is_empty() {
                file.section(name, codes.len(), codes.iter(), |line| line.0)?;
            }
        }
        let levels = [&graph.level.links, &graph.level.upper].into_iter().filter(|links| !links.is_empty());
        let sizes = levels.clone().map(|links| (links.len() / graph.level.width) as u64);
        file.section(b"levels  ", levels.clone().count(), sizes, u64::to_le_bytes)?;
        for links in levels {
            let all = links.iter().flat_map(|links| links.0);
            file.section(b"links   ", links.len() * Links::WIDTH, all, u32::to_le_bytes)?;
        }
        let Change { built, kept, folded, unmeasured, unsuited, swept } = graph.change;
        let [folded, unmeasured, above] = [folded, unmeasured, graph.level.above].map(|count| count as u64);
        let [usual, spread] = [graph.lie.usual, graph.lie.spread].map(|x| f64::from(x).to_bits());
        let changes: [u64; CHANGES] =
            [built as u64, kept.to_bits(), folded, unmeasured, unsuited as u64, swept as u64, usual, spread, above];
        file.section(b"changes ", CHANGES, changes.into_iter(), u64::to_le_bytes)
    }

    /// Reads a file that `save` wrote.
    pub fn load(path: &Path, threads: usize) -> Result<Self> {
        Self::load_kind(path, KIND, threads)
    }

    /// Reads a file that `save_kind` wrote. What is read first gets large pages where there are few of them: codes that walks look
    /// at all the time and links come before what they look at now and then, and before 8-bit codes, which only scans read.
    pub(crate) fn load_kind(path: &Path, kind: u32, threads: usize) -> Result<Self> {
        let (mut file, header) = Reader::open(path)?;
        let mut index = Self::of(Flat::begin(&mut file, header, kind, threads)?);
        let codes = Flat::pass_codes(&mut file)?;
        let shape = file.section(b"shape   ", SHAPE, u64::from_le_bytes)?;
        let shape: Vec<usize> = shape.into_iter().map(|size| usize::try_from(size).unwrap_or(usize::MAX)).collect();
        if shape[0] > 0 {
            index.graph = Some(read_graph(&mut file, &index.flat, &shape)?);
        }
        let end = file.go_to(codes)?;
        index.flat.read_codes(&mut file)?;
        file.go_to(end)?;
        file.finish()?;
        Ok(index)
    }
}

/// Reads a graph and checks that nothing in it points outside.
fn read_graph(file: &mut Reader, flat: &Flat, shape: &[usize]) -> Result<Graph> {
    let wrong = |file: &Reader| -> Error { file.corrupt("its graph does not fit together") };
    let [nodes, lines, outputs, levels, covered, width, outside, kept] = shape.try_into().expect("read as eight");
    let (planes, changes, depths, has_rest) = (kept % 16, kept / 16 % 16, kept % REST / 256, kept / REST == 1);
    let [dimension, rows] = [flat.dimension, flat.ids.rows()];
    let long = dimension.div_ceil(64);
    let is_old = planes == 0; // earlier versions kept all codes whole
    let planes = if planes == Planes::Four.count() { Planes::Four } else { Planes::Two };
    let sound =
        (1..=8).contains(&lines) && (1..=WIDEST).contains(&width) && outputs <= planes.directions(lines).min(dimension);
    if !sound || !(1..=16).contains(&levels) || nodes >= NONE as usize / 2 || covered > rows || outside > rows {
        return Err(wrong(file));
    }
    let centre = file.section(b"centre  ", dimension, f32::from_le_bytes)?;
    let units =
        file.section(b"units   ", if is_old { 3 } else { 5 + 2 * usize::from(has_rest) }, f64::from_le_bytes)?;
    let codes = file.section(b"turns   ", outputs * long, Line)?;
    let scales = file.section(b"lengths ", outputs, f32::from_le_bytes)?;
    let projection = Projection { inputs: dimension, outputs, codes, scales };
    let errors = [3, 4].map(|i| units.get(i).map_or(2.0, |error| *error as f32)); // above any: all candidates are read
    let frame = Frame::from_parts(flat.metric, centre, units[0]);
    let (scale, bias, rest) = (units[1] as f32, units[2] as f32, None);
    let mut guide = Guide { lines, planes, frame, projection, scale, bias, errors, rest };
    guide.rest = has_rest.then(|| Rest::of(&guide, units[5] as f32, units[6] as f32));
    let mut widths = Widths::default();
    let depths = if depths == 0 { OLD_DEPTHS } else { depths };
    if depths != OLD_DEPTHS && depths != DEPTHS.len() {
        return Err(wrong(file));
    }
    let read = file.section(b"widths  ", depths * TARGETS.len(), u32::from_le_bytes)?;
    if depths == OLD_DEPTHS {
        // Earlier versions measured for 10 and for 100 answers.
        for (i, (low, high)) in read.iter().zip(&read[TARGETS.len()..]).enumerate() {
            let share = (DEPTHS[2] - DEPTHS[1]) as f64 / (DEPTHS[3] - DEPTHS[1]) as f64;
            let between = f64::from(*low) + share * (f64::from(*high) - f64::from(*low));
            [widths[0][i], widths[1][i], widths[2][i], widths[3][i]] = [*low, *low, between.ceil() as u32, *high];
        }
    } else {
        widths.as_flattened_mut().copy_from_slice(&read);
    }
    let of_nodes = file.section(b"nodes   ", nodes, u32::from_le_bytes)?;
    let outside = file.section(b"outside ", outside, u32::from_le_bytes)?;
    let mut codes = GuideCodes::default();
    let [coarse, fine, left] = guide.array_lines();
    codes.coarse = file.section(b"guide   ", nodes.saturating_mul(coarse), Line)?;
    if fine > 0 {
        codes.fine = file.section(b"fine    ", nodes.saturating_mul(fine), Line)?;
    }
    let rest = file.pass(usize::from(left > 0))?;
    let known = |row: &u32| *row == NONE || (*row as usize) < rows;
    if !of_nodes.iter().chain(&outside).all(known) || outside.contains(&NONE) {
        return Err(wrong(file));
    }
    let sizes = file.section(b"levels  ", levels, u64::from_le_bytes)?;
    if sizes[0] != nodes as u64 || sizes.windows(2).any(|pair| pair[0] < pair[1]) {
        return Err(wrong(file));
    }
    let mut level = Level { above: OLD_ABOVE as usize, ..Level::new(0, width * Links::WIDTH) };
    level.nodes = nodes;
    for (i, size) in sizes.into_iter().enumerate() {
        let size = usize::try_from(size).map_err(|_| wrong(file))?;
        let links = file.section(b"links   ", size.saturating_mul(width), links_of)?;
        if !links.iter().flat_map(|links| &links.0).all(|link| *link == NONE || (*link as usize) < size) {
            return Err(wrong(file));
        }
        match i {
            0 => level.links = links,
            1 if size <= above(nodes) => level.upper = links,
            _ => {} // earlier versions had more of them, and of fewer nodes
        }
    }
    if left > 0 {
        let here = file.go_to(rest)?;
        codes.rest = file.section(b"rest    ", nodes.saturating_mul(left), Line)?;
        file.go_to(here)?;
    }
    let dead = of_nodes.iter().filter(|row| **row == NONE).count();
    let mut change = Change::since(nodes, &guide, &codes);
    let mut lie = Lie::default();
    if changes == CHANGES || OLD_CHANGES.contains(&changes) {
        // Earlier versions did not say what had happened to a graph.
        let mut read = file.section(b"changes ", changes, u64::from_le_bytes)?;
        read.resize(changes.max(OLD_CHANGES[1]), 0);
        read.resize(CHANGES, OLD_ABOVE);
        let [built, kept, folded, unmeasured, unsuited, swept, usual, spread, above] =
            read.try_into().expect("so many");
        level.above = above.clamp(1, WIDEST_ABOVE) as usize;
        let number = |bits: u64| f64::from_bits(bits) as f32;
        lie = Lie { usual: number(usual), spread: number(spread) };
        let count = |number: u64| number.min(u64::from(NONE)) as usize;
        let [built, folded, unmeasured, unsuited, swept] = [built, folded, unmeasured, unsuited, swept].map(count);
        change = Change { built, kept: f64::from_bits(kept), folded, unmeasured, unsuited, swept };
    }
    let (rows, linked, places) = (of_nodes, nodes, OnceLock::new());
    let (codes, level) = (Arc::new(codes), Arc::new(level));
    Ok(Graph { rows, guide, codes, level, linked, widths, lie, covered, outside, dead, change, places })
}

/// Neighbours from their bytes in a file.
fn links_of(bytes: [u8; 4 * Links::WIDTH]) -> Links {
    Links(std::array::from_fn(|i| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_kernels::Metric;
    use nearfield_kernels::project::Random;

    #[test]
    fn a_graph_is_walked_as_it_was_when_its_widths_were_measured() {
        let mut random = Random::new(1);
        let rows: Vec<f32> = (0..3000 * 16).map(|_| random.normal()).collect();
        let mut index = Hnsw::new(16, Metric::L2).unwrap();
        index.add(&rows, None, 2).unwrap();
        let graph = index.graph.as_mut().unwrap();
        Arc::make_mut(&mut graph.level).above = 7;
        let (widths, lie) = (graph.widths, graph.lie);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.nfi");
        index.save(&path).unwrap();
        let graph = Hnsw::load(&path, 1).unwrap().graph.unwrap();
        assert!(graph.level.above == 7 && !graph.level.upper.is_empty());
        assert_eq!((graph.widths, graph.lie), (widths, lie));
    }
}
