//! What system calls did to the target: userfaultfd by a hook on its function, and, where those are refused,
//! all that change the tables by the tracepoint sys_exit.
//!
//! That tracepoint fires for every call of every process, so the first thing is to leave.

use aya_ebpf::{
    macros::{fexit, raw_tracepoint},
    programs::{FExitContext, RawTracePointContext},
};
use v2p_common::{
    PAGE_SIZE, call,
    event::{collapse, how, memory, remap, zap},
    layout::KernelLayout,
};

use crate::{
    hooks::{Space, look, look_at_two, space_of},
    kread, maps,
    task::{self, regs},
};

/// include/uapi/linux/mman.h and asm-generic/mman-common.h.
mod flag {
    pub(super) const MAP_FIXED: u64 = 0x10;
    pub(super) const MAP_POPULATE_OR_LOCKED: u64 = 0x8000 | 0x2000;
    pub(super) const MREMAP_FIXED: u64 = 2;
    pub(super) const DONTNEED: u64 = 4;
    pub(super) const REMOVE: u64 = 9;
    pub(super) const PAGEOUT: u64 = 21;
    pub(super) const POPULATE_READ: u64 = 22;
    pub(super) const POPULATE_WRITE: u64 = 23;
    pub(super) const DONTNEED_LOCKED: u64 = 24;
    pub(super) const COLLAPSE: u64 = 25;
    pub(super) const HWPOISON: u64 = 100;
    pub(super) const GUARD_INSTALL: u64 = 102;
}

/// include/uapi/linux/userfaultfd.h.
mod uffd {
    pub(super) const COPY: u64 = 0xc028_aa03;
    pub(super) const ZEROPAGE: u64 = 0xc020_aa04;
    pub(super) const MOVE: u64 = 0xc028_aa05;
    pub(super) const CONTINUE: u64 = 0xc020_aa07;
    pub(super) const POISON: u64 = 0xc020_aa08;
}

/// Pages that the length of a range covers, in bytes.
#[inline(always)]
fn whole(len: u64) -> u64 {
    len.wrapping_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
}

/// Errors are the last 4095 numbers (IS_ERR_VALUE, include/linux/err.h).
#[inline(always)]
const fn is_error(result: u64) -> bool {
    result > u64::MAX - 4095
}

#[inline(always)]
fn argument(regs: u64, n: usize) -> Option<u64> {
    kread::word(regs + *regs::ARGUMENTS.get(n)?)
}

/// userfaultfd_ioctl (file, cmd, arg), fs/userfaultfd.c, 6.1 to 7.3.
#[fexit]
fn userfaultfd(ctx: FExitContext) -> u32 {
    let command: u64 = ctx.arg(1);
    served(ctx.arg(0), command & 0xffff_ffff, ctx.arg(2));
    0
}

/// (regs, result), 6.1 to 7.3.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit(ctx: RawTracePointContext) -> u32 {
    returned(ctx.arg(0), ctx.arg(1));
    0
}

/// What a call did to a range, or from one to another.
#[derive(Clone, Copy)]
struct Done {
    how: u32,
    va: u64,
    len: u64,
    other: u64,
    detail: u64,
}

impl Done {
    #[inline(always)]
    const fn to(how: u32, va: u64, len: u64, detail: u64) -> Self {
        Self {
            how,
            va,
            len,
            other: va,
            detail,
        }
    }

    #[inline(always)]
    const fn moved(from: u64, len: u64, to: u64) -> Self {
        Self {
            other: to,
            ..Self::to(how::REMAP, from, len, remap::LATE)
        }
    }

    #[inline(always)]
    fn tell(self, space: Space) -> Option<()> {
        look_at_two(space, self.how, self.va, self.len, self.other, self.detail)
    }
}

#[inline(always)]
fn returned(regs: u64, result: u64) -> Option<()> {
    let number = kread::word(regs + regs::NUMBER)?;
    if number == call::IOCTL {
        if task::is_compat() {
            return None;
        }
        let command = argument(regs, 1)? & 0xffff_ffff;
        return match command {
            uffd::COPY | uffd::ZEROPAGE | uffd::MOVE | uffd::CONTINUE | uffd::POISON => {
                served(open_file(argument(regs, 0)?)?, command, argument(regs, 2)?)
            }
            _ => None,
        };
    }
    if !matches!(
        number,
        call::MMAP | call::MUNMAP | call::MREMAP | call::MADVISE | call::MLOCK | call::MLOCK2
    ) {
        return None;
    }
    let space = space_of(task::running().mm())?;
    // What the 32-bit calls did is found by comparing.
    if task::is_compat() {
        return None;
    }
    if !is_error(result) {
        made_room(space, regs, number, result);
    }
    done(regs, number, result)?.tell(space)
}

/// What was taken out of where a mapping now is, or of what it no longer reaches.
#[inline(always)]
fn made_room(space: Space, regs: u64, number: u64, result: u64) -> Option<()> {
    let (len, flag) = match number {
        call::MMAP => (argument(regs, 1)?, flag::MAP_FIXED),
        call::MREMAP => (argument(regs, 2)?, flag::MREMAP_FIXED),
        _ => return None,
    };
    if argument(regs, 3)? & flag != 0 {
        look(space, how::ZAP, result, whole(len), number);
    }
    let (old_len, new_len) = (whole(argument(regs, 1)?), whole(len));
    if number != call::MREMAP || old_len <= new_len {
        return None;
    }
    let end = argument(regs, 0)? + new_len;
    look(space, how::ZAP, end, old_len - new_len, number)
}

/// What else the call did. Made here and told in one place: the verifier goes through all of a walk and an event for each that is told.
#[inline(always)]
fn done(regs: u64, number: u64, result: u64) -> Option<Done> {
    let (first, second) = (argument(regs, 0)?, argument(regs, 1)?);
    let failed = is_error(result);
    Some(match number {
        // Not as all of it: another thread may have put something there since, before this one came to its exit.
        call::MUNMAP if !failed => Done::to(how::ZAP, first, whole(second), number),
        call::MMAP if !failed && argument(regs, 3)? & flag::MAP_POPULATE_OR_LOCKED != 0 => {
            Done::to(how::FILL, result, whole(second), 0)
        }
        call::MREMAP if !failed && result != first => {
            Done::moved(first, whole(second.min(argument(regs, 2)?)), result)
        }
        call::MLOCK | call::MLOCK2 => {
            let inside = first & (PAGE_SIZE - 1);
            let len = whole(second.saturating_add(inside));
            Done::to(how::FILL, first - inside, len, 0)
        }
        // Also where it failed: it may have come half way.
        call::MADVISE => {
            let how = match argument(regs, 2)? & 0xffff_ffff {
                flag::DONTNEED | flag::DONTNEED_LOCKED | flag::REMOVE | flag::GUARD_INSTALL => {
                    how::ZAP
                }
                flag::PAGEOUT | flag::HWPOISON => how::UNMAP_ONE,
                flag::POPULATE_READ | flag::POPULATE_WRITE => how::FILL,
                flag::COLLAPSE => how::COLLAPSE,
                _ => return None,
            };
            let detail = match how {
                how::UNMAP_ONE => memory::ANY,
                how::COLLAPSE if failed => collapse::PERHAPS,
                how::COLLAPSE => 0,
                how::ZAP if failed => number | zap::PERHAPS,
                _ => number,
            };
            Done::to(how, first, whole(second), detail)
        }
        _ => return None,
    })
}

/// An ioctl of userfaultfd was served: its argument starts with destination and length, or for COPY and MOVE with
/// destination, source and length, and ends with the bytes done.
#[inline(always)]
fn served(file: u64, command: u64, argument: u64) -> Option<()> {
    let layout = maps::layout();
    if layout.uffd_mm == KernelLayout::ABSENT {
        return None;
    }
    let context = kread::word(file + layout.file_private)?;
    let space = space_of(kread::word(context + layout.uffd_mm)?)?;
    let field = |n: u64| kread::user_word(argument + 8 * n);
    let done = match command {
        uffd::COPY => Done::to(how::FILL, field(0)?, field(2)?, 0),
        uffd::ZEROPAGE | uffd::CONTINUE | uffd::POISON => {
            Done::to(how::FILL, field(0)?, field(1)?, 0)
        }
        uffd::MOVE => {
            let moved = field(4)?;
            // An error is negative.
            if moved >> 63 != 0 {
                return None;
            }
            Done::moved(field(1)?, moved, field(0)?)
        }
        _ => return None,
    };
    done.tell(space)
}

/// The `struct file` behind a descriptor of the running task.
#[inline(always)]
fn open_file(descriptor: u64) -> Option<u64> {
    let layout = maps::layout();
    let files = kread::word(task::running().address() + layout.task_files)?;
    let table = kread::word(files + layout.files_fdt)?;
    let descriptor = descriptor & 0xffff_ffff;
    if descriptor >= kread::word(table + layout.fdt_max)? & 0xffff_ffff {
        return None;
    }
    kread::word(kread::word(table + layout.fdt_fd)? + 8 * descriptor).filter(|file| *file != 0)
}
