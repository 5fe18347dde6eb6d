//! What happened each second, and how that looks. Pure.

use std::collections::VecDeque;

/// Seconds that are kept.
const KEPT: usize = 120;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Counts of something, second by second.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Series {
    /// Seconds that are over, the oldest first.
    past: VecDeque<u64>,
    now: u64,
    /// Since the start.
    pub total: u64,
}

impl Series {
    /// So many more.
    pub const fn add(&mut self, n: u64) {
        self.now += n;
        self.total += n;
    }

    /// A second is over.
    pub fn roll(&mut self) {
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back(std::mem::take(&mut self.now));
    }

    /// How many there were in the last whole second.
    pub fn rate(&self) -> u64 {
        self.past.back().copied().unwrap_or(0)
    }

    /// The last `width` seconds as bars, the highest being the highest of these; nothing where there was nothing.
    pub fn bars(&self, width: usize) -> String {
        let skip = self.past.len().saturating_sub(width);
        let shown = || self.past.iter().skip(skip);
        let most = shown().copied().max().unwrap_or(0).max(1);
        let bar = |n: &u64| match n {
            0 => ' ',
            n => {
                let step = (u128::from(*n) * 8).div_ceil(u128::from(most)) - 1;
                let step = usize::try_from(step).unwrap_or(0);
                BARS.get(step).copied().unwrap_or('█')
            }
        };
        let missing = width - shown().count().min(width);
        std::iter::repeat_n(' ', missing)
            .chain(shown().map(bar))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_seconds() {
        let mut series = Series::default();
        for n in [0, 1, 4, 8] {
            series.add(n);
            series.roll();
        }
        series.add(5);
        assert_eq!((series.rate(), series.total), (8, 18));
        assert_eq!(series.bars(6), "   ▁▄█");
        assert_eq!(series.bars(2), "▄█");
        assert_eq!(series.bars(0), "");
    }

    #[test]
    fn only_the_last_seconds_are_kept() {
        let mut series = Series::default();
        series.add(1000);
        (0..KEPT + 1).for_each(|_| series.roll());
        assert_eq!(series.past.len(), KEPT);
        assert_eq!(series.bars(5), "     ");
        assert_eq!(series.total, 1000);
    }
}
