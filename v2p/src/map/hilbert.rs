//! The curve on which neighbours in memory are neighbours in a picture. Pure.

/// Where step `d` of the Hilbert curve through 2^`depth` by 2^`depth` cells lies. Every fourth part of the curve is a
/// quarter of the square.
pub(super) fn hilbert(mut d: u64, depth: u32) -> (u32, u32) {
    let (mut x, mut y) = (0, 0);
    for level in 0..depth {
        let edge = 1 << level;
        let (right, down) = (d >> 1 & 1, (d ^ d >> 1) & 1);
        if down == 0 {
            if right == 1 {
                (x, y) = (edge - 1 - x, edge - 1 - y);
            }
            (x, y) = (y, x);
        }
        if right == 1 {
            x += edge;
        }
        if down == 1 {
            y += edge;
        }
        d >>= 2;
    }
    (x, y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_curve_goes_through_every_cell_one_step_at_a_time() {
        for depth in 0..5 {
            let cells: Vec<_> = (0..1 << (2 * depth)).map(|d| hilbert(d, depth)).collect();
            assert_eq!(cells.iter().collect::<HashSet<_>>().len(), cells.len());
            for pair in cells.windows(2) {
                let step = pair[0].0.abs_diff(pair[1].0) + pair[0].1.abs_diff(pair[1].1);
                assert_eq!(step, 1, "{pair:?}");
            }
        }
    }
}
