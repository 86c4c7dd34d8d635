//! Random numbers from a seed: SplitMix64 (Steele, Lea, Flood: *Fast splittable pseudorandom number generators*,
//! OOPSLA 2014), which is short and good enough.

pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed ^ 0x5745_524e_4153_494d)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `from`, and below `to`.
    pub(super) const fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    /// Yes, in so many of a thousand cases.
    pub(super) const fn chance(&mut self, permille: u64) -> bool {
        self.range(0, 1000) < permille
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}
