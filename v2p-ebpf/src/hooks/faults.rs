//! Page faults, by the perf software events page-faults-min and -maj.
//!
//! The tracepoints exceptions:page_fault_* fire before the page is mapped; these events fire
//! after, in the faulting task (mm_account_fault, mm/memory.c, 6.1 to 7.3), so a walk then finds
//! what the fault brought. They are attached to the target's threads alone: nobody else
//! pays. Faults that get_user_pages takes on the target's behalf raise neither.
//!
//! Where no other hook tells what happens to a page between two faults, the event page-faults is asked too, which fires as a fault comes (do_user_addr_fault, arch/x86/mm/fault.c,
//! 6.1 to 7.3): what is there then, and is replaced, was not taken away before. Where the kind of access is asked for, the tracepoints do both,
//! for the error code alone says what the CPU wanted; but every process pays for those, some 0.1 us a fault (6.18).

use aya_ebpf::{
    macros::{perf_event, raw_tracepoint},
    programs::{PerfEventContext, RawTracePointContext},
};
use v2p_common::{
    PAGE_SHIFT, VirtAddr,
    control::{BLOCK_PAGES, Control},
    event::{AROUND, Around, FAULT_AROUND, fault, kind},
    lane::{Came, Lane},
    pte::{Entry, Level},
};

use crate::{
    atomic,
    emit::{self, Brought},
    hooks::{Space, space_of, watched},
    kread, maps,
    task::{self, Task},
    walk,
};

/// Pages that are looked at around a fault, so that those which the kernel maps lie within, also where they begin with the mapping. The rest of a
/// large folio is read of.
const AROUND_ALL: u64 = 2 * FAULT_AROUND;

/// X86_PF_PROT (arch/x86/include/asm/trap_pf.h): the CPU's own number.
const PROT: u64 = 1;

#[perf_event]
fn fault_begins(ctx: PerfEventContext) -> u32 {
    begins(&ctx);
    0
}

#[perf_event]
fn fault_minor(ctx: PerfEventContext) -> u32 {
    after(&ctx, 0);
    0
}

#[perf_event]
fn fault_major(ctx: PerfEventContext) -> u32 {
    after(&ctx, fault::MAJOR);
    0
}

#[raw_tracepoint(tracepoint = "page_fault_user")]
fn page_fault_user(ctx: RawTracePointContext) -> u32 {
    error_code(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "page_fault_kernel")]
fn page_fault_kernel(ctx: RawTracePointContext) -> u32 {
    error_code(&ctx);
    0
}

/// A thread that is watched, and where it takes a fault.
#[derive(Clone, Copy)]
struct Faulting {
    task: Task,
    space: Space,
    va: u64,
}

impl Faulting {
    /// The one that an event is about. Children inherit it, but have another mm.
    #[inline(always)]
    fn of(ctx: &PerfEventContext) -> Option<Self> {
        let task = task::running();
        // SAFETY: the kernel hands every perf_event program a valid context.
        let va = unsafe { (*ctx.ctx).addr };
        let space = space_of(task.mm())?;
        watched(&space.control.target, va).then_some(Self { task, space, va })
    }

    /// Walks its tables.
    #[inline(always)]
    fn walk(self) -> Option<walk::End> {
        let Space { control, mm } = self.space;
        let (pgd, va) = (self.task.pgd(mm), VirtAddr(self.va));
        walk::walk(
            &control.direct_map,
            pgd,
            va,
            kread::entry_in_place,
            |_, _| {},
        )
    }

    /// Leaves word of what is known of a fault as it comes.
    #[inline(always)]
    fn came(self, lane: &Lane, flag: u32, entry: Entry) {
        let Self { task, space, va } = self;
        let (tid, page) = (task.tid(), VirtAddr(va).page_number());
        let came = Came {
            tid,
            page,
            faults: task.faults(),
            flag,
        };
        lane.at.set(va);
        lane.came.set(came.pack());
        remember(space.control, tid, va, entry);
    }
}

#[inline(always)]
fn begins(ctx: &PerfEventContext) -> Option<()> {
    let faulting = Faulting::of(ctx)?;
    let (_, lane) = emit::lane()?;
    lane.came.set(0);
    // What could not be read is not known to be empty.
    let entry = Entry(faulting.walk()?.entry);
    faulting.came(lane, empty(entry), entry);
    Some(())
}

/// Arguments (address, regs, error_code), 6.1 to 7.3.
#[inline(always)]
fn error_code(ctx: &RawTracePointContext) -> Option<()> {
    let task = task::running();
    let space = space_of(task.mm())?;
    let (va, error): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    let faulting = Faulting { task, space, va };
    let (_, lane) = emit::lane()?;
    let access = Came::access(error);
    // That there was one, not which.
    let told = Entry(error & PROT);
    let target = &space.control.target;
    let is_blind = target.blind.get() != 0 && watched(target, va);
    let found = is_blind.then(|| faulting.walk()).flatten();
    match found.map(|end| Entry(end.entry)) {
        Some(entry) => faulting.came(lane, access | empty(entry), entry),
        None => faulting.came(lane, access, told),
    }
    Some(())
}

/// mm_filemap_map_pages (mapping, first, last), 6.12 to 7.3, within a fault, after pages of a file were mapped: some around the one that is
/// wanted, as far as they are in the page cache (fault-around; filemap_map_pages, mm/filemap.c). No event of a fault tells of those.
#[raw_tracepoint(tracepoint = "mm_filemap_map_pages")]
fn mm_filemap_map_pages(_: RawTracePointContext) -> u32 {
    around();
    0
}

#[inline(always)]
fn around() -> Option<()> {
    let task = task::running();
    let space = space_of(task.mm())?;
    let (_, lane) = emit::lane()?;
    let va = VirtAddr(lane.at.get());
    if !watched(&space.control.target, va.0) {
        return None;
    }
    // Of this fault, where the thread was not moved to another CPU meanwhile; it is not counted yet.
    let next = task.faults().wrapping_add(1);
    if Came::flag(lane.came.get(), task.tid(), va.page_number(), next) == 0 {
        return None;
    }
    let direct_map = &space.control.direct_map;
    let table = walk::to_table(direct_map, task.pgd(space.mm), va, false).table;
    if table == 0 {
        return None;
    }
    let index = Level::Pte.index(va);
    let first = (index & !(FAULT_AROUND - 1)).min(BLOCK_PAGES as u64 - AROUND_ALL);
    let base = (va.page_number() - index) << PAGE_SHIFT;
    for part in 0..AROUND_ALL / AROUND as u64 {
        let first = first + part * AROUND as u64;
        if let Some(entries) = kread::entries(table + 8 * first)
            && entries.iter().any(|entry| Entry(*entry).is_present())
        {
            let va = base + (first << PAGE_SHIFT);
            emit::emit(space.control, space.mm, kind::AROUND, |header| Around {
                header,
                va,
                entries,
            });
        }
    }
    Some(())
}

/// The flag for what is there.
#[inline(always)]
fn empty(entry: Entry) -> u32 {
    match entry {
        Entry(0) => fault::EMPTY,
        _ => 0,
    }
}

/// Keeps for [`was_there`] what is there at `va` as a fault of this thread comes.
#[inline(always)]
fn remember(control: &Control, tid: u32, va: u64, entry: Entry) {
    let protected = &control.account.protected;
    if !entry.is_present() {
        // What is left of a fault that ended badly is not about this one.
        if protected.get() != 0 && maps::PROTECTION.remove(tid).is_ok() {
            atomic::decrement(protected);
        }
        return;
    }
    // SAFETY: only this thread writes its own value.
    let known = unsafe { maps::PROTECTION.get(tid) }.is_some();
    let found = [VirtAddr(va).page_number(), entry.0];
    // A full map costs the name of a cause, not an event.
    if maps::PROTECTION.insert(tid, found, 0).is_ok() && !known {
        atomic::increment(protected);
    }
}

/// Whether a page was at `va` before this fault, other than the one of `now`, as far as [`remember`] was told: that one may have
/// been brought by a fault of another thread, which is told later.
#[inline(always)]
fn was_there(control: &Control, tid: u32, va: u64, now: Entry) -> bool {
    if control.account.protected.get() == 0 {
        return false;
    }
    // SAFETY: only this thread writes its own value.
    let Some([page, entry]) = (unsafe { maps::PROTECTION.get(tid) }).copied() else {
        return false;
    };
    if maps::PROTECTION.remove(tid).is_ok() {
        atomic::decrement(&control.account.protected);
    }
    page == VirtAddr(va).page_number() && !Entry(entry).has_frame_of(now)
}

/// Whether this fault was told already. A thread that was started while its process was being attached to may
/// have the event twice, inherited and of its own: both are served within one fault, on one CPU, with the same
/// count of faults (mm_account_fault counts before it tells).
#[inline(always)]
fn is_told(lane: &Lane, tid: u32, faults: u64) -> bool {
    let [thread, count] = &lane.last;
    let told = thread.get() == u64::from(tid) && count.get() == faults;
    thread.set(u64::from(tid));
    count.set(faults);
    told
}

#[inline(always)]
fn after(ctx: &PerfEventContext, major: u32) -> Option<()> {
    let (cpu, lane) = emit::lane()?;
    lane.runs.set(lane.runs.get().wrapping_add(1));
    let faulting = Faulting::of(ctx)?;
    let Faulting { task, space, va } = faulting;
    let control = space.control;
    let (tid, faults) = (task.tid(), task.faults());
    if is_told(lane, tid, faults) {
        return None;
    }
    // Known where the thread was not moved to another CPU meanwhile, and no other of the target's came between.
    let page = VirtAddr(va).page_number();
    let came = Came::flag(lane.came.get(), tid, page, faults);
    let quiet = emit::Quiet::now(control);
    let end = faulting.walk();
    let now = Entry(end.map_or(0, |end| end.entry));
    let protection = match was_there(control, tid, va, now) {
        true => fault::PROTECTION,
        false => 0,
    };
    debug!(ctx, "fault at {:x}, major {}", va, major);
    let brought = Brought {
        mm: space.mm,
        va,
        entry: now.0,
        level: end.map_or(u32::MAX, |end| end.level as u32),
        flags: major | protection | came,
    };
    emit::emit_fault(control, (cpu, lane), task, &brought, quiet)
}
