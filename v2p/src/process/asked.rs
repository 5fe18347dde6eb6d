//! Which addresses are asked about: there may be as many ranges as mappings, and every page of every event is looked up.

use super::maps::Range;

/// The same addresses in order and apart. Of something asked about, something is left.
pub fn merged(mut asked: Vec<Range>) -> Vec<Range> {
    asked.sort_by_key(|range| range.start);
    asked.dedup_by(|next, last| {
        let is_one = next.start <= last.end;
        if is_one {
            last.end = last.end.max(next.end);
        }
        is_one
    });
    asked
}

/// Whether `va` lies in what is asked about, which is in order and apart, as [`merged`] gives it: nothing named is all.
pub fn is_asked(asked: &[Range], va: u64) -> bool {
    let next = asked.partition_point(|range| range.end <= va);
    asked.is_empty() || asked.get(next).is_some_and(|range| range.start <= va)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(of: &[(u64, u64)]) -> Vec<Range> {
        let range = |&(start, end)| Range { start, end };
        of.iter().map(range).collect()
    }

    #[test]
    fn what_is_asked_about_in_any_order_and_twice_is_in_order_and_apart() {
        let asked = ranges(&[(50, 90), (10, 30), (60, 70), (30, 40), (20, 25), (95, 95)]);
        let apart = merged(asked.clone());
        assert_eq!(apart, ranges(&[(10, 40), (50, 90), (95, 95)]));
        for va in 0..100 {
            let is_in_one = asked.iter().any(|r| (r.start..r.end).contains(&va));
            assert_eq!(is_asked(&apart, va), is_in_one, "{va}");
        }
        assert!(is_asked(&merged(Vec::new()), 7));
        assert!(!is_asked(&merged(ranges(&[(7, 7)])), 7));
    }
}
