//! `v2p write`: every verdict made on purpose, every refusal, a page that is pinned, a process that is stopped, and the storm.

mod cases;
mod command;
mod meanwhile;
mod pinned;
mod pwrite;
mod refused;
mod stopped;
pub(crate) mod storm;
mod verdicts;

use std::ops::Range;

use libtest_mimic::Trial;
use v2p::{
    common::VirtAddr,
    guard::{Guard, Job, Step, undisturbed},
    process::Process,
    record::{Verdict, Write},
    tracer::Wanted,
};

use crate::{
    Again,
    harness::expected_devmem,
    target::{BASE, Target, va},
};

pub(crate) use stopped::{stop_and_wait, stop_once};

pub(crate) fn trials() -> Vec<Trial> {
    [
        command::trials(),
        verdicts::trials(),
        meanwhile::trials(),
        refused::trials(),
        pinned::trials(),
        pwrite::trials(),
        stopped::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Everywhere that a target has memory.
const EVERYWHERE: Range<u64> = BASE..0x7000_0000_0000;

fn is_open() -> bool {
    expected_devmem().as_deref() == Some("open")
}

/// A guard and what runs it.
struct Scene {
    guard: Guard,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn of(pid: u32, range: Range<u64>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let guard = {
            let _inside = runtime.enter();
            Guard::new(Process::open(pid).unwrap(), range, Wanted::All).unwrap()
        };
        Self { guard, runtime }
    }

    fn on(target: &Target) -> Self {
        Self::of(target.pid(), EVERYWHERE)
    }

    /// Writes `bytes` at `va`.
    fn write(&mut self, va: u64, bytes: &[u8]) -> Write {
        self.write_disturbed(va, bytes, &mut undisturbed)
    }

    fn write_disturbed(
        &mut self,
        va: u64,
        bytes: &[u8],
        disturb: &mut dyn FnMut(Step) -> anyhow::Result<()>,
    ) -> Write {
        let job = Job {
            va: VirtAddr(va),
            bytes,
            dry_run: false,
            force_readonly: false,
        };
        self.job(&job, disturb)
    }

    fn job(&mut self, job: &Job<'_>, disturb: &mut dyn FnMut(Step) -> anyhow::Result<()>) -> Write {
        let control = self.guard.programs().control();
        let before = control.account.lost.get();
        let said = self.job_losing(job, disturb);
        if said.lost > control.account.lost.get() - before {
            assert_ne!(said.verdict, Verdict::Landed, "{said:#?}");
            let skipped = self.guard.programs().skipped();
            std::panic::panic_any(Again(format!("skipped by the kernel: {skipped:?}")));
        }
        said
    }

    /// The same where the kernel may skip hooks.
    fn job_losing(
        &mut self,
        job: &Job<'_>,
        disturb: &mut dyn FnMut(Step) -> anyhow::Result<()>,
    ) -> Write {
        let Self { guard, runtime } = self;
        runtime.block_on(guard.write(job, disturb)).unwrap()
    }
}

/// Some bytes into the page.
const INSIDE: u64 = 64;

/// An address in page `i`.
fn inside(i: u64) -> u64 {
    va(i) + INSIDE
}

/// The word that `bytes` are for the target's `peek`.
fn word(bytes: [u8; 8]) -> u64 {
    u64::from_ne_bytes(bytes)
}
