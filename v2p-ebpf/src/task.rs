//! The running task.

use aya_ebpf::{
    bindings::bpf_pidns_info,
    helpers::generated::{bpf_get_current_task_btf, bpf_get_ns_current_pid_tgid, bpf_task_pt_regs},
};
use v2p_common::{call, control::Request, event::zap, layout::KernelLayout};

use crate::{kread, maps};

/// `struct pt_regs` of x86-64 (arch/x86/include/asm/ptrace.h), which ptrace shows to user space and so never changes:
/// byte offsets of the arguments of a system call in their order, and of its number.
pub(crate) mod regs {
    pub(crate) const ARGUMENTS: [u64; 5] = [112, 104, 96, 56, 72];
    pub(crate) const NUMBER: u64 = 120;
}

/// A task, by the pointer whose type the verifier knows. What runs at every fault asks for it once: the helper is a call to the kernel (6.18).
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

/// The running one.
#[inline(always)]
pub(crate) fn running() -> Task {
    // SAFETY: the helper has no preconditions.
    Task(unsafe { bpf_get_current_task_btf() }.cast())
}

impl Task {
    /// Its `task_struct`.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// A word of its `task_struct`, read in place: the verifier knows the type, and that the layout does not change. So
    /// `offset` must come straight from the layout, and `T` lie within the member there.
    #[inline(always)]
    fn own<T>(self, offset: u64) -> T {
        // SAFETY: the running task is there, and the verifier holds the offset against its type.
        unsafe { self.0.add(offset as usize).cast::<T>().read_volatile() }
    }

    /// A pointer in its `task_struct`. Not as [`Self::own`] where there is another way: for every pointer that a program reads by its type
    /// the verifier looks through all types for what is said of it, one after the other (btf_nested_type_is_trusted, kernel/bpf/btf.c): 15 %
    /// of what a watch took to start on 6.18.
    #[inline(always)]
    fn pointer(self, offset: u64) -> u64 {
        match kread::cast_word(self.address() + offset) {
            Some(pointer) => pointer,
            None => self.own(offset),
        }
    }

    /// Its thread number in the initial PID namespace.
    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        self.own(maps::layout().task_tid)
    }

    /// The number of its process there.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.own(maps::layout().task_tgid)
    }

    /// Its name, up to a NUL: what comes after may be left of another.
    #[inline(always)]
    pub(crate) fn comm(self) -> [u64; 2] {
        let at = maps::layout().task_comm;
        [self.own(at), self.own(at + 8)]
    }

    /// Its `mm`; 0 for a kernel thread.
    #[inline(always)]
    pub(crate) fn mm(self) -> u64 {
        self.pointer(maps::layout().task_mm)
    }

    /// The top table of `mm`, its own: a direct-map address.
    #[inline(always)]
    pub(crate) fn pgd(self, mm: u64) -> u64 {
        let layout = maps::layout();
        if let Some(pgd) = kread::cast_word(mm + layout.mm_pgd) {
            return pgd;
        }
        // From the task once more: the verifier wants a pointer whose type it has seen.
        // SAFETY: as in `own`, one type further; the kernel gives 0 where the mm cannot be read.
        unsafe {
            let mm = self.own::<*const u8>(layout.task_mm);
            mm.add(layout.mm_pgd as usize).cast::<u64>().read_volatile()
        }
    }

    /// Its faults so far.
    #[inline(always)]
    pub(crate) fn faults(self) -> u64 {
        let layout = maps::layout();
        self.own::<u64>(layout.task_min_flt)
            .wrapping_add(self.own(layout.task_maj_flt))
    }

    /// Whether no perf event is on it.
    #[inline(always)]
    pub(crate) fn is_unheard(self) -> bool {
        self.pointer(maps::layout().task_perf_events) == 0
    }
}

/// Whether it is the thread of v2p's that asks.
#[inline(always)]
pub(crate) fn is_asking(request: &Request) -> bool {
    in_our_namespace().map(u64::from) == Some(request.tid.get())
}

/// The thread as v2p's own PID namespace numbers it; `None` in any other.
#[inline(always)]
fn in_our_namespace() -> Option<u32> {
    let layout = maps::layout();
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: `ids` is a valid place of the size given.
    let failed = unsafe {
        bpf_get_ns_current_pid_tgid(
            layout.pid_ns_dev,
            layout.pid_ns_ino,
            &raw mut ids,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    (failed == 0).then_some(ids.pid)
}

/// Namespaces of processes lie in each other no deeper (MAX_PID_NS_LEVEL, include/linux/pid_namespace.h, 6.1 to 7.3).
const NAMESPACES: u64 = 32;

/// The number of a task's process in v2p's own PID namespace, also where the task itself lives in one further down; 0:
/// it has none there. By `struct pid` (include/linux/pid.h): a `struct upid { int nr; struct pid_namespace *ns; }` a namespace.
#[inline(always)]
pub(crate) fn process_number(task: u64) -> u32 {
    number_in_ours(task).unwrap_or(0)
}

#[inline(always)]
fn number_in_ours(task: u64) -> Option<u32> {
    let layout = maps::layout();
    let leader = kread::word(task + layout.task_leader)?;
    let pid = kread::word(leader + layout.task_pid)?;
    let deepest = u64::from(kread::half(pid + layout.pid_level)?);
    for level in 0..NAMESPACES {
        if level > deepest {
            break;
        }
        let upid = pid + layout.pid_numbers + 16 * level;
        let namespace = kread::word(upid + 8)?;
        let inode = kread::half(namespace + layout.pid_ns_number)?;
        if u64::from(inode) == layout.pid_ns_ino {
            return kread::half(upid);
        }
    }
    None
}

/// Whether no thread of its process is left but those that are ending.
#[inline(always)]
pub(crate) fn is_last() -> bool {
    let layout = maps::layout();
    let signal = kread::word(running().address() + layout.task_signal);
    signal.and_then(|signal| kread::half(signal + layout.signal_live)) == Some(0)
}

/// Whether the system call that it is in has a number of the 32-bit table, which means other calls (TS_COMPAT,
/// arch/x86/include/asm/thread_info.h, 6.1 to 7.3).
#[inline(always)]
pub(crate) fn is_compat() -> bool {
    const TS_COMPAT: u32 = 1 << 1;
    let status = maps::layout().task_status;
    status != KernelLayout::ABSENT
        && kread::half(running().address() + status).is_some_and(|status| status & TS_COMPAT != 0)
}

/// Whether it is in an exec: execve or execveat of the table that its call is of
/// (arch/x86/entry/syscalls/syscall_32.tbl, and [`call`]).
#[inline(always)]
pub(crate) fn is_in_exec() -> bool {
    let number = call_number().unwrap_or(zap::NO_CALL);
    match is_compat() {
        true => matches!(number, 11 | 358),
        false => matches!(number, call::EXECVE | call::EXECVEAT),
    }
}

/// The number of the system call that it is in, as [`zap::CALL`] has it.
#[inline(always)]
pub(crate) fn system_call() -> u64 {
    if running().mm() == 0 || is_compat() {
        return zap::NO_CALL;
    }
    call_number().unwrap_or(zap::NO_CALL)
}

#[inline(always)]
fn call_number() -> Option<u64> {
    // SAFETY: the helpers take the current task and give the registers that it entered the kernel with.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    kread::word(regs as u64 + regs::NUMBER).map(|number| number & zap::CALL)
}
