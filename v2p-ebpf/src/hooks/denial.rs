//! What the kernel's own functions answer to v2p's accesses of /dev/mem. Each is attached only where
//! `v2p doctor` asks for it, and each may be missing: compilers inline, and versions differ.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use v2p_common::witness::{Answers, Function};

use crate::{maps, task};

#[inline(always)]
fn note(function: Function, ctx: &FExitContext) -> Option<()> {
    note_at(function as u32, ctx.arg(0), ctx.ret().ok()?)
}

/// Counts a call of the watched thread's at this place of the answers.
#[inline(always)]
pub(super) fn note_at(place: u32, argument: u64, value: u64) -> Option<()> {
    if !task::is_asking(&maps::control()?.request) {
        return None;
    }
    let place = maps::answers(place)?;
    // SAFETY: the value of a map, written by this one thread's programs alone; it never runs on two CPUs.
    let calls = unsafe { Answers::from_words(*place) }.calls;
    let answers = Answers {
        calls: calls + 1,
        argument,
        value,
    };
    // SAFETY: as above.
    unsafe { *place = answers.to_words() };
    Some(())
}

macro_rules! witnesses {
    ($($function:literal $name:ident = $variant:ident;)*) => {$(
        #[fexit(function = $function)]
        fn $name(ctx: FExitContext) -> i32 {
            note(Function::$variant, &ctx);
            0
        }
    )*};
}

witnesses! {
    "devcgroup_check_permission" devcgroup_check_permission = DevcgroupCheckPermission;
    "security_file_open" security_file_open = SecurityFileOpen;
    "security_locked_down" security_locked_down = SecurityLockedDown;
    "open_port" open_port = OpenPort;
    "memory_open" memory_open = MemoryOpen;
    "valid_phys_addr_range" valid_phys_addr_range = ValidPhysAddrRange;
    "iomem_is_exclusive" iomem_is_exclusive = IomemIsExclusive;
    "devmem_is_allowed" devmem_is_allowed = DevmemIsAllowed;
    "range_is_allowed" range_is_allowed = RangeIsAllowed;
    "read_mem" read_mem = ReadMem;
    "write_mem" write_mem = WriteMem;
    "valid_mmap_phys_addr_range" valid_mmap_phys_addr_range = ValidMmapPhysAddrRange;
    "phys_mem_access_prot_allowed" phys_mem_access_prot_allowed = PhysMemAccessProtAllowed;
    "mmap_mem" mmap_mem = MmapMem;
    "mmap_mem_prepare" mmap_mem_prepare = MmapMemPrepare;
}
