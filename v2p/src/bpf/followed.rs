//! The address spaces of descendants, as the programs look for them.

use aya::maps::HashMap;

use super::Programs;

/// The map, which the programs otherwise keep by themselves.
pub(super) const FOLLOWED: &str = "FOLLOWED";

impl Programs {
    /// Has the programs report of `mm`, whose end they were not told, no more, where none of its places is `taken`: at its address there may be
    /// another by now, a stranger's or one that is followed.
    pub(crate) fn unfollow(&mut self, mm: u64, taken: impl Fn() -> bool) {
        let map = self.ebpf.map_mut(FOLLOWED);
        let map = map.and_then(|map| HashMap::<_, u64, u64>::try_from(map).ok());
        if let Some(mut map) = map
            && !taken()
        {
            // What is not there needs not be taken out.
            let _ = map.remove(&mm);
            // A program takes the place first (v2p-ebpf/src/family.rs): this one came in between.
            if taken() {
                let _ = map.insert(mm, 1, 0);
            }
        }
    }
}
