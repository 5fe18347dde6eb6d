//! BTF and /proc -> the [`KernelLayout`] that the programs need, and what else the kernel's types tell.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::Result;
use v2p_common::layout::KernelLayout;

use super::{
    btf::{Btf, blob::Blob},
    privileges::MOUNT_PROC,
    reason::Reasons,
};
use crate::exit::Failure;

/// Where the kernel shows its types.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// A function that every kernel with user processes has, to be asked whether functions can be hooked at all.
const SOME_FUNCTION: &str = "handle_mm_fault";

/// What takes entries out of a range of a mapping (mm/memory.c): up to 6.18 the one, in 7.x the other.
pub const ZAPS: [&str; 2] = ["unmap_page_range", "__zap_vma_range"];

/// What maps pages of a file for a fault (mm/memory.c): in 6.12 to 7.3 the one, several at a time; in 6.1 the other.
pub const MAPS: [&str; 2] = ["set_pte_range", "do_set_pte"];

/// What the kernel's types tell, read once: there are ten megabytes of them.
pub struct Learnt {
    /// What the programs need.
    pub layout: KernelLayout,
    /// What the numbers of migrations' reasons mean.
    pub reasons: Reasons,
    /// The number, among the types, of a function that programs could be attached to.
    pub some_function: Option<u32>,
    /// That of [`ZAPS`] which the kernel has; the first where it has none.
    pub zap: &'static str,
}

/// Looks everything up.
///
/// # Errors
/// Exit code 3 where the kernel has no BTF, or not what the programs need.
pub fn learn() -> Result<Learnt> {
    with_types(learn_of)?
}

/// The same, of types that are read.
///
/// # Errors
/// As [`learn`].
pub fn learn_of(btf: &Btf<'_>) -> Result<Learnt> {
    Ok(Learnt {
        layout: of(btf)?,
        reasons: Reasons::of(&btf.enumerators("migrate_reason")),
        some_function: btf.function(SOME_FUNCTION),
        zap: zap(btf),
    })
}

/// That of [`ZAPS`] which the kernel has; the first where it has none.
fn zap(btf: &Btf<'_>) -> &'static str {
    let has = |name: &&&str| btf.function(name).is_some();
    let [first, ..] = ZAPS;
    ZAPS.iter().find(has).copied().unwrap_or(first)
}

/// Has `look` look at the kernel's types.
///
/// # Errors
/// Exit code 3 where the kernel has no BTF.
pub fn with_types<T>(look: impl FnOnce(&Btf<'_>) -> T) -> Result<T> {
    let blob = Blob::of(Path::new(BTF_PATH)).map_err(|e| {
        Failure::unsupported(format!("{BTF_PATH}: {e}")).hint(
            "v2p needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (every current distribution has it), and /sys mounted",
        )
    })?;
    Ok(look(&Btf::parse(&blob).map_err(unusable)?))
}

fn unusable(e: anyhow::Error) -> Failure {
    Failure::unsupported(format!("{BTF_PATH}: {e:#}"))
}

/// What the programs need of the types.
///
/// # Errors
/// As [`learn`].
pub fn of(btf: &Btf<'_>) -> Result<KernelLayout> {
    let ns = fs::metadata("/proc/self/ns/pid")
        .map_err(|e| Failure::unsupported(format!("/proc/self/ns/pid: {e}")).hint(MOUNT_PROC))?;
    let offset = |structure, member| btf.member_offset(structure, member).map_err(unusable);
    let optional = |structure, member| {
        btf.member_offset(structure, member)
            .unwrap_or(KernelLayout::ABSENT)
    };
    let value = |name, of: &str| {
        let found = btf.enumerators(name).into_iter().find(|(n, _)| *n == of);
        found.map_or(KernelLayout::ABSENT, |(_, value)| u64::from(value))
    };
    Ok(KernelLayout {
        follow: 0,
        mm_pgd: offset("mm_struct", "pgd")?,
        task_mm: offset("task_struct", "mm")?,
        task_min_flt: offset("task_struct", "min_flt")?,
        task_maj_flt: offset("task_struct", "maj_flt")?,
        // The last of them: until 6.1 there was one a kind of event, and those in software are the last kind (include/linux/sched.h,
        // 6.1 to 7.3).
        task_perf_events: offset("task_struct", "perf_event_mutex")?.saturating_sub(8),
        task_tid: offset("task_struct", "pid")?,
        task_tgid: offset("task_struct", "tgid")?,
        task_comm: offset("task_struct", "comm")?,
        pid_ns_dev: kernel_dev(ns.dev()),
        pid_ns_ino: ns.ino(),
        vma_mm: offset("vm_area_struct", "vm_mm")?,
        vma_start: offset("vm_area_struct", "vm_start")?,
        vma_end: offset("vm_area_struct", "vm_end")?,
        vma_pgoff: offset("vm_area_struct", "vm_pgoff")?,
        folio_index: offset("folio", "index")?,
        page_mapping: offset("folio", "mapping")?,
        page_flags: offset("page", "flags")?,
        page_head_bit: value("pageflags", "PG_head"),
        page_swapbacked_bit: value("pageflags", "PG_swapbacked"),
        folio_order: folio_order(btf),
        // Until 6.6 the struct had no prefix (mm/ksm.c).
        ksm_address: match optional("ksm_rmap_item", "address") {
            KernelLayout::ABSENT => optional("rmap_item", "address"),
            found => found,
        },
        zap_even_cows: optional("zap_details", "even_cows"),
        zap_skip_cows: optional("zap_details", "skip_cows"),
        move_old: optional("pagetable_move_control", "old"),
        move_old_addr: optional("pagetable_move_control", "old_addr"),
        move_old_end: optional("pagetable_move_control", "old_end"),
        move_new_addr: optional("pagetable_move_control", "new_addr"),
        ttu_ignore_mlock: value("ttu_flags", "TTU_IGNORE_MLOCK"),
        mm_users: offset("mm_struct", "mm_users")?,
        file_private: offset("file", "private_data")?,
        file_mapping: offset("file", "f_mapping")?,
        uffd_mm: optional("userfaultfd_ctx", "mm"),
        task_files: offset("task_struct", "files")?,
        files_fdt: offset("files_struct", "fdt")?,
        fdt_fd: offset("fdtable", "fd")?,
        fdt_max: offset("fdtable", "max_fds")?,
        task_leader: optional("task_struct", "group_leader"),
        task_pid: optional("task_struct", "thread_pid"),
        task_signal: optional("task_struct", "signal"),
        task_start: optional("task_struct", "start_time"),
        task_boot_start: optional("task_struct", "start_boottime"),
        signal_live: optional("signal_struct", "live"),
        pid_level: optional("pid", "level"),
        pid_numbers: optional("pid", "numbers"),
        pid_ns_number: match (
            optional("pid_namespace", "ns"),
            optional("ns_common", "inum"),
        ) {
            (KernelLayout::ABSENT, _) | (_, KernelLayout::ABSENT) => KernelLayout::ABSENT,
            (ns, inum) => ns + inum,
        },
        task_status: match (
            optional("task_struct", "thread_info"),
            optional("thread_info", "status"),
        ) {
            (KernelLayout::ABSENT, _) | (_, KernelLayout::ABSENT) => KernelLayout::ABSENT,
            (info, status) => info + status,
        },
        cast: btf
            .function("bpf_rdonly_cast")
            .map_or(KernelLayout::ABSENT, u64::from),
        // Its first member is the register r15.
        cast_type: btf
            .structure("pt_regs")
            .map_or(KernelLayout::ABSENT, u64::from),
        ksm_break_arguments: btf
            .arguments_of_function("break_ksm")
            .unwrap_or(KernelLayout::ABSENT),
        fault_vma: optional("vm_fault", "vma"),
        map_arguments: MAPS
            .iter()
            .find_map(|name| btf.arguments_of_function(name))
            .unwrap_or(KernelLayout::ABSENT),
        migrate_arguments: btf
            .arguments_of_tracepoint("mm_migrate_pages")
            .unwrap_or(KernelLayout::ABSENT),
    })
}

/// Where the order of a compound page stands: a byte of its own (6.1), or the low byte of `_flags_1` (include/linux/mm_types.h,
/// 6.12 to 7.3).
fn folio_order(btf: &Btf<'_>) -> u64 {
    let members = ["_folio_order", "_flags_1"].into_iter();
    members
        .filter_map(|member| btf.member_offset("folio", member).ok())
        .next()
        .unwrap_or(KernelLayout::ABSENT)
}

/// A device number as the kernel holds it (include/linux/kdev_t.h, MKDEV), which is what
/// bpf_get_ns_current_pid_tgid compares; stat reports another encoding of it.
fn kernel_dev(st_dev: u64) -> u64 {
    u64::from(rustix::fs::major(st_dev)) << 20 | u64::from(rustix::fs::minor(st_dev))
}
