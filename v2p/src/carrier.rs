//! Questions to the kernel's memory, answered from inside our own pread of /proc/PID/pagemap
//! (v2p-ebpf/src/hooks/carrier.rs says why that works).

use std::{rc::Rc, thread, time::Duration};

use anyhow::{Result, ensure};
use v2p_common::{
    Pfn, PhysAddr, VirtAddr,
    control::{BLOCK_PAGES, Control, PHYSICAL_BYTES, Table, UNREAD, request, status},
    pagemap::PagemapWord,
    pte::{Entry, Level, WalkEnd},
};

use crate::{
    bpf::{Programs, SharedControl, SharedTables, TABLES},
    exit::Failure,
    page::OwnPage,
    process::{self, Pagemap},
};

/// How often a request is made that was not served.
const ATTEMPTS: usize = 100;
/// After so many, others get the time to end what is in the way.
const AT_ONCE: usize = 10;
const PAUSE: Duration = Duration::from_micros(100);

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
    tables: SharedTables,
    request: u64,
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
        programs.attach_carrier(TRACEPOINT)?;
        let mut carrier = Self {
            control: programs.control(),
            own_pagemap: Pagemap::of_self()?,
            anchor: OwnPage::new()?,
            own_mm: 0,
            cookie: 0,
            tables: programs.take_tables()?,
            request: 0,
        };
        carrier.own_mm = carrier.walk_own(carrier.anchor.va())?.mm;
        Ok(carrier)
    }

    /// Takes the carrier off its tracepoint, which costs every process a little while it is there. Until
    /// [`Self::attach`] nothing can be asked.
    ///
    /// # Errors
    /// Where it is not attached.
    pub fn detach(&self, programs: &mut Programs) -> Result<()> {
        programs.detach_carrier()
    }

    /// Puts it back.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn attach(&self, programs: &mut Programs) -> Result<()> {
        programs.attach_carrier(TRACEPOINT)
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
    pub fn both(&self, pagemap: &Pagemap, va: VirtAddr) -> Result<Option<(PagemapWord, Walk)>> {
        let not_mm = self.not_meant(pagemap);
        let word = ask(&self.control, pagemap, va, request::WALK, va.0, not_mm)?;
        Ok(word.map(|word| (word, read_walk(&self.control))))
    }

    /// The walk alone for one address of the process of `pagemap`, also in the kernel's half, which pagemap does not have.
    /// `None`: the process has no address space any more.
    ///
    /// # Errors
    /// As [`Self::both`].
    pub fn walk(&self, pagemap: &Pagemap, va: VirtAddr) -> Result<Option<Walk>> {
        let not_mm = self.not_meant(pagemap);
        // The first page is one of every process's addresses, be anything there or not.
        let word = ask(
            &self.control,
            pagemap,
            VirtAddr(0),
            request::WALK,
            va.0,
            not_mm,
        )?;
        Ok(word.map(|_| read_walk(&self.control)))
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

    /// Both routes for many pages, in one system call: fills `words` with pagemap's words of the pages from `start`
    /// on, and copies the page tables of the first `blocks` blocks (2 MiB of address space each, the first
    /// being the one that holds `start`), at most [`TABLES`]; [`Self::table`] has them. Gives the number of words read;
    /// 0: the address space is gone.
    ///
    /// # Errors
    /// Where pagemap cannot be read.
    pub fn tables(
        &mut self,
        pagemap: &Pagemap,
        start: VirtAddr,
        blocks: usize,
        words: &mut [u64],
    ) -> Result<usize> {
        let before = usize::try_from(start.page_number()).map_or(0, |n| n % BLOCK_PAGES);
        // The program sees by these how far the kernel has come; the others need no mark.
        for block in 0..blocks {
            if let Some(word) = words.get_mut((block * BLOCK_PAGES).saturating_sub(before)) {
                *word = UNREAD;
            }
        }
        self.ask_for_tables(request::TABLES, pagemap, start, blocks.min(TABLES), words)
    }

    /// The walk alone, for many pages, in one system call: copies the page tables of the first `blocks` blocks, as
    /// [`Self::tables`] does, at most [`AT_ONCE`](v2p_common::control::AT_ONCE). False: the address space is gone.
    ///
    /// # Errors
    /// Where pagemap cannot be read.
    pub fn tables_at_once(
        &mut self,
        pagemap: &Pagemap,
        start: VirtAddr,
        blocks: usize,
    ) -> Result<bool> {
        let kind = request::TABLES_AT_ONCE;
        Ok(self.ask_for_tables(kind, pagemap, start, blocks, &mut [0])? != 0)
    }

    /// Copies the page middle directory for `va`, each of whose 512 entries stands for a block; [`Self::table`] 0 has
    /// it. False: the address space is gone.
    ///
    /// # Errors
    /// Where pagemap cannot be read.
    pub fn directory(&mut self, pagemap: &Pagemap, va: VirtAddr) -> Result<bool> {
        Ok(self.ask_for_tables(request::DIRECTORY, pagemap, va, 1, &mut [0])? != 0)
    }

    /// One pread of `words` that carries a request for tables; gives the number of words read.
    fn ask_for_tables(
        &mut self,
        kind: u64,
        pagemap: &Pagemap,
        start: VirtAddr,
        blocks: usize,
        words: &mut [u64],
    ) -> Result<usize> {
        self.request += 1;
        let Control {
            request, answer, ..
        } = &**self.control;
        request.blocks.set(blocks as u64);
        request.words.set(words.as_ptr() as u64);
        request.number.set(self.request);
        request.not_mm.set(self.not_meant(pagemap));
        request.argument.set(start.page().0);
        request.tid.set(process::own_tid());
        answer.block.set(0);
        answer.fired.set(0);
        request.kind.set(kind);
        let read = pagemap.read_words(start, words);
        request.kind.set(request::NONE);
        read
    }

    /// The mm whose lock is not meant while `pagemap` is read: ours, where it is another's.
    const fn not_meant(&self, pagemap: &Pagemap) -> u64 {
        if pagemap.is_own() { 0 } else { self.own_mm }
    }

    /// Table `index` of the last request for tables; `None`: the kernel did not come by it. [`Self::both`] leaves them.
    pub fn table(&self, index: usize) -> Option<&Table> {
        self.tables
            .get(index)
            .filter(|table| table.number == self.request)
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
    request.tid.set(process::own_tid());
    request.not_mm.set(not_mm);
    request.argument.set(argument);
    answer.fired.set(0);
    // From 7.x on tracepoints are preemptible, and the kernel skips a program that another task has been
    // preempted in on this CPU: then nothing was served, and asking again is harmless.
    let mut word = None;
    for attempt in 0..ATTEMPTS {
        if attempt >= AT_ONCE {
            thread::sleep(PAUSE);
        }
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
