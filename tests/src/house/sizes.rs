//! How long functions and files are, and how much test there is for the product.

use super::graph::House;
use super::source::Source;

/// The longest, the 90th percentile and the median of some lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    /// The longest of all.
    pub(crate) max: usize,
    /// Nine of ten are no longer.
    pub(crate) p90: usize,
    /// Half are no longer.
    pub(crate) median: usize,
}

impl Spread {
    /// The spread of these lengths, zero of none.
    pub(crate) fn of(mut lengths: Vec<usize>) -> Spread {
        lengths.sort_unstable();
        let at = |percent: usize| lengths.get(lengths.len().saturating_sub(1) * percent / 100).copied();
        let of = |percent: usize| at(percent).unwrap_or_default();
        Spread { max: of(100), p90: of(90), median: of(50) }
    }
}

/// Lengths of the product's functions.
pub(crate) fn functions(house: &House) -> Spread {
    Spread::of(house.files.iter().flat_map(|f| f.parsed.functions.iter().map(|f| f.lines)).collect())
}

/// Lengths of the product's files, what stands under `#[cfg(test)]` apart.
pub(crate) fn files(house: &House) -> Spread {
    Spread::of(house.files.iter().map(|f| f.parsed.product_lines()).collect())
}

/// (test, product) lines: all Rust of the repository that is not product is test.
pub(crate) fn test_and_product(house: &House, sources: &[Source]) -> (usize, usize) {
    let all: usize = sources.iter().map(|s| s.text.lines().count()).sum();
    let product: usize = house.files.iter().map(|f| f.parsed.product_lines()).sum();
    (all.saturating_sub(product), product)
}
