//! `v2p watch`: what becomes of the pages of a process, as it happens.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{
    cli,
    exit::{self, Failure},
    kernel::privileges,
    process::Process,
    record::Record,
    render::{Output, count, printable},
    timeline::TraceFile,
    watch::{self, Listener, Stop, Wish},
    whole_file::{is_stdout, is_stream},
};

/// Watches until told to stop; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process, 3 where privileges or eBPF are missing.
pub async fn run(args: &cli::Watch, output: &mut Output) -> Result<u8> {
    privileges::keep_to_looking(args.command.is_empty())?;
    // A pipe waits for who reads it: until then a signal ends us as it ends anybody.
    let trace = match &args.output {
        Some(path) => Some(trace(path, output).context("watch")?),
        None => None,
    };
    let stop = Stop::new(args.duration)?;
    let watched = match trace {
        None => watch::run(&wish(args, output), stop, output).await,
        Some(trace) => with_trace(args, trace, stop, output).await,
    };
    watched.context("watch")?;
    Ok(exit::YES)
}

fn wish<'a>(args: &'a cli::Watch, output: &Output) -> Wish<'a> {
    Wish {
        pid: args.pid,
        command: &args.command,
        command_aside: output.is_json(),
        asked: &args.asked,
        follow: args.follow,
        faults: args.faults,
        access: args.faults,
    }
}

/// The trace that is to be written to `path`.
fn trace(path: &Path, output: &Output) -> Result<TraceFile> {
    let shown = path.display();
    let example = "for example: --output trace.perfetto-trace";
    if is_stdout(path) {
        let records = if output.is_json() { "records" } else { "lines" };
        let what = format!("--output {shown}: the {records} of the watch go there");
        return Err(Failure::failed(what).hint(example).into());
    }
    let ends_well = path.extension().is_some_and(|end| end == "perfetto-trace");
    if !ends_well && !is_stream(path) {
        let what = format!("--output {shown}: a trace is a .perfetto-trace");
        return Err(Failure::failed(what).hint(example).into());
    }
    let name = |pid| Process::open(pid).map_or_else(|_| String::new(), |process| process.name());
    Ok(TraceFile::create(path, name)?)
}

/// Prints, and writes a trace.
async fn with_trace(
    args: &cli::Watch,
    trace: TraceFile,
    stop: Stop,
    output: &mut Output,
) -> Result<()> {
    let with_faults = Wish {
        faults: true,
        access: true,
        ..wish(args, output)
    };
    let mut both = Printed {
        trace,
        show_faults: args.faults,
        output,
    };
    watch::run(&with_faults, stop, &mut both).await?;
    both.trace.finish()?;
    let (moves, faults) = both.trace.counts();
    if !both.output.is_json() {
        let path = both.trace.path().to_string_lossy();
        let path = printable(&path);
        let (moves, faults) = (count(moves, "move"), count(faults, "fault"));
        let what = format!("v2p: {path}: {moves} and {faults}, for Perfetto's viewer");
        both.output.say(&what);
    }
    Ok(())
}

/// Prints what was asked for, and writes all of it to a trace.
struct Printed<'a> {
    output: &'a mut Output,
    trace: TraceFile,
    show_faults: bool,
}

impl Listener for Printed<'_> {
    fn record(&mut self, record: &Record) -> Result<()> {
        if let Record::Start { .. } = record {
            // Nothing is said to have begun, no command is started, where the trace cannot be written.
            self.trace.record(record)?;
            return self.output.record(record);
        }
        if self.show_faults || !matches!(record, Record::Fault { .. }) {
            self.output.record(record)?;
        }
        Ok(self.trace.record(record)?)
    }

    fn wants_names(&self) -> bool {
        true
    }

    fn turn(&mut self) -> Result<Option<&'static str>> {
        self.trace.flush()?;
        Listener::turn(self.output)
    }

    fn say(&mut self, message: &str) {
        self.output.say(message);
    }
}
