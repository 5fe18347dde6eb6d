//! Questions to the kernel's memory, answered from inside our own pread of /proc/PID/pagemap
//! (v2p-ebpf/src/hooks/carrier.rs says why that works).

use std::rc::Rc;

use anyhow::{Result, ensure};
use v2p_common::{
    Pfn, PhysAddr, VirtAddr,
    control::{Control, PHYSICAL_BYTES, request, status},
    pagemap::PagemapWord,
    pte::{Entry, Level, WalkEnd},
};

use crate::{
    bpf::{CARRIER, Programs, SharedControl},
    exit::Failure,
    page::OwnPage,
    process::Pagemap,
};

/// How often a request is made that was not served.
const ATTEMPTS: usize = 100;

/// The tracepoint that carries us.
const TRACEPOINT: &str = "mmap_lock_acquire_returned";

/// Asks; one at a time.
pub struct Carrier {
    control: Rc<SharedControl>,
    own_pagemap: Pagemap,
    /// An address that is always ours, to make a read with.
    anchor: OwnPage,
    own_mm: u64,
    cookie: u64,
}

/// A walk of the page tables of one process for one address.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Kernel address of the process's `mm_struct`.
    pub mm: u64,
    /// Kernel address of its top table.
    pub pgd: u64,
    /// The entry of each level, by level number; those not visited are 0.
    pub entries: [Entry; 5],
    /// Where the walk ended; `None`: a table could not be read.
    pub end: Option<WalkEnd>,
}

impl Walk {
    /// The frame of the base page that holds `va`, where the walk ended in a page.
    pub fn pfn(&self, va: VirtAddr) -> Option<Pfn> {
        self.end.as_ref()?.pfn(va)
    }
}

impl Carrier {
    /// Attaches the carrier and tries it on ourselves.
    ///
    /// # Errors
    /// Exit code 3 where it cannot be attached, or does not fire.
    pub fn new(programs: &mut Programs) -> Result<Self> {
        programs.attach_tracepoint(CARRIER, TRACEPOINT)?;
        let mut carrier = Self {
            control: programs.control(),
            own_pagemap: Pagemap::of_self()?,
            anchor: OwnPage::new()?,
            own_mm: 0,
            cookie: 0,
        };
        carrier.own_mm = carrier.walk_own(carrier.anchor.va())?.mm;
        Ok(carrier)
    }

    /// The block shared with the programs.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Both routes for one address of the process of `pagemap`, in one system call: pagemap's word and
    /// the walk. `None`: the process has no address space any more.
    ///
    /// # Errors
    /// Where pagemap cannot be read, or the carrier did not fire.
    pub fn both(&mut self, pagemap: &Pagemap, va: VirtAddr) -> Result<Option<(PagemapWord, Walk)>> {
        let not_mm = if pagemap.is_own() { 0 } else { self.own_mm };
        let word = ask(&self.control, pagemap, va, request::WALK, va.0, not_mm)?;
        Ok(word.map(|word| (word, read_walk(&self.control))))
    }

    /// A walk of our own tables alone.
    ///
    /// # Errors
    /// As [`Self::both`].
    pub fn walk_own(&mut self, va: VirtAddr) -> Result<Walk> {
        ask(&self.control, &self.own_pagemap, va, request::WALK, va.0, 0)?;
        Ok(read_walk(&self.control))
    }

    /// The bytes at a physical address, read by the kernel through its direct map; `None` where it does
    /// not map that address.
    ///
    /// # Errors
    /// As [`Self::both`].
    pub fn read_physical(&mut self, pa: PhysAddr) -> Result<Option<[u8; PHYSICAL_BYTES]>> {
        self.ask_ourselves(request::READ_PHYSICAL, pa.0)?;
        let answer = &self.control.answer;
        if answer.status.get() != status::OK {
            return Ok(None);
        }
        let mut bytes = [0; PHYSICAL_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(&answer.bytes) {
            chunk.copy_from_slice(&word.get().to_ne_bytes());
        }
        Ok(Some(bytes))
    }

    /// Puts a marker into the event ring, after every event that was emitted before; gives its cookie.
    /// Where the ring was full the marker is lost too, and counted as lost.
    ///
    /// # Errors
    /// As [`Self::both`].
    pub fn mark(&mut self) -> Result<u64> {
        self.cookie += 1;
        self.ask_ourselves(request::MARK, self.cookie)?;
        Ok(self.cookie)
    }

    fn ask_ourselves(&self, kind: u64, argument: u64) -> Result<()> {
        ask(
            &self.control,
            &self.own_pagemap,
            self.anchor.va(),
            kind,
            argument,
            0,
        )?;
        Ok(())
    }
}

/// One request, one pread of one word; `None`: the address space is gone.
fn ask(
    control: &Control,
    pagemap: &Pagemap,
    va: VirtAddr,
    kind: u64,
    argument: u64,
    not_mm: u64,
) -> Result<Option<PagemapWord>> {
    let Control {
        request, answer, ..
    } = control;
    let tid = rustix::thread::gettid().as_raw_nonzero().get();
    request.tid.set(u64::from(tid.unsigned_abs()));
    request.not_mm.set(not_mm);
    request.argument.set(argument);
    answer.fired.set(0);
    // From 7.x on tracepoints are preemptible, and the kernel skips a program that another task has been
    // preempted in on this CPU: then nothing was served, and asking again is harmless.
    let mut word = None;
    for _ in 0..ATTEMPTS {
        answer.status.set(status::NONE);
        request.kind.set(kind);
        let read = pagemap.word(va);
        request.kind.set(request::NONE);
        word = read?;
        if word.is_none() || answer.fired.get() != 0 {
            break;
        }
    }
    let Some(word) = word else { return Ok(None) };
    ensure!(
        answer.fired.get() != 0,
        Failure::unsupported(format!("{TRACEPOINT} did not fire in our own read of pagemap")).hint(
            "v2p must run in the PID namespace of its /proc mount, on a kernel with the mmap_lock tracepoints"
        )
    );
    Ok(Some(word))
}

fn read_walk(control: &Control) -> Walk {
    let Control {
        direct_map, answer, ..
    } = control;
    let mut entries = [Entry::default(); 5];
    for (entry, word) in entries.iter_mut().zip(&answer.entries) {
        *entry = Entry(word.get());
    }
    let end = || {
        let level = Level::from_u32(u32::try_from(answer.end_level.get()).ok()?)?;
        let entry = *entries.get(level as usize)?;
        let state = entry.state(level, direct_map.physical_mask.get());
        Some(WalkEnd {
            level,
            entry,
            state,
        })
    };
    Walk {
        mm: answer.mm.get(),
        pgd: answer.pgd.get(),
        entries,
        end: (answer.status.get() == status::OK).then(end).flatten(),
    }
}
