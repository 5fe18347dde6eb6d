//! `v2p watch`: what becomes of the pages of a process, as it happens.

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use v2p_common::{PAGE_SIZE, VirtAddr};

use crate::{
    bpf::Programs,
    carrier::Carrier,
    cli,
    doctor::tracing,
    exit::{self, Failure},
    kernel,
    process::{
        AddressSpace, Pagemap, Process,
        maps::{self, Asked, Mapping, Range, USER_END},
    },
    render::Output,
    tracer::{Target, Tracer, Wanted},
    translate::Both,
    watch::{self, Session, Stop, spawn::Command},
};

/// Watches until told to stop; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process, 3 where privileges or eBPF are missing.
pub async fn run(args: &cli::Watch, output: &mut Output) -> Result<u8> {
    tracing::require().context("watch")?;
    let command = match args.command.as_slice() {
        [] => None,
        words => Some(Command::new(words)?),
    };
    let pid = args.pid.or(command.as_ref().map(|command| command.pid));
    let pid = pid.context("watch: neither a process nor a command")?;
    let process = Process::open(pid).context("watch")?;
    let pagemap = Pagemap::of(pid).context("watch")?;
    // The pidfd is of the process that the number named before; if that lives, the pagemap is its own too.
    if process.has_ended() {
        return Err(no_address_space(pid).into());
    }
    let stop = Stop::new(args.duration)?;
    let ranges = ranges(args, &process).context("watch")?;

    let mut programs = Programs::load_for_functions(kernel::layout::learn)?;
    let mut carrier = Carrier::new(&mut programs)?;
    let direct_map = kernel::direct_map::learn(&mut carrier)?;
    // Any user address tells the mm; what lies there does not matter. A command's own comes with its exec.
    let mm = match &command {
        Some(_) => 0,
        None => Both::ask(&mut carrier, &pagemap, VirtAddr(PAGE_SIZE))?
            .map(|both| both.walk.mm)
            .ok_or_else(|| no_address_space(pid))?,
    };
    let target = Target {
        mm,
        range: watch::span(&ranges),
        follow_exec: true,
    };
    raise_open_files();
    let tracer = Tracer::start(&mut programs, &process, &target, Wanted::All)?;

    let session = Session {
        programs: &mut programs,
        carrier: &mut carrier,
        tracer,
        pagemap,
        ended: process.into_async()?,
        command,
        ranges: &ranges,
        show_faults: args.faults,
        paging: direct_map.paging,
    };
    session.run(stop, output).await?;
    Ok(exit::YES)
}

/// The addresses that are asked about; empty: all.
fn ranges(args: &cli::Watch, process: &Process) -> Result<Vec<Range>> {
    if args.asked.is_empty() {
        return Ok(Vec::new());
    }
    if args.command.is_empty() {
        let AddressSpace { pagemap, mappings } = AddressSpace::of(process)?;
        let end = pagemap
            .end()?
            .ok_or_else(|| no_address_space(process.pid))?;
        let pieces = maps::select(&mappings, &args.asked, end)?;
        return Ok(pieces.iter().map(Mapping::range).collect());
    }
    let addresses = args.asked.iter().map(|one| match one {
        Asked::Range(range) if range.end <= USER_END => Ok(*range),
        Asked::Range(range) => Err(Failure::failed(format!(
            "{:#x} is beyond any process's addresses",
            range.start
        ))
        .into()),
        Asked::Name(_) => Err(
            Failure::failed("a command has no mappings before it is started")
                .hint("give addresses, or watch all of it")
                .into(),
        ),
    });
    addresses.collect()
}

/// Each thread of the target takes four descriptors. Where the limit cannot be raised, attaching says so.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

fn no_address_space(pid: u32) -> Failure {
    Failure::no(format!(
        "watch: process {pid} has no address space: it is a kernel thread, or has ended"
    ))
}
