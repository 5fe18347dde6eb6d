//! The one way to /dev/mem for writing: look up, compare, look up again, write, prove.
//!
//! A physical write cannot be taken back, and nothing stops the page from moving before it arrives. So
//! the guard refuses what must not be written, notices a move before the write, and proves after it
//! where the bytes went.

mod attempt;
mod verdict;

use std::io;

use anyhow::{Context as _, Result};
use v2p_common::{Pfn, VirtAddr, event::Event};

pub use attempt::{Attempt, Call, attempt};
use verdict::{Evidence, refusal, verdict};

use crate::{
    bpf::Programs,
    carrier::Carrier,
    devmem::DevMem,
    doctor::{self, Denial},
    ledger::Ledger,
    page::OwnPage,
    process::{Pagemap, frame_flags, frame_mapcount},
    record::{Hex, Move, Verdict, Write},
    tracer::{Loss, Tracer},
    translate::{Agreement, Both},
};

/// Everything that the protocol needs, live before it starts.
pub struct Guard<'a> {
    /// The loaded programs.
    pub programs: &'a Programs,
    /// Walks.
    pub carrier: &'a mut Carrier,
    /// Hooks on the page, live since before `ledger` was seeded.
    pub tracer: &'a mut Tracer,
    /// What is known of the page.
    pub ledger: &'a mut Ledger,
    /// The process's pagemap.
    pub pagemap: &'a Pagemap,
}

/// The moves in `events`, each with the time at which it began: that of the migration entry which it ended.
/// Migrations that moved nothing leave no trace.
fn timeline(ledger: &mut Ledger, events: &[Event]) -> Vec<(u64, Move)> {
    let mut began = None;
    let mut moves = Vec::new();
    for event in events {
        match event {
            Event::MigrationSet(m) => began = Some(m.header.t_ns),
            Event::MigrationRemove(m) => {
                let start = began.take().unwrap_or(m.header.t_ns);
                moves.extend(ledger.apply(event).into_iter().map(|one| (start, one)));
                continue;
            }
            _ => {}
        }
        moves.extend(ledger.apply(event).into_iter().map(|one| (one.t_ns, one)));
    }
    moves
}

impl Guard<'_> {
    /// Writes `bytes` at `offset` of our own `page`, through /dev/mem, and says what became of it.
    /// `between` runs after the first look-up: the place to disturb the protocol on purpose.
    ///
    /// # Errors
    /// Where a reading failed that the verdict needs; then nothing was written, or the error says so.
    pub async fn write_own(
        &mut self,
        page: &OwnPage,
        bytes: &[u8],
        between: impl FnOnce() -> Result<()>,
    ) -> Result<Write> {
        let mut report = Write {
            pid: std::process::id(),
            va: Hex(page.va().0),
            len: bytes.len(),
            pfn: None,
            pa: None,
            verdict: Verdict::Refused,
            why: None,
            pinned: false,
            window_ns: None,
            moves: Vec::new(),
            lost: 0,
            denied: None,
        };
        self.begin(page.va()).await?;
        let loss = self.tracer.loss(self.programs);
        let pfn = match self.look_up(page.va())? {
            Agreement::Agree(pfn) => pfn,
            other => {
                let why = format!("the routes do not agree on a frame: {other:?}");
                return Ok(refused(report, why));
            }
        };
        report.pfn = Some(pfn.0);
        report.pa = Some(Hex(pfn.base().0));
        let devmem = match DevMem::open_for_writing() {
            Ok(devmem) => devmem,
            Err(e) => return Ok(denied(report, doctor::devmem::explain_open(&e))),
        };
        if let Some(why) = refusal(pfn, frame_flags(pfn)?, frame_mapcount(pfn)?) {
            return Ok(refused(report, why));
        }
        let mut there = vec![0; bytes.len()];
        if let Err(e) = devmem.read(pfn.base(), &mut there) {
            return denied_or_error(report, "pread", pfn, e);
        }
        let same_bytes = there == page.read(0, bytes.len());
        between()?;

        let source = locked_copy(bytes)?;
        let t_look_up = now_ns();
        let again = self.look_up(page.va())?;
        if again != Agreement::Agree(pfn) {
            report.verdict = Verdict::Moved;
            return self.conclude(report, loss, None).await;
        }
        if !same_bytes {
            return Ok(refused(
                report,
                "the bytes at the physical address are not the page's".into(),
            ));
        }
        let written = devmem.write(pfn.base(), source.get(..bytes.len()).unwrap_or_default());
        let t_written = now_ns();
        if let Err(e) = written {
            return self.after_failed_write(report, &devmem, pfn, &there, e);
        }
        report.window_ns = Some(t_written - t_look_up);
        self.prove(report, page, bytes, &devmem, loss, (t_look_up, t_written))
            .await
            .with_context(|| {
                format!(
                    "{} bytes were written at {:#x}; what became of them is not known",
                    bytes.len(),
                    pfn.base().0
                )
            })
    }

    /// Forgets what was before: from here on the events are those of the protocol.
    async fn begin(&mut self, va: VirtAddr) -> Result<()> {
        let cookie = self.carrier.mark()?;
        self.tracer.take_until(cookie).await?;
        let began = now_ns();
        let word = self
            .pagemap
            .word(va)?
            .context("the address space is gone")?;
        self.ledger.seed(va, word, false);
        self.ledger
            .seeded(va.page_number()..va.page_number() + 1, began);
        Ok(())
    }

    /// pwrite failed. A refusal by permission comes before any byte is copied; every other error may have left bytes,
    /// or zeros where the kernel could not read ours (copy_from_user).
    fn after_failed_write(
        &self,
        report: Write,
        devmem: &DevMem,
        pfn: Pfn,
        before: &[u8],
        error: io::Error,
    ) -> Result<Write> {
        if error.raw_os_error() == Some(libc::EPERM) {
            return denied_or_error(report, "pwrite", pfn, error);
        }
        let mut now = vec![0; before.len()];
        let state = match devmem.read(pfn.base(), &mut now) {
            Ok(()) if now == before => "the bytes there are as they were",
            Ok(()) => "the bytes there have changed",
            Err(_) => "the bytes there cannot be read any more",
        };
        Ok(Write {
            verdict: Verdict::Unproven,
            why: Some(format!("pwrite failed ({error}); {state}")),
            ..report
        })
    }

    /// Gathers the evidence after the write, and judges it.
    async fn prove(
        &mut self,
        report: Write,
        page: &OwnPage,
        bytes: &[u8],
        devmem: &DevMem,
        loss: Loss,
        window: (u64, u64),
    ) -> Result<Write> {
        let before = Pfn(report.pfn.unwrap_or_default());
        let mut after = None;
        // While the page is being moved it has no frame; that passes.
        for _ in 0..1000 {
            after = match self.look_up(page.va())? {
                Agreement::Agree(pfn) => Some(pfn),
                _ => continue,
            };
            break;
        }
        let mut there = vec![0; bytes.len()];
        let read_back_pa =
            after.is_some_and(|pfn| devmem.read(pfn.base(), &mut there).is_ok() && there == bytes);
        let evidence = Evidence {
            before,
            after,
            moved_in_window: false,
            moved_later: false,
            hooked: self.tracer.watches_migration(),
            lost: 0,
            read_back_va: page.read(0, bytes.len()) == bytes,
            read_back_pa,
        };
        self.conclude(report, loss, Some((evidence, window))).await
    }

    fn look_up(&mut self, va: VirtAddr) -> Result<Agreement> {
        let both =
            Both::ask(self.carrier, self.pagemap, va)?.context("the address space is gone")?;
        Ok(both.agreement())
    }

    /// Drains the events up to a marker that comes after everything, and fills in moves, losses and verdict.
    async fn conclude(
        &mut self,
        mut report: Write,
        before: Loss,
        written: Option<(Evidence, (u64, u64))>,
    ) -> Result<Write> {
        let cookie = self.carrier.mark()?;
        let events = self.tracer.take_until(cookie).await;
        report.lost = self.tracer.loss(self.programs).since(before);
        let events = match events {
            Ok(events) => events,
            // Then the loss is what the verdict turns on.
            Err(_) if report.lost > 0 => Vec::new(),
            Err(e) => return Err(e),
        };
        let (starts, moves): (Vec<u64>, Vec<Move>) =
            timeline(self.ledger, &events).into_iter().unzip();
        report.moves = moves;
        if let Some((mut evidence, (t_look_up, t_written))) = written {
            evidence.lost = report.lost;
            evidence.hooked &= self.tracer.is_settled();
            evidence.moved_in_window = starts.iter().any(|t| (t_look_up..=t_written).contains(t));
            evidence.moved_later = starts.iter().any(|t| *t > t_written);
            let (verdict, why) = verdict(&evidence);
            report.verdict = verdict;
            report.why = why.map(str::to_owned);
        }
        if report.verdict == Verdict::Moved && report.moves.is_empty() {
            let now = self.look_up(VirtAddr(report.va.0))?;
            report.why = Some(format!("no event shows it; the routes now say {now:?}"));
        }
        Ok(report)
    }
}

fn refused(report: Write, why: String) -> Write {
    Write {
        verdict: Verdict::Refused,
        why: Some(why),
        ..report
    }
}

fn denied(report: Write, denial: Denial) -> Write {
    Write {
        verdict: Verdict::Denied,
        denied: Some(denial),
        ..report
    }
}

/// The access of `pfn` failed: denied by a check that is known, or an error that names what happened.
fn denied_or_error(report: Write, call: &str, pfn: Pfn, error: io::Error) -> Result<Write> {
    match doctor::devmem::explain_access(call, pfn.base(), &error) {
        Some(denial) => Ok(denied(report, denial)),
        None => Err(error).with_context(|| format!("{call} on /dev/mem at {:#x}", pfn.base().0)),
    }
}

/// A copy of `bytes` in a buffer that is resident and stays so: see [`DevMem::write`].
fn locked_copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let copy = bytes.to_vec();
    // SAFETY: the range is the vector's own allocation. It stays locked when the vector goes:
    // a page of the heap more that is resident.
    unsafe { rustix::mm::mlock(copy.as_ptr().cast_mut().cast(), copy.len()) }
        .context("mlock of the source buffer")?;
    Ok(copy)
}

/// CLOCK_MONOTONIC in nanoseconds, as the programs stamp it.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use v2p_common::{event, pagemap::PagemapWord, pte::Paging};

    fn migration(kind: u32, t_ns: u64, entry: u64) -> Event {
        let m = event::Migration {
            header: event::Header {
                kind,
                t_ns,
                ..Default::default()
            },
            va: 0x7f00_0000_0000,
            entry,
            ..Default::default()
        };
        match kind {
            event::kind::MIGRATION_SET => Event::MigrationSet(m),
            _ => Event::MigrationRemove(m),
        }
    }

    fn set(t_ns: u64, pfn: u64) -> Event {
        migration(
            event::kind::MIGRATION_SET,
            t_ns,
            28 << 59 | (!pfn << 14) >> 5,
        )
    }

    fn remove(t_ns: u64, pfn: u64) -> Event {
        migration(event::kind::MIGRATION_REMOVE, t_ns, pfn << 12 | 0x67)
    }

    #[test]
    fn a_move_begins_with_its_own_entry_and_not_with_one_that_was_aborted() {
        let paging = Paging {
            levels: 4,
            physical_mask: (1 << 52) - 1,
        };
        let mut ledger = Ledger::new(None, paging);
        ledger.seed(VirtAddr(0x7f00_0000_0000), PagemapWord(1 << 63 | 7), false);
        let events = [
            set(10, 7),
            remove(20, 7),
            set(100, 7),
            remove(110, 8),
            remove(120, 9),
        ];
        let moves = timeline(&mut ledger, &events);
        let shape: Vec<_> = moves.iter().map(|(began, m)| (*began, m.t_ns)).collect();
        assert_eq!(shape, [(100, 110), (120, 120)]);
    }
}
