//! `v2p write`: bytes to the page behind an address of a process, through /dev/mem, under guard.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, Result};
use v2p_common::PAGE_SIZE;

use crate::{
    cli::{self, InjectAt},
    doctor::tracing,
    exit::{self, Failure},
    guard::{self, Guard, Job, Step, Stopped},
    inject,
    kernel::{limits::raise_open_files, privileges},
    process::Process,
    record::{Record, Verdict, Write},
    render::{Output, WriteText, count},
    tracer::Wanted,
};

/// What one call may write: every page of it is looked at, and proven, on its own.
const MAX: usize = 1 << 20;

/// Writes, and says what became of it; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process, 2 where the bytes are none or too many, 3 where privileges or eBPF are missing.
pub async fn run(args: &cli::Write, output: &mut Output) -> Result<u8> {
    privileges::keep_to_writing()?;
    output.answer_stands();
    let bytes = bytes(args).context("write")?;
    tracing::require().context("write")?;
    let process = Process::open(args.pid).context("write")?;
    let pid = process.pid;
    let end = args.va.0.checked_add(bytes.len() as u64);
    let end = end.and_then(|end| end.checked_next_multiple_of(PAGE_SIZE));
    let end = end.ok_or_else(|| Failure::failed("write: it goes beyond the last address"))?;
    raise_open_files();
    let job = Job {
        va: args.va,
        bytes: &bytes,
        dry_run: args.dry_run,
        force_readonly: args.force_readonly,
    };
    if let Some(refused) = guard::beyond(&process, &job).context("write")? {
        WriteText::new(output).start(pid, args.va, &bytes)?;
        return tell(refused, output);
    }
    let mut guard = Guard::new(process, args.va.page().0..end, Wanted::All).context("write")?;
    let text = WriteText::new(output);
    text.start(pid, args.va, &bytes)?;
    text.hooks(guard.tracer(), "")?;
    // Held until the verdict is there; nothing is said meanwhile, which might have to wait for who reads it.
    let stopped = match args.stop {
        true => {
            no_signal_stops_it();
            Some(Stopped::stop(guard.process()).context("write")?)
        }
        false => None,
    };
    let pinned = guard.pin(args.va, bytes.len());
    let mut disturb = |step: Step| {
        if args.inject_move.is_some_and(|at| step == at.into()) {
            text.injected(inject::move_page(pid, args.va)?)?;
        }
        if step == Step::LookUp && !args.dry_run {
            no_signal_ends_it();
        }
        Ok(())
    };
    let mut write = guard.write(&job, &mut disturb).await.context("write")?;
    drop(stopped);
    write.stopped = args.stop;
    write.not_pinned = pinned.err();
    tell(write, output)
}

/// Says what became of it; gives the exit code.
fn tell(write: Write, output: &mut Output) -> Result<u8> {
    let (verdict, written) = (write.verdict, write.written);
    let text = WriteText::new(output);
    let said = text.write(&write).and_then(|()| text.verdict(&write));
    let said = said.and_then(|()| output.json(&Record::Write(Box::new(write))));
    // What was done to memory is not lost with a full disk.
    said.and_then(|()| output.flush()).with_context(|| {
        let written = count(written as u64, "byte");
        format!("write: {}, {written} written", verdict.name())
    })?;
    Ok(match verdict {
        Verdict::Landed | Verdict::Allowed => exit::YES,
        _ => exit::NO,
    })
}

/// From here on what was done to memory has to be said: it ends by itself, soon.
pub(super) fn no_signal_ends_it() {
    ignore(&[libc::SIGHUP, libc::SIGINT, libc::SIGTERM]);
}

/// While v2p stands still, who is held by it would too.
fn no_signal_stops_it() {
    ignore(&[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]);
}

fn ignore(signals: &[libc::c_int]) {
    for signal in signals {
        // SAFETY: ignoring a signal runs nothing.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

impl From<InjectAt> for Step {
    fn from(at: InjectAt) -> Self {
        match at {
            InjectAt::LookUp => Self::LookUp,
            InjectAt::Write => Self::Write,
            InjectAt::Prove => Self::Prove,
        }
    }
}

/// What is to be written: something, and not too much.
fn bytes(args: &cli::Write) -> Result<Vec<u8>> {
    let (bytes, what) = match (&args.text, &args.hex, &args.file) {
        (Some(text), _, _) => (text.as_bytes().to_vec(), "--text".to_owned()),
        (_, Some(hex), _) => (hex.0.clone(), "--hex".to_owned()),
        (_, _, Some(file)) => (contents(file)?, file.display().to_string()),
        _ => return Err(Failure::failed("nothing was given to write").into()),
    };
    let what = match bytes.len() {
        0 => format!("{what}: there is nothing to write"),
        n if n > MAX => format!("{what}: it is too long: one write takes {MAX} bytes at most"),
        _ => return Ok(bytes),
    };
    Err(Failure::failed(what).into())
}

/// What the file holds, and no more of it than shows that it is too long.
fn contents(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| path.display().to_string())?;
    Ok(bytes)
}
