//! `v2p top`: a live view of a watch.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};

use crate::{
    cli,
    doctor::tracing,
    exit::{self, Failure},
    kernel::{self, privileges},
    process::Process,
    render::Output,
    top::{App, Top, app::Subject, sample::Sampler},
    watch::{self, Stop, Wish},
};

/// Shows the watch until told to stop; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process, 2 where stdout or stdin is no terminal, 3 where privileges or eBPF are missing.
pub async fn run(args: &cli::Top, output: &mut Output) -> Result<u8> {
    privileges::keep_to_looking(true)?;
    if output.is_json() {
        return Err(Failure::failed("top: --json: a view is for people")
            .hint("the same for programs: v2p watch --json --faults")
            .into());
    }
    for (name, is_terminal) in [
        ("stdout", io::stdout().is_terminal()),
        ("stdin", io::stdin().is_terminal()),
    ] {
        if !is_terminal {
            return Err(Failure::failed(format!("top: {name} is not a terminal"))
                .hint("without one: v2p watch --faults")
                .into());
        }
    }
    tracing::require().context("top")?;
    let process = Process::open(args.pid).context("top")?;
    let subject = Subject {
        pid: args.pid,
        comm: process.name(),
        kernel: kernel::release(),
        ..Subject::default()
    };
    let wish = Wish {
        pid: Some(args.pid),
        command: &[],
        command_aside: false,
        asked: &args.asked,
        follow: false,
        faults: true,
        access: false,
    };
    let stop = Stop::new(args.duration)?.or_whatever_asks()?;
    let mut top = Top::new(
        App::new(subject, output.is_coloured()),
        Sampler::new(process).context("top")?,
    );
    let watched = watch::run(&wish, stop, &mut top).await;
    // The terminal comes back before anything is said.
    let end = top.close();
    watched.context("top")?;
    if let Some(end) = end {
        output.record(&end)?;
    }
    Ok(exit::YES)
}
