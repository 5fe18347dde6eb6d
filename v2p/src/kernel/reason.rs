//! The kernel's reasons for a migration, by their numbers in this kernel.

/// Names of `enum migrate_reason` (include/linux/migrate_mode.h, 6.1 to 7.3), and ours.
const NAMES: [(&str, &str); 10] = [
    ("MR_COMPACTION", "compaction"),
    ("MR_MEMORY_FAILURE", "memory-failure"),
    ("MR_MEMORY_HOTPLUG", "hotplug"),
    ("MR_SYSCALL", "syscall"),
    ("MR_MEMPOLICY_MBIND", "mempolicy"),
    ("MR_NUMA_MISPLACED", "numa"),
    ("MR_CONTIG_RANGE", "contig"),
    ("MR_LONGTERM_PIN", "longterm-pin"),
    ("MR_DEMOTION", "demotion"),
    ("MR_DAMON", "damon"),
];

/// Numbers and what they mean here.
pub struct Reasons(Vec<(u64, &'static str)>);

impl Reasons {
    /// By the names and values of the kernel's `enum migrate_reason`.
    pub(super) fn of(enumerators: &[(&str, u32)]) -> Self {
        let named = enumerators.iter().filter_map(|(name, number)| {
            let (_, ours) = NAMES.iter().find(|(theirs, _)| theirs == name)?;
            Some((u64::from(*number), *ours))
        });
        Self(named.collect())
    }

    /// What a number means; `None`: nothing that is known.
    pub fn name(&self, number: u64) -> Option<&'static str> {
        let (_, name) = self.0.iter().find(|(n, _)| *n == number)?;
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_this_kernels_own() {
        let reasons = Reasons::of(&[("MR_NUMA_MISPLACED", 3), ("MR_TYPES", 4)]);
        assert_eq!(reasons.name(3), Some("numa"));
        assert_eq!(reasons.name(4), None);
    }
}
