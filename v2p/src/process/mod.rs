//! What /proc says of a process: thin readers over files.

use std::io;

use crate::{
    exit::Failure,
    kernel::privileges::{Capability, MOUNT_PROC, Privileges},
};

pub mod asked;
mod copied;
mod identity;
mod kpage;
pub mod maps;
mod memory;
mod move_page;
mod nodes;
mod pagemap;
pub mod select;
mod space;
pub(crate) mod stat;

pub use copied::copied_by_fork;
pub use identity::{Process, require_own_proc, tracer_of};
pub use kpage::{FrameFile, FrameFlags, frame_flags, frame_mapcount};
pub use memory::Memory;
pub use move_page::move_page;
pub use nodes::Nodes;
pub use pagemap::Pagemap;
pub use space::AddressSpace;

/// Whether KSM has merged pages of process `pid` (counted since 5.19; where there is no such file, there is no KSM).
pub fn is_merging(pid: u32) -> bool {
    let count = std::fs::read_to_string(format!("/proc/{pid}/ksm_merging_pages"));
    count.is_ok_and(|count| count.trim() != "0")
}

/// Whether KSM has merged pages of anybody, and they are still so.
pub fn has_merged() -> bool {
    let count = std::fs::read_to_string("/sys/kernel/mm/ksm/pages_shared");
    count.is_ok_and(|count| count.trim() != "0")
}

/// Why our own pagemap does not open.
pub(crate) fn no_pagemap(error: &io::Error) -> Failure {
    let failure = Failure::unsupported(format!("/proc/self/pagemap: {error}"));
    failure.hint(match std::fs::exists("/proc/self") {
        Ok(true) => "the kernel needs CONFIG_PROC_PAGE_MONITOR=y",
        _ => MOUNT_PROC,
    })
}

/// Why a file of another process, at `place`, does not open for us: ptrace_may_access (kernel/ptrace.c, 6.1 to 7.3) asks
/// for its user, or for CAP_SYS_PTRACE, and then security modules.
pub(crate) fn no_rights(place: &str, error: &io::Error) -> Failure {
    let failure = Failure::unsupported(format!("{place}: {error}"));
    match Privileges::read() {
        Ok(privileges) if privileges.has(Capability::SysPtrace) => failure.hint(format!(
            "CAP_SYS_PTRACE is there ({}), so another user namespace or a security module keeps us out: run it as root on the host",
            privileges.evidence()
        )),
        Ok(privileges) => failure.hint(format!(
            "it needs ptrace rights on the process, and CAP_SYS_PTRACE is missing (bit 19 of {}): run as root",
            privileges.evidence()
        )),
        Err(_) => failure.hint("it needs ptrace rights on the process: run as root"),
    }
}

/// This thread's number, as the programs know it.
pub(crate) fn own_tid() -> u64 {
    let tid = rustix::thread::gettid();
    u64::from(tid.as_raw_nonzero().get().unsigned_abs())
}
