//! What the eBPF programs must know of the running kernel before they are loaded.

/// Offsets and constants that user space looks up (in the kernel's BTF, in /proc)
/// and hands over as one read-only global. Never compiled in: they differ between
/// kernels of one version, let alone between versions.
///
/// Offsets are in bytes; those that a program can do without are [`KernelLayout::ABSENT`] where this kernel has no
/// such member.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelLayout {
    /// No fact of the kernel: whether children are followed, 0 or 1. Here, since what the verifier knows not to happen
    /// it does not follow: else every load would pay for it.
    pub follow: u64,
    /// `pgd` in `struct mm_struct`.
    pub mm_pgd: u64,
    /// `mm` in `struct task_struct`.
    pub task_mm: u64,
    /// `min_flt` in `struct task_struct`: minor faults so far.
    pub task_min_flt: u64,
    /// `maj_flt` in `struct task_struct`: major faults so far.
    pub task_maj_flt: u64,
    /// `perf_event_ctxp` in `struct task_struct`, of software events: null where none is on the thread.
    pub task_perf_events: u64,
    /// `pid` in `struct task_struct`: the thread's number in the initial PID namespace.
    pub task_tid: u64,
    /// `tgid` in it: its process's.
    pub task_tgid: u64,
    /// `comm` in it: its name.
    pub task_comm: u64,
    /// Device number of the PID namespace that v2p runs in (`st_dev` of
    /// /proc/self/ns/pid, in the kernel's encoding).
    pub pid_ns_dev: u64,
    /// Inode number of that namespace.
    pub pid_ns_ino: u64,
    /// `vm_mm` in `struct vm_area_struct`.
    pub vma_mm: u64,
    /// `vm_start` in `struct vm_area_struct`.
    pub vma_start: u64,
    /// `vm_end` in `struct vm_area_struct`.
    pub vma_end: u64,
    /// `vm_pgoff` in `struct vm_area_struct`: of its first page, in pages.
    pub vma_pgoff: u64,
    /// `index` in `struct folio`: of its first page, in pages.
    pub folio_index: u64,
    /// `mapping` in `struct page`: its low bit says that the memory is anonymous.
    pub page_mapping: u64,
    /// `flags` in `struct page`.
    pub page_flags: u64,
    /// The bit of `flags` that marks the head of a compound page (`PG_head`).
    pub page_head_bit: u64,
    /// The bit of `flags` that says that a page goes to swap where it is to go (`PG_swapbacked`). Optional.
    pub page_swapbacked_bit: u64,
    /// The byte in `struct folio` whose low 8 bits are the order of a compound page. Optional.
    pub folio_order: u64,
    /// `address` in the `rmap_item` of KSM. Optional.
    pub ksm_address: u64,
    /// `even_cows` in `struct zap_details`. Optional.
    pub zap_even_cows: u64,
    /// `skip_cows` in `struct zap_details`. Optional.
    pub zap_skip_cows: u64,
    /// `old` in `struct pagetable_move_control`, the vma. Optional, as those that follow.
    pub move_old: u64,
    /// `old_addr` in it.
    pub move_old_addr: u64,
    /// `old_end` in it.
    pub move_old_end: u64,
    /// `new_addr` in it.
    pub move_new_addr: u64,
    /// TTU_IGNORE_MLOCK of `enum ttu_flags`. Optional.
    pub ttu_ignore_mlock: u64,
    /// `mm_users` in `struct mm_struct`: 0 once it is being taken down.
    pub mm_users: u64,
    /// `private_data` in `struct file`.
    pub file_private: u64,
    /// `f_mapping` in it: the `address_space` of what it is of.
    pub file_mapping: u64,
    /// `mm` in `struct userfaultfd_ctx`. Optional.
    pub uffd_mm: u64,
    /// `files` in `struct task_struct`.
    pub task_files: u64,
    /// `fdt` in `struct files_struct`.
    pub files_fdt: u64,
    /// `fd` in `struct fdtable`.
    pub fdt_fd: u64,
    /// `max_fds` in `struct fdtable`.
    pub fdt_max: u64,
    /// `group_leader` in `struct task_struct`. Optional, as all that follow: what following children needs.
    pub task_leader: u64,
    /// `thread_pid` in it.
    pub task_pid: u64,
    /// `signal` in it.
    pub task_signal: u64,
    /// `start_time` in it: CLOCK_MONOTONIC, nanoseconds.
    pub task_start: u64,
    /// `start_boottime` in it: CLOCK_BOOTTIME, nanoseconds.
    pub task_boot_start: u64,
    /// `live` in `struct signal_struct`: threads that have not ended.
    pub signal_live: u64,
    /// `level` in `struct pid`: of how many namespaces it is, less one.
    pub pid_level: u64,
    /// `numbers` in it.
    pub pid_numbers: u64,
    /// `ns.inum` in `struct pid_namespace`.
    pub pid_ns_number: u64,
    /// `thread_info.status` in `struct task_struct`. Optional.
    pub task_status: u64,
    /// Number, among the kernel's types, of its function bpf_rdonly_cast, for the loader alone: see [`CAST`]. Optional.
    pub cast: u64,
    /// Number of a struct that begins with eight bytes, for it to cast to. Optional: without, no program calls it.
    pub cast_type: u64,
    /// How many arguments break_ksm has. Optional.
    pub ksm_break_arguments: u64,
    /// `vma` in `struct vm_fault`. Optional.
    pub fault_vma: u64,
    /// How many arguments has what maps pages of a file: 5 those of set_pte_range, 3 of do_set_pte. Optional.
    pub map_arguments: u64,
    /// How many arguments the tracepoint mm_migrate_pages has; the last is the reason.
    pub migrate_arguments: u64,
}

/// What stands in the object for the kernel's function bpf_rdonly_cast, whose number differs between kernels: a number that no
/// helper has.
pub const CAST: u32 = 0x7632_7000;

impl KernelLayout {
    /// What stands for a member that this kernel does not have.
    pub const ABSENT: u64 = u64::MAX;

    /// All zero: what the object file holds until user space fills it in.
    pub const UNSET: Self = Self {
        follow: 0,
        mm_pgd: 0,
        task_mm: 0,
        task_min_flt: 0,
        task_maj_flt: 0,
        task_perf_events: 0,
        task_tid: 0,
        task_tgid: 0,
        task_comm: 0,
        pid_ns_dev: 0,
        pid_ns_ino: 0,
        vma_mm: 0,
        vma_start: 0,
        vma_end: 0,
        vma_pgoff: 0,
        folio_index: 0,
        page_mapping: 0,
        page_flags: 0,
        page_head_bit: 0,
        page_swapbacked_bit: 0,
        folio_order: 0,
        ksm_address: 0,
        zap_even_cows: 0,
        zap_skip_cows: 0,
        move_old: 0,
        move_old_addr: 0,
        move_old_end: 0,
        move_new_addr: 0,
        ttu_ignore_mlock: 0,
        mm_users: 0,
        file_private: 0,
        file_mapping: 0,
        uffd_mm: 0,
        task_files: 0,
        files_fdt: 0,
        fdt_fd: 0,
        fdt_max: 0,
        task_leader: 0,
        task_pid: 0,
        task_signal: 0,
        task_start: 0,
        task_boot_start: 0,
        signal_live: 0,
        pid_level: 0,
        pid_numbers: 0,
        pid_ns_number: 0,
        task_status: 0,
        cast: 0,
        cast_type: 0,
        ksm_break_arguments: 0,
        fault_vma: 0,
        map_arguments: 0,
        migrate_arguments: 0,
    };

    /// Whether it has all that following children needs.
    pub fn can_follow(&self) -> bool {
        let needed = [
            self.task_leader,
            self.task_pid,
            self.task_signal,
            self.task_start,
            self.task_boot_start,
            self.signal_live,
            self.pid_level,
            self.pid_numbers,
            self.pid_ns_number,
        ];
        !needed.contains(&Self::ABSENT)
    }

    /// The bytes of the global, in the machine's own order.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: a `repr(C)` struct of u64 alone has no padding, and any bytes of it may be read.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_struct() {
        let layout = KernelLayout {
            follow: 1,
            mm_pgd: 2,
            migrate_arguments: 20,
            ..KernelLayout::UNSET
        };
        let bytes = layout.as_bytes();
        assert_eq!(bytes.len() % 8, 0);
        assert_eq!(bytes.first_chunk(), Some(&1u64.to_ne_bytes()));
        assert_eq!(bytes.get(8..16), Some(&2u64.to_ne_bytes()[..]));
        assert_eq!(bytes.last_chunk(), Some(&20u64.to_ne_bytes()));
    }
}
