//! Limits that a watch may meet: memory that may be locked, the memory cgroup, open files. Pure; read, and named where the kernel
//! refused for one of them, by [`kernel::limits`](crate::kernel::limits).

use super::check::{Check, Id};
use crate::{
    bpf::RING_BYTES,
    kernel::limits::{Limits, ROOM},
};

/// Descriptors that each hook takes: a program and its link.
const FILES_A_HOOK: u64 = 2;

impl Limits {
    /// The ring was made.
    pub(super) fn judge_ring(&self) -> Check {
        let id = Id::RingBuffer;
        let made = format!("a ring of {} MiB was made", RING_BYTES >> 20);
        let locked = match self.locked {
            None => "RLIMIT_MEMLOCK unlimited".to_owned(),
            // Before 5.11 it was, and there would be no ring (kernel/bpf/syscall.c, bpf_map_charge_init).
            Some(bytes) if bytes < u64::from(RING_BYTES) => {
                format!("RLIMIT_MEMLOCK {bytes} bytes, by which this kernel does not count maps")
            }
            Some(bytes) => format!("RLIMIT_MEMLOCK {bytes} bytes"),
        };
        match &self.memory {
            Some(group) if group.room() < ROOM => {
                let what = "the maps are there, but the memory cgroup leaves little for the pages that a watch knows of: the kernel kills who goes beyond";
                let evidence = format!("{made}; {}; {locked}", group.evidence());
                Check::limits(id, what, evidence).mend(group.raise())
            }
            Some(group) => {
                let evidence = format!("{made}; memory cgroup: {}; {locked}", group.evidence());
                Check::ok(id, "the maps are there", evidence)
            }
            None => Check::ok(
                id,
                "the maps are there",
                format!("{made}; {locked}; no memory cgroup limits us"),
            ),
        }
    }

    /// Threads whose faults can be followed beside `hooks` live hooks, by `events` for each, of which each takes a descriptor; none: any number.
    fn threads(&self, hooks: usize, events: usize) -> Option<u64> {
        let taken = self.open_files + FILES_A_HOOK * hooks as u64;
        let left = self.files?.saturating_sub(taken);
        Some(left.checked_div(events as u64).unwrap_or(0))
    }

    /// Whether the faults of a process of `threads` threads can be followed: what shows it, and whether they cannot.
    pub(super) fn judge_threads(
        &self,
        hooks: usize,
        events: usize,
        threads: u64,
    ) -> (String, bool) {
        match (self.files, self.threads(hooks, events)) {
            (Some(files), Some(room)) => {
                let evidence = format!(
                    "RLIMIT_NOFILE {files} (hard) is room for the faults of {room} threads"
                );
                (evidence, room < threads)
            }
            _ => ("RLIMIT_NOFILE unlimited".to_owned(), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::check::Status, kernel::limits::Group};

    fn limits(locked: Option<u64>, memory: Option<(u64, u64)>) -> Limits {
        Limits {
            locked,
            memory: memory.map(|(limit, used)| Group {
                file: "/sys/fs/cgroup/a/memory.max".to_owned(),
                limit,
                used: Some(used),
            }),
            files: Some(1024),
            open_files: 24,
        }
    }

    #[test]
    fn a_ring_larger_than_what_may_be_locked_is_not_counted_by_that() {
        let check = limits(Some(8 << 20), None).judge_ring();
        assert_eq!(check.status, Status::Ok);
        assert!(check.evidence.contains("does not count maps"), "{check:?}");
        let check = limits(Some(64 << 20), None).judge_ring();
        assert!(!check.evidence.contains("does not count"), "{check:?}");
    }

    #[test]
    fn a_full_memory_cgroup_is_named_with_its_file() {
        let check = limits(None, Some((100 << 20, 90 << 20))).judge_ring();
        assert_eq!(check.status, Status::Limits);
        assert!(
            check
                .evidence
                .contains("10485760 of them free (/sys/fs/cgroup/a/memory.max)")
        );
        let check = limits(None, Some((1 << 30, 90 << 20))).judge_ring();
        assert_eq!(check.status, Status::Ok);
    }

    #[test]
    fn threads_are_counted_by_the_descriptors_that_are_left() {
        // 1024 less 24 and 2 * 50 for hooks.
        let limits = limits(None, None);
        let (evidence, few) = limits.judge_threads(50, 2, 450);
        assert!(evidence.contains("of 450 threads") && !few, "{evidence}");
        assert!(limits.judge_threads(50, 2, 451).1);
        assert!(!limits.judge_threads(50, 3, 300).1 && limits.judge_threads(50, 3, 301).1);
    }
}
