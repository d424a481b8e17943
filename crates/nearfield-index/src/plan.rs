//! Which way to answer: by a scan of the rows that may be answered, or by a walk through the graph.
//!
//! Costs are counted in nanoseconds of one core of a server of 2020. What matters is where they cross, and there a mistake
//! costs little. They depend on counts alone, so the same request is answered the same way everywhere.

/// A walk, for each node of its width: a little over half of them are expanded.
const HOP: f64 = 250.0;

/// A step of a walk, a node expanded.
const STEP: f64 = 300.0;

/// A row of a scan, and each of its dimensions: for one query, and for each of many, which share the reading.
const SCAN_ONE: (f64, f64) = (3.0, 0.025);
const SCAN_MANY: (f64, f64) = (0.5, 0.007);

/// Queries from which on a scan serves many at once.
const MANY: usize = 12;

/// Numbers (rows times dimension) that are scanned in a few milliseconds: up to here [`crate::Auto`] builds no graph.
pub(crate) const GRAPH_FROM: usize = 1 << 26;

/// Numbers up to which [`crate::Auto`] answers exactly where no recall was asked for.
pub(crate) const EXACT_UP_TO: usize = 1 << 27;

/// Whether a walk of this width is expected to be faster than a scan of so many rows.
pub(crate) fn walk_is_faster(width: usize, rows: usize, dimension: usize, queries: usize) -> bool {
    let (row, number) = if queries < MANY { SCAN_ONE } else { SCAN_MANY };
    (width as f64) * HOP < rows as f64 * (row + number * dimension as f64)
}

/// Steps of a walk that take as long as a scan of so many rows: where more are needed, the scan is better. And steps
/// after which a walk looks whether that is so: few beside the scan, so that a walk for nothing costs little.
pub(crate) fn budget(rows: usize, dimension: usize, queries: usize) -> (usize, usize) {
    let (row, number) = if queries < MANY { SCAN_ONE } else { SCAN_MANY };
    let steps = (rows as f64 * (row + number * dimension as f64) / STEP) as usize;
    (steps, (steps / 10).max(16))
}

/// How many rows about a query hold k of those that may be answered, where `inside` of `nodes` may: as many as hold them
/// on an average, and three standard deviations more. Where a filter has to do with the query there can be fewer; a walk
/// that finds too few starves, and its query is answered by a scan.
pub(crate) fn depth(k: usize, inside: usize, nodes: usize) -> usize {
    if inside >= nodes {
        return k;
    }
    let enough = k as f64 + 3.0 * (k as f64).sqrt();
    ((enough * nodes as f64 / inside.max(1) as f64) as usize).clamp(k, nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_filters_are_scanned_and_wide_ones_walked() {
        let walks = |share: f64| {
            let inside = (1e6 * share) as usize;
            walk_is_faster(2 * depth(10, inside, 1_000_000), inside, 384, 1)
        };
        assert!(walks(1.0) && walks(0.5) && walks(0.1));
        assert!(!walks(0.01) && !walks(0.001) && !walks(0.0));
    }

    #[test]
    fn a_filter_asks_for_more_depth_and_none_for_the_same() {
        assert_eq!(depth(10, 1000, 1000), 10);
        assert!(depth(10, 500, 1000) > 20);
        assert_eq!(depth(10, 1, 1000), 1000);
    }
}
