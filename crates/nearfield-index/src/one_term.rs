//! Searching for a single term: its blocks in the order of their maxima, and in them only what its code lets hope.

use crate::maxscore::{Best, Impacts, List, SLACK, Search, Work};
use crate::postings::{BLOCK, Segment};

impl<I: Impacts> Search<'_, I> {
    /// Puts the best rows of a term whose addends are positive into `best`.
    pub fn one_term(&self, list: &List, best: &mut Best, work: &mut Work) {
        let Segment { codes, blocks, .. } = self.segment;
        let part = |block: u32| {
            let start = block as usize * BLOCK;
            start.max(list.at)..(start + BLOCK).min(list.end)
        };
        let mut order: Vec<u32> = ((list.at / BLOCK) as u32..list.end.div_ceil(BLOCK) as u32).collect();
        let few = ((2 * best.k()).div_ceil(BLOCK) + 1).min(order.len());
        if few < order.len() {
            order.select_nth_unstable_by(few, |one, other| blocks[*other as usize].total_cmp(&blocks[*one as usize]));
        }
        // Of the most promising blocks the best codes come first: as many as there are answers, and their equals.
        let mut counts = [0usize; 256];
        for block in &order[..few] {
            codes[part(*block)].iter().for_each(|code| counts[usize::from(*code)] += 1);
            work.postings += part(*block).len();
        }
        let mut least = 256;
        let mut sum = 0;
        while least > 0 && sum < best.k() {
            least -= 1;
            sum += counts[least];
        }
        let mut positions = Vec::with_capacity(sum);
        for block in &order[..few] {
            positions.extend(part(*block).filter(|at| usize::from(codes[*at]) >= least));
        }
        self.score_all(list, &positions, best, work);
        for (i, block) in order.iter().enumerate() {
            let bar = best.bar_of_any();
            if f64::from(blocks[*block as usize]) * list.scale <= bar {
                continue;
            }
            let below = if i < few { least } else { 256 };
            work.postings += if i < few { 0 } else { part(*block).len() };
            let hopes =
                |at: &usize| usize::from(codes[*at]) < below && list.top / 255.0 * f64::from(codes[*at]) * SLACK > bar;
            positions.clear();
            positions.extend(part(*block).filter(hopes));
            self.score_all(list, &positions, best, work);
        }
    }

    fn score_all(&self, list: &List, positions: &[usize], best: &mut Best, work: &mut Work) {
        let rows = &self.segment.rows;
        positions.iter().for_each(|at| self.impacts.ask_for(*at, rows[*at]));
        for (at, row) in positions.iter().map(|at| (*at, rows[*at])) {
            if self.within.holds.is_none_or(|holds| holds(row)) {
                best.push(list.weight * self.impacts.at(at, row), row);
            }
        }
        work.looked_up += positions.len();
    }
}
