//! The k-th largest value of a stream: the bar that a row's upper bound has to reach.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A float32 in the total order of IEEE 754.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}
impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Keeps the k largest values it was given.
#[derive(Debug)]
pub struct KthLargest {
    k: usize,
    heap: BinaryHeap<Reverse<Ordered>>,
}

impl KthLargest {
    /// The bar before k values are known: below every finite value, above minus infinity.
    pub const LOWEST: f32 = f32::MIN;

    /// For k >= 1.
    pub fn new(k: usize) -> Self {
        assert!(k >= 1);
        Self { k, heap: BinaryHeap::new() }
    }

    /// Takes a value in; returns the k-th largest so far, or [`Self::LOWEST`] while there are fewer.
    pub fn push(&mut self, value: f32) -> f32 {
        if self.heap.len() < self.k {
            self.heap.push(Reverse(Ordered(value)));
        } else if let Some(mut least) = self.heap.peek_mut()
            && least.0.0 < value
        {
            *least = Reverse(Ordered(value));
        }
        self.value()
    }

    /// The k-th largest so far, or [`Self::LOWEST`].
    pub fn value(&self) -> f32 {
        match self.heap.peek() {
            Some(least) if self.heap.len() == self.k => least.0.0.max(Self::LOWEST),
            _ => Self::LOWEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_equals_the_kth_of_a_sort() {
        let values: Vec<f32> = (0..200u32).map(|i| (i.wrapping_mul(2_654_435_761) % 97) as f32 - 40.0).collect();
        for k in [1, 2, 7, 200, 201] {
            let mut bar = KthLargest::new(k);
            for n in 1..=values.len() {
                let got = bar.push(values[n - 1]);
                let mut sorted = values[..n].to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                assert_eq!(got, sorted.get(k - 1).copied().unwrap_or(KthLargest::LOWEST));
            }
        }
    }

    #[test]
    fn rows_without_a_lower_bound_do_not_lower_the_bar_to_minus_infinity() {
        let mut bar = KthLargest::new(1);
        assert_eq!(bar.push(f32::NEG_INFINITY), KthLargest::LOWEST);
    }
}
