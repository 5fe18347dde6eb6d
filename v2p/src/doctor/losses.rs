//! What a watch follows, by which hooks, and what it loses where they are not live: pure.

use serde::Serialize;

use crate::{
    kernel::layout::{MAPS, ZAPS},
    tracer::Missing,
};

/// Something that a watch follows.
struct Part {
    what: &'static str,
    /// Any of these sets of hooks shows it, by the names of their tracepoints, events and functions: kernels call things
    /// differently.
    by: &'static [&'static [&'static str]],
    /// Hooks on functions show it best.
    by_function: bool,
    /// A hook that stands in, and how far.
    instead: Option<(&'static str, &'static str)>,
    /// How it is seen without all these.
    without: &'static str,
}

const COMPARED: &str = "found by comparing the page tables only (reconciled)";
const AS_A_CALL_RETURNS: &str = "seen as the process's own system call returns (sys_exit)";

const fn tracepoints(
    what: &'static str,
    by: &'static [&'static [&'static str]],
    without: &'static str,
) -> Part {
    Part {
        what,
        by,
        by_function: false,
        instead: None,
        without,
    }
}

const fn functions(
    what: &'static str,
    by: &'static [&'static [&'static str]],
    instead: Option<(&'static str, &'static str)>,
    without: &'static str,
) -> Part {
    Part {
        what,
        by,
        by_function: true,
        instead,
        without,
    }
}

/// In the order of [`crate::tracer`]'s hooks.
const PARTS: [Part; 24] = [
    tracepoints(
        "pages that are moved",
        &[&["set_migration_pte", "remove_migration_pte"]],
        "found by comparing the page tables only (reconciled); a write through /dev/mem can only be unproven",
    ),
    tracepoints(
        "huge pages that are moved",
        &[&["set_migration_pmd", "remove_migration_pmd"]],
        COMPARED,
    ),
    tracepoints(
        "the kernel's reason for a move",
        &[&["mm_migrate_pages"]],
        "not told: reason is null",
    ),
    tracepoints(
        "page faults",
        &[&["page-faults-min", "page-faults-maj"]],
        "--faults shows none; first touches and copies on write are found by comparing the page tables only (reconciled)",
    ),
    tracepoints(
        "the kind of access (watch --faults)",
        &[&["page_fault_user", "page_fault_kernel"]],
        "not told: access is null",
    ),
    tracepoints(
        "the end of an address space",
        &[&["exit_mmap"]],
        "seen when the process is gone, not before",
    ),
    tracepoints(
        "an exec",
        &[&["sched_process_exec"]],
        "not followed: the new program's pages are not watched",
    ),
    tracepoints(
        "children (watch --follow)",
        &[&["sched_process_fork", "sched_process_exit"]],
        "cannot be followed",
    ),
    tracepoints(
        "file pages that are collapsed into a huge one",
        &[&["mm_khugepaged_collapse_file"], &["collapse_file"]],
        COMPARED,
    ),
    tracepoints(
        "pages that KSM merges",
        &[
            &["ksm_merge_one_page", "ksm_merge_with_ksm_page"],
            &["try_to_merge_one_page"],
        ],
        COMPARED,
    ),
    functions(
        "pages of a file that come with the one that was touched",
        &[&[MAPS[0]], &[MAPS[1]]],
        Some((
            "mm_filemap_map_pages",
            "seen within the fault (mm_filemap_map_pages)",
        )),
        COMPARED,
    ),
    functions(
        "pages that are unmapped, discarded or truncated",
        &[&[ZAPS[0]], &[ZAPS[1]]],
        Some((
            "sys_exit",
            "munmap, mmap and madvise of the process itself are seen as they return (sys_exit); brk, truncation and holes that are punched are found by comparing the page tables only (reconciled)",
        )),
        COMPARED,
    ),
    functions(
        "pages that are swapped out, reclaimed or poisoned",
        &[&["try_to_unmap_one"]],
        Some((
            "sys_exit",
            "madvise(MADV_PAGEOUT) of the process itself is seen as it returns (sys_exit); all else is found by comparing the page tables only (reconciled)",
        )),
        COMPARED,
    ),
    functions(
        "hugetlb pages that are unmapped",
        &[&["__unmap_hugepage_range"]],
        Some((
            "sys_exit",
            "seen as the process's own system call returns (sys_exit), a part of a range as the whole",
        )),
        COMPARED,
    ),
    functions(
        "pages that userfaultfd puts in",
        &[&["userfaultfd_ioctl"]],
        Some(("sys_exit", "seen as the ioctl returns (sys_exit)")),
        COMPARED,
    ),
    functions(
        "pages that swapoff brings back",
        &[&["unuse_pte_range"]],
        None,
        COMPARED,
    ),
    functions(
        "pages of text that a uprobe puts a breakpoint into",
        &[&["uprobe_write_opcode"]],
        None,
        COMPARED,
    ),
    functions("pages that KSM unmerges", &[&["break_ksm"]], None, COMPARED),
    functions(
        "pages that mremap moves",
        &[&["move_page_tables"]],
        Some(("sys_exit", AS_A_CALL_RETURNS)),
        COMPARED,
    ),
    functions(
        "pages that mlock, MAP_POPULATE and madvise bring in",
        &[
            &["__get_user_pages"],
            &["populate_vma_page_range", "faultin_vma_page_range"],
        ],
        Some(("sys_exit", AS_A_CALL_RETURNS)),
        COMPARED,
    ),
    functions(
        "pages that others write, by /proc/PID/mem and ptrace",
        &[&["__get_user_pages"], &["__access_remote_vm"]],
        None,
        COMPARED,
    ),
    functions(
        "pages that others write, by process_vm_writev",
        // On 6.1 it comes by none of the ways that can be hooked there.
        &[&["__get_user_pages"]],
        None,
        COMPARED,
    ),
    functions(
        "pages that are collapsed into a huge one",
        &[&["collapse_huge_page"]],
        Some((
            "mm_collapse_huge_page",
            "seen, though not where: compared with the page tables (mm_collapse_huge_page)",
        )),
        COMPARED,
    ),
    functions(
        "mapped file pages that become one huge entry",
        &[
            &["try_collapse_pte_mapped_thp"],
            &["collapse_pte_mapped_thp"],
        ],
        None,
        COMPARED,
    ),
];

/// Hooks that only stand in for others, or show in another way what others show too: without them nothing more is lost.
const HELPERS: [&str; 2] = ["page-faults", "__gup_longterm_locked"];

/// What a watch does not see as it happens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Lost {
    /// What is not followed.
    pub what: String,
    /// Hooks that would show it, and are not live.
    pub hooks: Vec<String>,
    /// The kernel's reason.
    pub why: String,
    /// How `watch` sees it instead.
    pub then: &'static str,
    /// Hooks on functions would show it best.
    #[serde(skip)]
    pub by_function: bool,
}

/// What is lost without the hooks that are `missing`.
pub fn losses(live: &[String], missing: &[Missing]) -> Vec<Lost> {
    let mut lost: Vec<_> = PARTS
        .iter()
        .filter_map(|part| part.lost(live, missing))
        .collect();
    // A hook that a later version of the tracer has, and this list does not.
    let is_known = |hook: &str| {
        let is_of = |part: &Part| {
            let instead = part.instead.is_some_and(|(name, _)| name == hook);
            instead || part.by.iter().any(|set| set.contains(&hook))
        };
        HELPERS.contains(&hook) || PARTS.iter().any(is_of)
    };
    let unknown = missing.iter().filter(|one| !is_known(&one.hook));
    lost.extend(unknown.map(|one| Lost {
        what: format!("what {} shows", one.hook),
        hooks: vec![one.hook.clone()],
        why: one.why.clone(),
        then: "cannot tell what is lost by it",
        by_function: true,
    }));
    lost
}

impl Part {
    fn lost(&self, live: &[String], missing: &[Missing]) -> Option<Lost> {
        let is_live = |hook: &str| live.iter().any(|other| other == hook);
        let is_whole = |set: &&[&str]| set.iter().all(|hook| is_live(hook));
        if self.by.iter().any(is_whole) {
            return None;
        }
        let hooks = self.by.iter().copied().flatten();
        let absent: Vec<_> = hooks
            .filter_map(|hook| missing.iter().find(|one| one.hook == **hook))
            .collect();
        let mut reasons: Vec<&str> = absent.iter().map(|one| one.why.as_str()).collect();
        reasons.dedup();
        let stands_in = self.instead.filter(|(hook, _)| is_live(hook));
        Some(Lost {
            what: self.what.to_owned(),
            hooks: absent.iter().map(|one| one.hook.clone()).collect(),
            why: match reasons.is_empty() {
                true => "not tried, since functions take no programs".to_owned(),
                false => reasons.join("; "),
            },
            then: stands_in.map_or(self.without, |(_, how)| how),
            by_function: self.by_function,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn missing(hook: &str) -> Missing {
        Missing {
            hook: hook.to_owned(),
            why: "no".to_owned(),
        }
    }

    /// All hooks of one version: the first set of each part.
    fn everything() -> Vec<String> {
        let first = PARTS.iter().filter_map(|part| part.by.first());
        names(&first.copied().flatten().copied().collect::<Vec<_>>())
    }

    fn found<'a>(lost: &'a [Lost], what: &str) -> &'a Lost {
        lost.iter().find(|one| one.what.contains(what)).unwrap()
    }

    #[test]
    fn nothing_is_lost_where_one_of_the_ways_is_live() {
        assert!(losses(&everything(), &[]).is_empty());
        let mut live = everything();
        live.retain(|hook| hook != "unmap_page_range");
        assert_eq!(losses(&live, &[]).len(), 1);
        live.push("__zap_vma_range".to_owned());
        assert!(losses(&live, &[missing("unmap_page_range")]).is_empty());
    }

    #[test]
    fn of_what_only_stands_in_nothing_is_lost() {
        for (hook, _) in PARTS.iter().filter_map(|part| part.instead) {
            assert!(losses(&everything(), &[missing(hook)]).is_empty(), "{hook}");
        }
    }

    #[test]
    fn half_of_a_pair_shows_nothing() {
        let mut live = everything();
        live.retain(|hook| hook != "remove_migration_pte");
        let lost = losses(&live, &[missing("remove_migration_pte")]);
        let [one] = lost.as_slice() else {
            panic!("{lost:?}")
        };
        assert_eq!((one.hooks.len(), one.why.as_str()), (1, "no"));
        assert!(one.then.contains("reconciled") && !one.by_function);
    }

    #[test]
    fn what_stands_in_is_told_only_where_it_is_live() {
        let mut live = everything();
        live.retain(|hook| hook != "unmap_page_range" && hook != "move_page_tables");
        let then = |live: &[String]| found(&losses(live, &[]), "mremap").then;
        assert_eq!(then(&live), COMPARED);
        live.push("sys_exit".to_owned());
        assert_eq!(then(&live), AS_A_CALL_RETURNS);
        let lost = losses(&live, &[missing("unmap_page_range")]);
        assert!(found(&lost, "unmapped").then.contains("truncation"));
        assert!(found(&lost, "mremap").why.starts_with("not tried"));
    }

    #[test]
    fn a_hook_that_is_not_listed_is_not_passed_over() {
        let lost = losses(
            &everything(),
            &[missing("something_new"), missing("sys_exit")],
        );
        let [one] = lost.as_slice() else {
            panic!("{lost:?}")
        };
        assert_eq!(one.hooks, ["something_new"]);
        assert!(one.then.starts_with("cannot tell"));
    }
}
