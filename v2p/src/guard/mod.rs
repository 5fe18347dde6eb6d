//! The one way to /dev/mem for writing: look up, compare, look up again, write, prove ([`Guard::write`]).
//!
//! A physical write cannot be taken back, and unless the page is [pinned](Pin) nothing stops it from moving before the
//! write arrives. So the guard refuses what must not be written, notices a move before the write, and proves after it
//! where the bytes went.

mod attempt;
pub mod devmem;
mod evidence;
mod inspect;
mod lru;
mod moves;
mod parts;
mod pin;
mod refusal;
mod report;
mod source;
mod stop;
mod strike;
mod verdict;
mod write;

#[cfg(test)]
mod sources;

use std::ops::Range;

use anyhow::Result;
use v2p_common::{PAGE_SIZE, PageSize, VirtAddr, event::Event, pte::Level};

pub use attempt::{Attempt, Call, attempt};
pub use pin::Pin;
pub use stop::Stopped;

use self::{devmem::DevMem, parts::Part, refusal::Refusal, source::Source};
use crate::{
    bpf::Programs,
    carrier::Carrier,
    direct_map::{self, DirectMap},
    exit::Failure,
    kernel::{self, reason::Reasons},
    page::{self, ZeroFrames},
    process::{AddressSpace, Memory, Pagemap, Process, maps::whole_leaves},
    record::Write,
    tracer::{Loss, Target, Tracer, Wanted},
    translate::{Both, page::Decoder},
};

/// Everything that the protocol needs, live before it starts: one for all writes to some pages of a process.
pub struct Guard {
    process: Process,
    /// The addresses that the hooks are live on.
    range: Range<u64>,
    programs: Programs,
    carrier: Carrier,
    tracer: Tracer,
    pagemap: Pagemap,
    memory: Memory,
    direct_map: DirectMap,
    decoder: Decoder,
    reasons: Reasons,
    devmem: Option<DevMem>,
    source: Source,
    pins: Vec<(Range<u64>, Pin)>,
    /// What takes a page away is seen, or nobody but we can do it.
    sees_removals: bool,
    loss: Loss,
    /// Those of the write that is being made.
    events: Vec<Event>,
    /// Threads that began to take entries out, and whose end was not told.
    unended: u64,
}

/// What is to be written, and how.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Where, for the process.
    pub va: VirtAddr,
    /// What; not nothing.
    pub bytes: &'a [u8],
    /// All but the pwrite.
    pub dry_run: bool,
    /// Also where the process itself may not write.
    pub force_readonly: bool,
}

/// A step of the protocol: the place to disturb it on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// All pages were checked; the first is to be checked again, and looked up for the last time.
    LookUp,
    /// The last look-up has named the frame; the pwrite comes.
    Write,
    /// It was made; the bytes are read back at once.
    ReadBack,
    /// They were; the proof comes.
    Prove,
}

/// For [`Guard::write`]: no step is disturbed.
///
/// # Errors
/// None.
pub fn undisturbed(_: Step) -> Result<()> {
    Ok(())
}

impl Guard {
    /// Makes the hooks live on the addresses `range` of `process`. With [`Wanted::Migrations`] the pages must be our own and
    /// locked, so that nothing else takes them away. Inside a tokio runtime with I/O.
    ///
    /// # Errors
    /// Exit code 1 where the process has ended, or has no such addresses; 3 where this kernel or these privileges lack something.
    pub fn new(process: Process, range: Range<u64>, wanted: Wanted) -> Result<Self> {
        let AddressSpace { pagemap, .. } = AddressSpace::of(&process)?;
        let memory = Memory::of(&process)?;
        let learnt = kernel::layout::learn()?;
        let mut programs = match wanted {
            Wanted::All => Programs::load_for_functions(&learnt),
            Wanted::Migrations => Programs::load(&learnt),
        }?;
        let mut carrier = Carrier::new(&mut programs)?;
        let direct_map = direct_map::learn(&mut carrier)?;
        let mut ask = |va| Both::ask(&mut carrier, &pagemap, VirtAddr(va));
        let ends = [ask(range.start)?, ask(range.end.saturating_sub(PAGE_SIZE))?];
        let [Some(first), Some(last)] = ends else {
            return Err(match pagemap.end()? {
                Some(end) if range.end > end.0 => Failure::no(past(&process, end)),
                _ => AddressSpace::none(&process),
            }
            .into());
        };
        let levels = [&first, &last].map(|both| both.walk.end.map(|end| end.level));
        // Base pages may become a huge page of 2 MiB any time, but none of a GiB.
        let largest = match levels.contains(&Some(Level::Pud)) {
            true => PageSize::Pud,
            false => PageSize::Pmd,
        };
        let target = Target {
            mm: first.walk.mm,
            range: match wanted {
                Wanted::All => whole_leaves(range.clone(), largest),
                Wanted::Migrations => range.clone(),
            },
            follow_exec: false,
            follow_forks: false,
            access: false,
        };
        let tracer = Tracer::start(&mut programs, &process, &target, wanted)?;
        let loss = tracer.loss(&programs);
        let decoder = Decoder {
            paging: Some(direct_map.paging),
            // The huge one is refused by its own word.
            zero: ZeroFrames {
                page: page::zero_pfn()?,
                huge: None,
            },
        };
        Ok(Self {
            sees_removals: wanted == Wanted::Migrations || tracer.sees_removals(),
            process,
            range,
            programs,
            carrier,
            tracer,
            pagemap,
            memory,
            direct_map,
            decoder,
            reasons: learnt.reasons,
            devmem: None,
            source: Source::new()?,
            pins: Vec::new(),
            loss,
            events: Vec::new(),
            unended: 0,
        })
    }

    /// Whose pages.
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// The live hooks.
    pub const fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The loaded programs.
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Asks the kernel's memory.
    pub const fn carrier(&mut self) -> &mut Carrier {
        &mut self.carrier
    }

    /// The kernel's mapping of all memory.
    pub const fn direct_map(&self) -> DirectMap {
        self.direct_map
    }

    /// Both routes' answer for `va`. `None`: the address space is gone, or ends before.
    ///
    /// # Errors
    /// Those of [`Both::ask`].
    pub fn ask(&mut self, va: VirtAddr) -> Result<Option<Both>> {
        Both::ask(&mut self.carrier, &self.pagemap, va)
    }

    /// Pins the `len` bytes from `va` on, as long as this guard lives: possible for our own memory alone.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn pin(&mut self, va: VirtAddr, len: usize) -> Result<(), String> {
        if !self.process.is_own() {
            return Err("no kernel interface pins another process's memory".to_owned());
        }
        let pin = Pin::new(va, len)?;
        self.pins.push((va.0..va.0 + len as u64, pin));
        Ok(())
    }

    /// Lets go of what was pinned.
    pub fn unpin(&mut self) {
        self.pins.clear();
    }

    fn is_pinned(&self, job: &Job<'_>) -> bool {
        let end = job.va.0.saturating_add(job.bytes.len() as u64);
        let covers = |range: &Range<u64>| range.start <= job.va.0 && end <= range.end;
        self.pins.iter().any(|(range, _)| covers(range))
    }
}

/// What `job` comes to where it goes beyond the addresses of `process`; `None`: it does not. A guard has no hooks there.
///
/// # Errors
/// Exit code 1 where the process has ended; those of reading its pagemap.
pub fn beyond(process: &Process, job: &Job<'_>) -> Result<Option<Write>> {
    let AddressSpace { pagemap, .. } = AddressSpace::of(process)?;
    let end = pagemap.end()?;
    let end = end.ok_or_else(|| AddressSpace::none(process))?;
    let last = job.va.0.saturating_add(job.bytes.len() as u64);
    if last <= end.0 {
        return Ok(None);
    }
    let from = end.0.saturating_sub(job.va.0);
    let part = Part {
        va: VirtAddr(job.va.0 + from),
        from: usize::try_from(from)?,
        len: usize::try_from(last - job.va.0 - from)?,
    };
    let refusal = Refusal {
        id: "not-mapped",
        what: past(process, end),
    };
    let mut report = report::new(process.pid, job, false);
    report::refuse(&mut report, part, &refusal);
    Ok(Some(report))
}

fn past(process: &Process, end: VirtAddr) -> String {
    let (pid, end) = (process.pid, end.0);
    format!("nothing is mapped there: the addresses of process {pid} end at {end:#x}")
}
