//! Which way to answer: by a scan of the rows that may be answered, by a sweep over their guide codes, or by a walk
//! through the graph.
//!
//! Costs are counted in nanoseconds of one core of a server, a query. What matters is where they cross, and there a
//! mistake costs little. They depend on counts alone, so the same request is answered the same way everywhere.

/// A step of a walk, a node expanded: some on the way in, those within the depth that ends it, and of the rest of its
/// width about this share.
const STEP: f64 = 300.0;
const WAY_IN: usize = 10;
const SHARE: f64 = 0.45;

/// What a walk and a scan take however far they go, for one query; the latter also for each of many.
const WALK: f64 = 5_000.0;
const SCAN: (f64, f64) = (8_000.0, 1_000.0);

/// A row of a scan, and each of its dimensions: for one query, and for each of many, which share the reading.
const SCAN_ONE: (f64, f64) = (3.0, 0.025);
const SCAN_MANY: (f64, f64) = (0.5, 0.007);

/// The same where the rows are gathered for one query.
const GATHER_ONE: (f64, f64) = (16.0, 0.014);

/// Queries from which on a scan serves many at once.
const MANY: usize = 12;

/// A node of a sweep, and each line of its guide code; and what it takes beside, in all and for each answer.
const SWEPT: (f64, f64) = (2.0, 7.0);
const LOOK: (f64, f64) = (14_000.0, 300.0);

/// Of more nodes than these what a sweep looks up here and there is in no cache.
const UNCACHED: usize = 1 << 18;

/// Numbers (rows times dimension) that are scanned in a few milliseconds: up to here [`crate::Auto`] builds no graph.
pub(crate) const GRAPH_FROM: usize = 1 << 26;

/// Numbers up to which [`crate::Auto`] answers exactly where no recall was asked for.
pub(crate) const EXACT_UP_TO: usize = 1 << 27;

/// A row of a graph that is built, and each dimension cubed, for the principal directions.
const BUILT: (f64, f64) = (150_000.0, 0.45);

/// A graph of so many rows.
pub(crate) fn build(rows: usize, dimension: usize) -> u64 {
    (BUILT.0 * rows as f64 + BUILT.1 * (dimension as f64).powi(3)) as u64
}

/// What a walk for k answers saves over a scan of so many rows, for one of so many queries.
pub(crate) fn saved(rows: usize, dimension: usize, queries: usize, k: usize) -> f64 {
    (scan(rows, true, dimension, queries) - walk(4 * k.max(16), k.max(10))).max(0.0)
}

/// A walk of this width that ends by so many of the nearest, or by all where these are as many.
pub(crate) fn walk(width: usize, depth: usize) -> f64 {
    let depth = depth.min(width);
    WALK + STEP * ((WAY_IN + depth) as f64 + SHARE * (width - depth) as f64)
}

/// A scan of so many rows, for one of so many queries; they lie together, or are gathered.
pub(crate) fn scan(rows: usize, together: bool, dimension: usize, queries: usize) -> f64 {
    let (row, number) = match (queries < MANY, together) {
        (true, true) => SCAN_ONE,
        (true, false) => GATHER_ONE,
        (false, _) => SCAN_MANY,
    };
    let fixed = if queries < MANY { SCAN.0 } else { SCAN.1 };
    fixed + rows as f64 * (row + number * dimension as f64)
}

/// So many rows that a structure names for a query, with what finding them takes: rows of lists, which lie together, or
/// of buckets, which are scattered and named several times.
pub(crate) fn named(rows: usize, scattered: bool, dimension: usize) -> f64 {
    match scattered {
        true => 3.0 * scan(rows, false, dimension, 1),
        false => 2.0 * scan(rows, true, dimension, 1),
    }
}

/// A sweep over some nodes of so many, for k answers.
pub(crate) fn sweep((nodes, of): (usize, usize), lines: usize, k: usize) -> f64 {
    let look = LOOK.0 + LOOK.1 * k as f64;
    let look = if of > UNCACHED { 2.0 * look } else { look };
    look + nodes as f64 * (SWEPT.0 + SWEPT.1 * lines as f64)
}

/// Steps of a walk that take as long as the other way: where more are needed, that is better. And steps after which a
/// walk looks whether that is so: few beside the other way, so that a walk for nothing costs little.
pub(crate) fn budget(other: f64) -> (usize, usize) {
    let steps = (other / STEP) as usize;
    (steps, (steps / 10).max(16))
}

/// How many rows about a query hold k of those that may be answered, where `inside` of `nodes` may: on an average, and
/// as many as hardly ever hold fewer (three standard deviations more). Where a filter has to do with the query there can
/// be fewer; a walk that finds too few starves, and its query is answered another way.
pub(crate) fn depth(k: usize, inside: usize, nodes: usize) -> [usize; 2] {
    [0.0, 3.0].map(|deviations| around(k, inside, nodes, deviations))
}

/// How many rows about a query hold k of those that may be answered, and so many standard deviations more.
pub(crate) fn around(k: usize, inside: usize, nodes: usize, deviations: f64) -> usize {
    if inside >= nodes {
        return k;
    }
    let (k, share) = (k as f64, inside.max(1) as f64 / nodes as f64);
    (((k + deviations * (k * (1.0 - share)).sqrt()) / share).ceil() as usize).min(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_filters_are_scanned_or_swept_and_wide_ones_walked() {
        let fastest = |inside: usize| {
            let (walk, sweep) = (
                walk(5 * depth(10, inside, 1_000_000)[0], depth(14, inside, 1_000_000)[0]),
                sweep((inside, 1_000_000), 1, 10),
            );
            let scan = scan(inside, false, 384, 1);
            [(walk, "walk"), (sweep, "sweep"), (scan, "scan")].into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap().1
        };
        assert_eq!([1_000_000, 500_000, 100_000].map(fastest), ["walk"; 3]);
        assert_eq!(fastest(10_000), "sweep");
        assert_eq!([500, 100, 0].map(fastest), ["scan"; 3]);
    }

    #[test]
    fn a_filter_asks_for_more_depth_and_none_for_the_same() {
        assert_eq!(depth(10, 1000, 1000), [10, 10]);
        assert_eq!(depth(10, 500, 1000), [20, 34]);
        assert_eq!(depth(10, 1, 1000), [1000, 1000]);
        assert!(depth(10, 999, 1000)[1] < 12, "a removed row makes little difference");
    }
}
