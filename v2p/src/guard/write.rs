//! The protocol: all parts are checked, then each is checked again, written and proven.

use std::{io, ops::Range};

use anyhow::{Context as _, Result};

use super::{
    Guard, Job, Step,
    devmem::DevMem,
    evidence::Drained,
    inspect::{Checked, Compared, Place, Sight},
    parts::{Part, parts},
    refusal::Refusal,
    report::{self, denied_or_error, deny, refuse, told},
    strike::{Shot, Strike, Struck, strike},
    verdict::aftermath,
};
use crate::{
    doctor,
    process::AddressSpace,
    record::{self, Hex, HexBytes, Verdict, Write},
    translate::Both,
};

/// Whether to write on.
enum Then {
    GoOn,
    Stop,
}

impl Guard {
    /// Writes through /dev/mem, page by page, and says what became of it. All pages are checked before the first is
    /// written, and each again just before it is; the first that does not land is the last. `disturb` is told of every step.
    ///
    /// # Errors
    /// Where there are no bytes, or some go where the hooks are not live; where a reading failed that the verdict needs, or a pwrite
    /// failed or took not all: the error says how many bytes went where.
    pub async fn write(
        &mut self,
        job: &Job<'_>,
        disturb: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Write> {
        let mut report = report::new(self.process.pid, job, self.is_pinned(job));
        anyhow::ensure!(!job.bytes.is_empty(), "there is nothing to write");
        let cut = parts(job.va, job.bytes.len());
        let cut = cut.context("it goes beyond the last address")?;
        let began_ns = self.forget()?;
        let mut places = Vec::with_capacity(cut.len());
        for part in cut {
            match self.check(job, part, &mut report)? {
                Some(place) => places.push((part, place)),
                None => return Ok(report),
            }
        }
        let end = job.va.0 + job.bytes.len() as u64;
        let Range { start, end: last } = self.range;
        anyhow::ensure!(
            start <= job.va.0 && end <= last,
            "{:#x}..{end:#x} is not what is guarded: {start:#x}..{last:#x}",
            job.va.0
        );
        if self.devmem.is_none() {
            match DevMem::open_for_writing() {
                Ok(devmem) => self.devmem = Some(devmem),
                Err(e) => {
                    deny(&mut report, doctor::explain::open(&e));
                    return Ok(report);
                }
            }
        }
        let mut checked = Vec::with_capacity(places.len());
        for (part, place) in places {
            match self.check_bytes(part, place, &mut report)? {
                Some(one) => checked.push(one),
                None => return Ok(report),
            }
        }
        disturb(Step::LookUp)?;
        for one in &checked {
            let written = self.write_part(job, one, began_ns, &mut report, disturb);
            let Then::GoOn = written.await.with_context(|| told(&report))? else {
                break;
            };
        }
        // The parts tell what the whole does, where there is one.
        if checked.len() == 1 {
            report.parts.clear();
        }
        Ok(report)
    }

    /// Where one part is; `None` where it must not be written, which `report` then says.
    fn check(&mut self, job: &Job<'_>, part: Part, report: &mut Write) -> Result<Option<Place>> {
        let place = match self.locate(job, part.va)? {
            Ok(place) => place,
            Err(refusal) => {
                refuse(report, part, &refusal);
                return Ok(None);
            }
        };
        // The frame is told, also where it must not be written.
        if report.pfn.is_none() {
            report.pfn = Some(place.pfn.0);
            report.pa = Some(Hex(place.pfn.at(part.va.page_offset()).0));
        }
        Ok(self.may_be_written(part, &place, report)?.then_some(place))
    }

    /// False where the frame must not be written, which `report` then says.
    fn may_be_written(&mut self, part: Part, place: &Place, report: &mut Write) -> Result<bool> {
        let refusal = self.refusal(place)?;
        if let Some(refusal) = &refusal {
            refuse(report, part, refusal);
        }
        Ok(refusal.is_none())
    }

    /// What one part holds, by both routes; `None` where that is not the same, or cannot be read, which `report` then says.
    fn check_bytes(&self, part: Part, place: Place, report: &mut Write) -> Result<Option<Checked>> {
        let Place { pfn, word, .. } = place;
        let refusal = match self.compare(pfn, part)? {
            Compared::Same(before) => {
                if part.from == 0 {
                    report.before = Some(HexBytes(before.clone()));
                }
                return Ok(Some(Checked {
                    part,
                    pfn,
                    word,
                    before,
                }));
            }
            Compared::Denied(e) => {
                denied_or_error(report, "pread", pfn, e)?;
                return Ok(None);
            }
            Compared::Differ => Refusal {
                id: "not-the-same-bytes",
                what: "the bytes at the physical address are not those at the virtual one; where the process goes on changing them, --stop holds it still"
                    .to_owned(),
            },
            // Who may read what the process itself may not is the kernel's choice: from 6.12 on perhaps who traces it alone (proc_mem_foll_force,
            // fs/proc/base.c).
            Compared::Unread(e) => {
                if e.kind() == io::ErrorKind::UnexpectedEof {
                    return Err(AddressSpace::none(&self.process).into());
                }
                Refusal {
                    id: "not-readable",
                    what: format!("the process's memory cannot be read there, to compare it ({e}); who traces it may (--stop)"),
                }
            }
        };
        refuse(report, part, &refusal);
        Ok(None)
    }

    /// One part: checked again, looked up again, written, proven.
    async fn write_part(
        &mut self,
        job: &Job<'_>,
        one: &Checked,
        began_ns: u64,
        report: &mut Write,
        disturb: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Then> {
        let part = one.part;
        self.source.hold(part.of(job.bytes))?;
        // Since it was checked a fork may have shared it, or the process have written to it: other parts took their time.
        let sight = self.look_at_rest(part.va)?;
        let stayed = sight.pfn() == Some(one.pfn);
        let so_far = self.drain(one, began_ns, stayed).await?;
        let place = match sight {
            // A page that went and came back is where it was, but it did move; seen on 6.12 with two nodes.
            Sight::At(place) if stayed && so_far.moves.is_empty() => place,
            _ => return self.moved(part, so_far, report),
        };
        report.lost += so_far.lost;
        if so_far.lost > 0 {
            let why = "events were lost: whether the page stayed where it is cannot be said, so it was not written";
            report::stop(report, part, Verdict::Unproven, why);
            return Ok(Then::Stop);
        }
        if !self.may_be_written(part, &place, report)? {
            return Ok(Then::Stop);
        }
        let Some(one) = self.check_bytes(part, place, report)? else {
            return Ok(Then::Stop);
        };
        let shot = Shot {
            devmem: self.devmem.as_ref().context("/dev/mem is not open")?,
            pfn: one.pfn,
            offset: part.va.page_offset(),
            bytes: self.source.held(),
            dry_run: job.dry_run,
        };
        // The frame that both routes name; `None`: none, or not the same.
        let look_up = || {
            let both = Both::ask(&mut self.carrier, &self.pagemap, part.va)?;
            Ok(both.and_then(|both| both.agreed()))
        };
        let (control, unended) = (self.programs.control(), self.unended);
        let quiet = || control.account.zapping.get() <= unended;
        let (mut own, mut physical) = (vec![0; part.len], vec![0; part.len]);
        let read_back = || {
            self.memory.read(part.va, &mut own).is_ok()
                && own == shot.bytes
                && shot.devmem.read(one.pa(), &mut physical).is_ok()
                && physical == shot.bytes
        };
        match strike(&shot, look_up, disturb, read_back, quiet)? {
            Strike::Moved => {
                let drained = self.drain_all(&one, began_ns).await?;
                self.moved(part, drained, report)
            }
            Strike::Spared => {
                report.verdict = Verdict::Allowed;
                Ok(Then::GoOn)
            }
            Strike::Made(struck) => {
                if !self.took_all(&struck, &one, report)? {
                    return Ok(Then::Stop);
                }
                report.written += part.len;
                disturb(Step::Prove)?;
                let proven = self.proven(&one, &struck, began_ns, report).await;
                proven.with_context(|| {
                    format!(
                        "{} bytes were written at {:#x}; what became of them is not known",
                        part.len,
                        one.pa().0
                    )
                })
            }
        }
    }

    /// Whether the pwrite took all bytes; false: it was denied, which `report` then says.
    fn took_all(&self, struck: &Struck, one: &Checked, report: &mut Write) -> Result<bool> {
        let (pa, sent) = (one.pa().0, self.source.held());
        match &struck.wrote {
            Ok(n) if *n == sent.len() => Ok(true),
            Ok(n) => anyhow::bail!(
                "pwrite on /dev/mem at {pa:#x} took {n} of {} bytes: {}",
                sent.len(),
                self.after_failure(*n, one)
            ),
            // A refusal by permission comes before any byte is copied.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                let same = io::Error::from_raw_os_error(libc::EPERM);
                denied_or_error(report, "pwrite", one.pfn, same)?;
                Ok(false)
            }
            Err(e) => anyhow::bail!(
                "pwrite of {} bytes on /dev/mem at {pa:#x}: {e}: {}",
                sent.len(),
                self.after_failure(0, one)
            ),
        }
    }

    /// What a pwrite left that failed, or took `n` bytes.
    fn after_failure(&self, n: usize, one: &Checked) -> String {
        let sent = self.source.held();
        let mut now = vec![0; sent.len()];
        let read = self.devmem.as_ref().map(|d| d.read(one.pa(), &mut now));
        let now = matches!(read, Some(Ok(()))).then_some(now.as_slice());
        aftermath(n, sent, &one.before, now)
    }

    /// The verdict over a part that was written.
    async fn proven(
        &mut self,
        one: &Checked,
        struck: &Struck,
        began_ns: u64,
        report: &mut Write,
    ) -> Result<Then> {
        let window_ns = struck.written_ns - struck.look_up_ns;
        report.window_ns = Some(report.window_ns.unwrap_or(0).max(window_ns));
        let (verdict, why, drained) = self.prove(one, struck, began_ns).await?;
        let Drained { moves, lost, .. } = drained;
        report
            .moves
            .extend(moves.into_iter().map(|begun| begun.one));
        report.lost += lost;
        report.verdict = verdict;
        report.why = why;
        let (pa, before) = (Hex(one.pa().0), HexBytes(one.before.clone()));
        report.parts.push(record::Part {
            va: Hex(one.part.va.0),
            len: one.part.len,
            pfn: one.pfn.0,
            pa,
            verdict,
            window_ns,
            before: before.clone(),
        });
        if verdict == Verdict::Landed {
            return Ok(Then::GoOn);
        }
        // What was hit is this part's.
        report.pfn = Some(one.pfn.0);
        report.pa = Some(pa);
        report.before = Some(before);
        Ok(Then::Stop)
    }

    /// The page is not where it was, and its bytes were not written.
    fn moved(&mut self, part: Part, drained: Drained, report: &mut Write) -> Result<Then> {
        let Drained { moves, lost, .. } = drained;
        report.lost += lost;
        let shown = !moves.is_empty();
        report
            .moves
            .extend(moves.into_iter().map(|begun| begun.one));
        let now = match self.look(part.va)? {
            Sight::Gone => "the process has ended, or executed another program".to_owned(),
            now if !shown => format!("no event shows it; now {}", now.in_words()),
            now => format!("now {}", now.in_words()),
        };
        report::stop(report, part, Verdict::Moved, &now);
        Ok(Then::Stop)
    }
}
