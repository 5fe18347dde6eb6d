//! What comes before a watch: whose address space it is, which addresses, and the hooks.

use std::ffi::OsString;

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, VirtAddr};

use super::{Listener, Session, Stop, span, spawn::Command};
use crate::{
    bpf::Programs,
    carrier::Carrier,
    doctor::tracing,
    exit::{self, Failure},
    kernel::{self, limits::raise_open_files},
    process::{
        AddressSpace, Pagemap, Process, asked,
        maps::{Mapping, Range, USER_END},
        select::{self, Asked},
    },
    tracer::{Target, Tracer, Wanted},
    translate::Both,
};

/// How often an address space is asked for that an exec takes away meanwhile.
const TRIES: u32 = 10;

/// What is to be watched, and what is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The process; `None`: that of `command`.
    pub pid: Option<u32>,
    /// A program to start, with its arguments; none: `pid` is watched.
    pub command: &'a [OsString],
    /// What it says on stdout goes to stderr: what is told of it has stdout alone.
    pub command_aside: bool,
    /// Which addresses; none: all.
    pub asked: &'a [Asked],
    /// Children too.
    pub follow: bool,
    /// Faults are told.
    pub faults: bool,
    /// And the kind of access that each came of, which costs others something: see [`Target::access`].
    pub access: bool,
}

/// Has the allocator give back what a full ring held, once it is told. Left alone, glibc takes what was large once for usual, and keeps up to
/// 64 MiB of it (M_MMAP_THRESHOLD in mallopt(3): to set it keeps it as it is).
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two numbers, and no memory. That it was not understood does no harm.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10)
    };
}

/// Watches until told to stop, and tells `listener`.
///
/// # Errors
/// Exit code 1 where there is no such process, 3 where privileges or eBPF are missing.
pub async fn run(wish: &Wish<'_>, stop: Stop, listener: &mut dyn Listener) -> Result<()> {
    tracing::require()?;
    give_memory_back();
    let command = match wish.command {
        [] => None,
        words => Some(Command::new(words, wish.command_aside)?),
    };
    let pid = wish.pid.or(command.as_ref().map(|command| command.pid));
    let pid = pid.context("neither a process nor a command")?;
    let process = Process::open(pid)?;
    let mut pagemap = match Pagemap::of(pid) {
        // Why it has none.
        Err(e) if exit::code(&e) == exit::NO => {
            return Err(AddressSpace::of(&process).err().unwrap_or(e));
        }
        found => found?,
    };
    // The pidfd is of the process that the number named before; if that lives, the pagemap is its own too.
    if process.has_ended() {
        return Err(AddressSpace::none(&process).into());
    }
    let ranges = asked::merged(ranges(wish, &process)?);

    let mut learnt = kernel::layout::learn()?;
    learnt.layout.follow = u64::from(wish.follow);
    let mut programs = Programs::load_for_functions(&learnt)?;
    let mut carrier = Carrier::new(&mut programs)?;
    let direct_map = crate::direct_map::learn(&mut carrier)?;
    // Any user address tells the mm; what lies there does not matter. A command's own comes with its exec.
    let mm = match &command {
        Some(_) => 0,
        None => {
            let found = address_space(&mut carrier, &process, pagemap)?;
            pagemap = found.0;
            found.1
        }
    };
    let target = Target {
        mm,
        range: span(&ranges),
        follow_exec: true,
        follow_forks: wish.follow,
        access: wish.access,
    };
    raise_open_files();
    let tracer = Tracer::start(&mut programs, &process, &target, Wanted::All)?;
    let before = mm;
    let (pagemap, mm) = match &command {
        Some(_) => (pagemap, mm),
        None => by_now(&tracer, &mut carrier, &process, (pagemap, mm))?,
    };
    if mm != before {
        // That exec may have taken them off, for other rights.
        tracer.attach_faults_again(&mut programs, &process)?;
    }

    let session = Session {
        programs: &mut programs,
        carrier: &mut carrier,
        tracer,
        pagemap: Some(pagemap),
        mm,
        follow: wish.follow,
        ended: process.into_async()?,
        command,
        ranges: &ranges,
        show_faults: wish.faults,
        paging: direct_map.paging,
        reasons: learnt.reasons,
    };
    session.run(stop, listener).await
}

/// The address space of `process`, whose pagemap may be of one that it has left by an exec since.
fn address_space(
    carrier: &mut Carrier,
    process: &Process,
    mut pagemap: Pagemap,
) -> Result<(Pagemap, u64)> {
    for _ in 0..TRIES {
        if let Some(both) = Both::ask(carrier, &pagemap, VirtAddr(PAGE_SIZE))? {
            return Ok((pagemap, both.walk.mm));
        }
        if process.has_ended() {
            break;
        }
        pagemap = Pagemap::of(process.pid)?;
        if process.has_ended() {
            break;
        }
    }
    Err(AddressSpace::none(process).into())
}

/// The address space of `process`: another than the one that was found, where it has executed a program since. The hooks tell of an exec
/// from now on, but not of one before.
fn by_now(
    tracer: &Tracer,
    carrier: &mut Carrier,
    process: &Process,
    found: (Pagemap, u64),
) -> Result<(Pagemap, u64)> {
    // Where it has ended, that is told as always.
    let Ok(pagemap) = Pagemap::of(process.pid) else {
        return Ok(found);
    };
    if process.has_ended() {
        // Its number may be another's.
        return Ok(found);
    }
    let Some(both) = Both::ask(carrier, &pagemap, VirtAddr(PAGE_SIZE))? else {
        return Ok(found);
    };
    let mm = both.walk.mm;
    // Where the programs report of a third, they tell how it came to it.
    match mm != found.1 && tracer.overtake(found.1, mm) {
        true => Ok((pagemap, mm)),
        false => Ok(found),
    }
}

/// The addresses that are asked about; empty: all.
fn ranges(wish: &Wish<'_>, process: &Process) -> Result<Vec<Range>> {
    if wish.asked.is_empty() {
        return Ok(Vec::new());
    }
    if wish.command.is_empty() {
        let AddressSpace {
            pagemap, mappings, ..
        } = AddressSpace::of(process)?;
        let end = pagemap.end()?.ok_or_else(|| AddressSpace::none(process))?;
        let pieces = select::select(&mappings, wish.asked, end)?;
        if let Some(piece) = pieces.iter().find(|piece| piece.is_kernels()) {
            let what = format!("{} is the kernel's: no page of it moves", piece.name);
            return Err(Failure::unsupported(what)
                .hint(format!(
                    "where it lies: v2p translate --pid {} --route walk {}",
                    process.pid, piece.name
                ))
                .into());
        }
        return Ok(pieces.iter().map(Mapping::range).collect());
    }
    let addresses = wish.asked.iter().map(|one| {
        let range = one.addresses().ok_or_else(|| {
            Failure::failed("a command has no mappings before it is started")
                .hint("give addresses, or watch all of it")
        })??;
        match range.end <= USER_END {
            true => Ok(range),
            false => Err(Failure::failed(format!(
                "{:#x} is beyond any process's addresses",
                range.start
            ))
            .into()),
        }
    });
    addresses.collect()
}
