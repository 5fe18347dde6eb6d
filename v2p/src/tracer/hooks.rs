//! Which hooks there are, and which of them this kernel lets us have.

use anyhow::Result;
use v2p_common::layout::KernelLayout;

use super::{Missing, threads::attach_to_all_threads};
use crate::{
    bpf::{FaultKind, Programs},
    kernel::layout::MAPS,
    process::Process,
};

/// Raw-tracepoint programs, which have the names of their tracepoints.
const TRACEPOINTS: [&str; 6] = [
    "set_migration_pte",
    "remove_migration_pte",
    "set_migration_pmd",
    "remove_migration_pmd",
    "exit_mmap",
    "sched_process_exec",
];

/// The two sides of a merge that KSM tells, from 6.4 on.
const KSM_TRACEPOINTS: [&str; 2] = ["ksm_merge_one_page", "ksm_merge_with_ksm_page"];

/// What following children takes.
const FORKS: [&str; 2] = ["sched_process_fork", "sched_process_exit"];

/// Without which a watch is blind to removals.
const ZAP: &str = "zap_range";
/// Those on the function that takes entries out of a range, which the kernel's types tell.
const ZAPS: [&str; 2] = [ZAP, "zap_begins"];

/// Programs, and the kernel functions that they go on: the first that this kernel has and lets us hook.
const FUNCTIONS: [(&str, &[&str]); 6] = [
    ("unmap_one", &["try_to_unmap_one"]),
    ("zap_hugetlb", &["__unmap_hugepage_range"]),
    ("userfaultfd", &["userfaultfd_ioctl"]),
    ("unuse", &["unuse_pte_range"]),
    ("uprobe", &["uprobe_write_opcode"]),
    ("ksm_break", &["break_ksm"]),
];

/// What tells of a fault's neighbours; the function is one of [`MAPS`].
const NEIGHBOURS: &str = "mapped";

/// mremap: its arguments became one struct, for which there is a program of its own.
const REMAP: &str = "move_page_tables";
/// The programs: for arguments, and for the struct.
pub(super) const REMAPS: [&str; 2] = ["remap_range", "remap_control"];

/// What tells the reason of a migration: with seven arguments, and with eight.
pub(super) const REASONS: [&str; 2] = ["migrated_of_7", "migrated_of_8"];

/// What tells every migration of a base page.
pub(super) const MIGRATIONS: [&str; 2] = ["set_migration_pte", "remove_migration_pte"];

/// What sees every other removal but mremap's as it happens.
pub(super) const REMOVALS: [&str; 3] = ["zap_begins", ZAP, "unmap_one"];

/// For this there is a tracepoint too.
const COLLAPSE_ANONYMOUS: &str = "collapse_anonymous";

/// The places that a huge page is put together in.
const COLLAPSE: [(&str, &[&str]); 4] = [
    ("collapse_file_begins", &["collapse_file"]),
    (COLLAPSE_ANONYMOUS, &["collapse_huge_page"]),
    ("collapse_file", &["collapse_file"]),
    (
        "collapse_mapped",
        &["try_collapse_pte_mapped_thp", "collapse_pte_mapped_thp"],
    ),
];

/// Where all of get_user_pages comes by, and, where that has more arguments than a hook may have (6.1), the ways to it.
const GET_USER_PAGES: &str = "__get_user_pages";
const WAYS_TO_GET_USER_PAGES: [(&str, &[&str]); 4] = [
    ("gup", &["__gup_longterm_locked"]),
    ("populate", &["populate_vma_page_range"]),
    ("populate_as_advised", &["faultin_vma_page_range"]),
    ("access_remote", &["__access_remote_vm"]),
];

/// What stands in for the hooks on functions where the kernel refuses those: they cost every process a little.
const INSTEAD_OF_FUNCTIONS: [&str; 3] =
    ["sys_exit", "mm_collapse_huge_page", "mm_filemap_map_pages"];

/// What the CPU says of a fault before it is served. Every process pays for them.
const ERROR_CODES: [&str; 2] = ["page_fault_user", "page_fault_kernel"];

/// What tells of faults.
const FAULTS: [FaultKind; 2] = [FaultKind::Minor, FaultKind::Major];

/// Hooks, as they are made live.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) live: Vec<String>,
    pub(super) missing: Vec<Missing>,
    /// Programs that are live.
    programs: Vec<&'static str>,
    /// Those for faults.
    faults: Vec<FaultKind>,
    pub(super) first_error: Option<anyhow::Error>,
}

impl Hooks {
    /// All that tell what becomes of the pages of `process`; `access`: also the kind of access that each fault came of.
    pub(super) fn of_a_watch(programs: &mut Programs, process: &Process, access: bool) -> Self {
        let mut hooks = Self::of_migrations(programs, process);
        hooks.tracepoint(programs, "mm_khugepaged_collapse_file");
        let merges = KSM_TRACEPOINTS.map(|name| hooks.tracepoint(programs, name));
        let zap = programs.zap();
        for program in ZAPS {
            hooks.function(programs, program, &[zap]);
        }
        for (program, functions) in FUNCTIONS {
            hooks.function(programs, program, functions);
        }
        let is_blind = !hooks.has(ZAP);
        programs.control().target.blind.set(is_blind.into());
        if access {
            hooks.access(programs);
        } else if is_blind {
            hooks.faults(programs, process, FaultKind::Begins);
        }
        if is_blind {
            for name in INSTEAD_OF_FUNCTIONS {
                hooks.tracepoint(programs, name);
            }
            hooks.not_tried();
            return hooks;
        }
        hooks.neighbours(programs);
        let [of_arguments, of_struct] = REMAPS;
        let remap = match programs.layout().move_old {
            KernelLayout::ABSENT => of_arguments,
            _ => of_struct,
        };
        hooks.function(programs, remap, &[REMAP]);
        if !hooks.function(programs, "gup", &[GET_USER_PAGES]) {
            for (program, functions) in WAYS_TO_GET_USER_PAGES {
                hooks.function(programs, program, functions);
            }
        }
        for (program, functions) in COLLAPSE {
            hooks.function(programs, program, functions);
        }
        if !hooks.has(COLLAPSE_ANONYMOUS) {
            hooks.tracepoint(programs, "mm_collapse_huge_page");
        }
        if merges.contains(&false) {
            hooks.function(programs, "ksm_merge", &["try_to_merge_one_page"]);
        }
        hooks
    }

    /// The functions that are left alone where the one that counts most cannot be hooked.
    fn not_tried(&mut self) {
        let collapses = COLLAPSE
            .iter()
            .filter_map(|(_, functions)| functions.first());
        let others = [MAPS[0], REMAP, GET_USER_PAGES];
        for hook in others.iter().chain(collapses) {
            let missing = Missing {
                hook: (*hook).to_owned(),
                why: "not tried, where another function cannot be hooked".to_owned(),
            };
            if !self.missing.contains(&missing) {
                self.missing.push(missing);
            }
        }
    }

    /// Those that tell the kind of access that a fault came of.
    pub(super) fn access(&mut self, programs: &mut Programs) {
        for name in ERROR_CODES {
            self.tracepoint(programs, name);
        }
    }

    /// Those that tell that a page was moved, and the faults.
    pub(super) fn of_migrations(programs: &mut Programs, process: &Process) -> Self {
        let mut hooks = Self::default();
        for name in TRACEPOINTS {
            hooks.tracepoint(programs, name);
        }
        hooks.reasons(programs);
        for kind in FAULTS {
            hooks.faults(programs, process, kind);
        }
        hooks
    }

    /// Those that tell of children. False: children cannot be followed, and the last one missing says why.
    pub(super) fn forks(&mut self, programs: &mut Programs) -> bool {
        if !programs.layout().can_follow() {
            let [hook, ..] = FORKS.map(str::to_owned);
            let why = "this kernel's tasks are not known well enough".to_owned();
            self.missing.push(Missing { hook, why });
            return false;
        }
        FORKS.iter().all(|name| self.tracepoint(programs, name))
    }

    fn faults(&mut self, programs: &mut Programs, process: &Process, kind: FaultKind) {
        let attached = attach_to_all_threads(programs, process, kind);
        if self.note(kind.event_name(), kind.event_name(), attached) {
            self.faults.push(kind);
        }
    }

    /// Attaches what tells of faults to all threads of `process` once more.
    pub(super) fn attach_faults_again(
        &self,
        programs: &mut Programs,
        process: &Process,
    ) -> Result<()> {
        let before = programs.fault_events();
        let mut kinds = self.faults.iter();
        kinds.try_for_each(|kind| attach_to_all_threads(programs, process, *kind))?;
        programs.fault_events_left(process.pid, before);
        Ok(())
    }

    /// Whether anything tells of faults.
    pub(super) const fn hears_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Whether a program is live.
    pub(super) fn has(&self, program: &str) -> bool {
        self.programs.contains(&program)
    }

    /// What tells the reason of a migration, with as many arguments as this kernel gives it.
    fn reasons(&mut self, programs: &mut Programs) {
        const NAME: &str = "mm_migrate_pages";
        let [of_7, of_8] = REASONS;
        let program = match programs.layout().migrate_arguments {
            7 => of_7,
            8 => of_8,
            other => {
                self.missing.push(Missing {
                    hook: NAME.to_owned(),
                    why: format!("{other} arguments are not known"),
                });
                return;
            }
        };
        let attached = programs.attach_tracepoint(program, NAME);
        self.note(program, NAME, attached);
    }

    /// What tells of the neighbours that come with a page.
    fn neighbours(&mut self, programs: &mut Programs) {
        let KernelLayout {
            fault_vma,
            map_arguments,
            ..
        } = *programs.layout();
        if fault_vma != KernelLayout::ABSENT && matches!(map_arguments, 3 | 5) {
            self.function(programs, NEIGHBOURS, &MAPS);
            return;
        }
        let [hook, _] = MAPS.map(str::to_owned);
        let why = "what this kernel has in its place is not known".to_owned();
        self.missing.push(Missing { hook, why });
    }

    fn tracepoint(&mut self, programs: &mut Programs, name: &'static str) -> bool {
        let attached = programs.attach_tracepoint(name, name);
        self.note(name, name, attached)
    }

    fn function(
        &mut self,
        programs: &mut Programs,
        program: &'static str,
        functions: &[&'static str],
    ) -> bool {
        let mut refused = None;
        for function in functions {
            match programs.attach_function(program, function) {
                Ok(()) => return self.note(program, function, Ok(())),
                Err(e) => refused = Some((function, e)),
            }
        }
        refused.is_some_and(|(function, e)| self.note(program, function, Err(e)))
    }

    fn note(&mut self, program: &'static str, hook: &str, attached: Result<()>) -> bool {
        match attached {
            Ok(()) => {
                // Two programs may be on one hook.
                if !self.live.iter().any(|live| live == hook) {
                    self.live.push(hook.to_owned());
                }
                self.programs.push(program);
                true
            }
            Err(e) => {
                let why = format!("{e:#}");
                let what = format!("{hook}: cannot be attached: ");
                let missing = Missing {
                    hook: hook.to_owned(),
                    why: why.strip_prefix(&what).unwrap_or(&why).to_owned(),
                };
                if !self.missing.contains(&missing) {
                    self.missing.push(missing);
                }
                self.first_error.get_or_insert(e);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::bpf::tests::programs;

    /// All that a watch may attach, but those for faults.
    fn attached() -> BTreeSet<&'static str> {
        let single = ["mm_khugepaged_collapse_file", "gup", "ksm_merge"];
        let tracepoints = [
            &TRACEPOINTS[..],
            &KSM_TRACEPOINTS,
            &FORKS,
            &INSTEAD_OF_FUNCTIONS,
            &ERROR_CODES,
            &REASONS,
            &ZAPS,
        ];
        let functions = [&FUNCTIONS[..], &COLLAPSE, &WAYS_TO_GET_USER_PAGES].concat();
        let functions = functions.into_iter().map(|(program, _)| program);
        let all = tracepoints.concat().into_iter().chain(functions);
        all.chain(REMAPS).chain(single).collect()
    }

    #[test]
    fn every_hook_is_a_program_of_the_object() {
        let missing: Vec<_> = attached().difference(&programs()).copied().collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn a_program_that_is_asked_about_is_one_that_is_attached() {
        let asked = [ZAP, COLLAPSE_ANONYMOUS].into_iter();
        let asked = asked.chain(REMOVALS).chain(MIGRATIONS);
        let asked: BTreeSet<_> = asked.chain(REMAPS).chain(REASONS).collect();
        let missing: Vec<_> = asked.difference(&attached()).copied().collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
