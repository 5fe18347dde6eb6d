//! `v2p watch`: faults and migrations of a process as they happen.

use anyhow::{Context as _, Result};

use crate::{
    bpf::Programs,
    carrier::Carrier,
    cli,
    exit::{self, Failure},
    kernel::{self, privileges::Privileges},
    process::{Pagemap, Process},
    render::Output,
    tracer::Tracer,
    translate::Both,
    watch::{self, Session, Stop},
};
use v2p_common::{PAGE_SIZE, VirtAddr};

/// Watches until told to stop; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process, 3 where privileges or eBPF are missing.
pub async fn run(args: &cli::Watch, output: &mut Output) -> Result<u8> {
    Privileges::read()?.require_tracing().context("watch")?;
    let process = Process::open(args.pid).context("watch")?;
    let pagemap = Pagemap::of(args.pid).context("watch")?;
    // The pidfd is of the process that the number named before; if that lives, the pagemap is its own too.
    if process.has_ended() {
        return Err(no_address_space(args.pid).into());
    }
    let stop = Stop::new(args.duration)?;

    let mut programs = Programs::load(&kernel::layout::learn()?)?;
    let mut carrier = Carrier::new(&mut programs)?;
    let direct_map = kernel::direct_map::learn(&mut carrier)?;
    // Any user address tells the mm; what lies there does not matter.
    let Some(both) = Both::ask(&mut carrier, &pagemap, VirtAddr(PAGE_SIZE))? else {
        return Err(no_address_space(args.pid).into());
    };
    let span = watch::span(&args.ranges);
    let tracer = Tracer::start(&mut programs, &process, both.walk.mm, span)?;

    let session = Session {
        programs: &programs,
        carrier: &mut carrier,
        tracer,
        pagemap: &pagemap,
        ended: process.into_async()?,
        ranges: &args.ranges,
        show_faults: args.faults,
        paging: direct_map.paging,
    };
    session.run(stop, output).await?;
    Ok(exit::YES)
}

fn no_address_space(pid: u32) -> Failure {
    Failure::no(format!(
        "watch: process {pid} has no address space: it is a kernel thread, or has ended"
    ))
}
