//! Sums that are rounded once, whatever the order of their terms: what makes ranks the same on every CPU, and equal
//! scores ties.

/// Running sum of float64 terms in `L` lanes, each with the error it has made so far. TwoSum is Knuth's; the doubled
/// precision is that of Ogita, Rump and Oishi, "Accurate Sum and Dot Product", 2005.
pub(crate) struct Accumulator<const L: usize> {
    pub high: [f64; L],
    pub low: [f64; L],
    /// Sum of the absolute terms, which bounds the error of `low`.
    pub mass: [f64; L],
}

impl<const L: usize> Accumulator<L> {
    #[inline(always)]
    pub fn new() -> Self {
        Self { high: [0.0; L], low: [0.0; L], mass: [0.0; L] }
    }

    #[inline(always)]
    pub fn add(&mut self, terms: &[f64; L]) {
        for j in 0..L {
            let sum = self.high[j] + terms[j];
            let added = sum - self.high[j];
            self.low[j] += (self.high[j] - (sum - added)) + (terms[j] - added);
            self.high[j] = sum;
            self.mass[j] += terms[j].abs();
        }
    }

    /// The sum of `count` terms, rounded once; None where the error could decide the rounding (the test is Ziv's).
    /// The number of lanes is a power of two: they are folded in halves.
    #[inline(always)]
    pub fn rounded(mut self, count: usize) -> Option<f64> {
        let mut half = L / 2;
        while half > 0 {
            for j in 0..half {
                let (a, b) = (self.high[j], self.high[j + half]);
                let sum = a + b;
                let added = sum - a;
                self.low[j] += self.low[j + half] + ((a - (sum - added)) + (b - added));
                self.high[j] = sum;
                self.mass[j] += self.mass[j + half];
            }
            half /= 2;
        }
        let (high, low) = (self.high[0], self.low[0]);
        // At most `count` errors and one for each fold, of 2^-53 of the mass, each added with a relative error of 2^-53.
        let terms = (count + 2 * L) as f64;
        let error = terms * terms * self.mass[0] * 2f64.powi(-104);
        let (below, above) = (high + (low - error), high + (low + error));
        (below == above).then_some(below)
    }
}

/// Sum of `terms`, rounded once (half to even), by keeping it as parts that do not overlap.
/// Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997; the algorithm of Python's `math.fsum`.
pub fn exact(terms: impl IntoIterator<Item = f64>) -> f64 {
    let mut parts: Vec<f64> = Vec::new();
    for mut x in terms {
        let mut kept = 0;
        for i in 0..parts.len() {
            let (big, small) = if x.abs() < parts[i].abs() { (parts[i], x) } else { (x, parts[i]) };
            let sum = big + small;
            let error = small - (sum - big);
            if error != 0.0 {
                parts[kept] = error;
                kept += 1;
            }
            x = sum;
        }
        parts.truncate(kept);
        parts.push(x);
    }
    let mut high = parts.pop().unwrap_or(0.0);
    while let Some(part) = parts.pop() {
        let sum = high + part;
        let low = part - (sum - high);
        high = sum;
        if low != 0.0 {
            // Half-way between two floats, the sign of what is still below decides.
            let below = parts.last().copied().unwrap_or(0.0);
            if below != 0.0 && low.signum() == below.signum() {
                let away = high + 2.0 * low;
                if away - high == 2.0 * low {
                    high = away;
                }
            }
            break;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_term_breaks_a_tie_of_rounding() {
        let half = 2f64.powi(-53);
        for (terms, sum) in [
            ([1.0, half, 0.0], 1.0),
            ([1.0, half, 1e-300], 1.0 + 2.0 * half),
            ([1.0, half, -1e-300], 1.0),
            ([1.0 + 2.0 * half, half, 0.0], 1.0 + 4.0 * half),
            ([1.0 + 2.0 * half, half, -1e-300], 1.0 + 2.0 * half),
            ([1e100, 1.0, -1e100], 1.0),
        ] {
            assert_eq!(exact(terms), sum, "{terms:?}");
            let mut lanes = Accumulator::<1>::new();
            terms.iter().for_each(|term| lanes.add(&[*term]));
            assert!(lanes.rounded(3).is_none_or(|rounded| rounded == sum), "{terms:?} was not known to be close");
        }
    }

    #[test]
    fn ordinary_sums_do_not_need_the_slow_path() {
        let mut lanes = Accumulator::<8>::new();
        let terms: Vec<f64> = (0..800).map(|i| f64::from(i).sin()).collect();
        terms.chunks(8).for_each(|chunk| lanes.add(chunk.try_into().unwrap()));
        assert_eq!(lanes.rounded(800), Some(exact(terms)));
    }
}
