//! The watch itself: ring -> ledger -> output, until told to stop. Owns drain, loss, and the target's end.

use std::{collections::BTreeMap, ops::Range as Span, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, PageSize, VirtAddr,
    event::{Event, Fault},
    pagemap::{PagemapState, PagemapWord},
    pte::{Entry, Level, Paging, WalkEnd},
};

use crate::{
    bpf::Programs,
    carrier::Carrier,
    guard::now_ns,
    kernel,
    ledger::Ledger,
    page,
    process::{
        Pagemap, Process,
        maps::{self, Mapping, Range, USER_END},
    },
    record::{Hex, Proof, Record},
    render::Output,
    tracer::{Loss, Tracer},
    translate::parts::Scanner,
};

/// How often losses are looked for when nothing else happens.
const TICK: Duration = Duration::from_millis(200);

/// When to stop.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    deadline: Option<Instant>,
}

impl Stop {
    /// Stops at SIGINT, SIGTERM, or after `duration`.
    ///
    /// # Errors
    /// Where the signals cannot be caught.
    pub fn new(duration: Option<Duration>) -> Result<Self> {
        let catch = |kind| signal(kind).context("signal handler");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            deadline: duration.and_then(|d| Instant::now().checked_add(d)),
        })
    }

    async fn reached(&mut self) -> &'static str {
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        tokio::select! {
            _ = self.interrupt.recv() => "signal",
            _ = self.terminate.recv() => "signal",
            () = tokio::time::sleep_until(self.deadline.unwrap_or(far)), if self.deadline.is_some() => "duration",
        }
    }
}

/// The smallest span that holds all ranges, in whole pages of the largest size: events on a huge page carry its first
/// address. Everything where there are none.
pub fn span(ranges: &[Range]) -> Span<u64> {
    let largest = PageSize::Pud.bytes();
    let start = ranges.iter().map(|r| r.start).min().unwrap_or(0);
    let end = ranges.iter().map(|r| r.end).max().unwrap_or(USER_END);
    start & !(largest - 1)..end.next_multiple_of(largest)
}

/// One watch over one address space.
pub struct Session<'a> {
    /// The loaded programs.
    pub programs: &'a Programs,
    /// For the closing marker.
    pub carrier: &'a mut Carrier,
    /// Live hooks.
    pub tracer: Tracer,
    /// The target's pagemap, opened before the hooks were live.
    pub pagemap: &'a Pagemap,
    /// The target's pidfd.
    pub ended: AsyncFd<Process>,
    /// What to watch; empty: all.
    pub ranges: &'a [Range],
    /// Whether faults are shown.
    pub show_faults: bool,
    /// The tables' layout.
    pub paging: Paging,
}

/// What was seen so far.
#[derive(Default)]
struct Counts {
    events: u64,
    faults: u64,
    moves: u64,
    reconciled: u64,
    lost: u64,
}

impl Session<'_> {
    /// Watches until `stop` or the target's end.
    ///
    /// # Errors
    /// Where the output fails, or the ring holds what is no event.
    pub async fn run(mut self, mut stop: Stop, output: &mut Output) -> Result<()> {
        let before = self.tracer.loss(self.programs);
        let mut ledger = self.seeded_ledger()?;
        self.say_start(output)?;
        output.flush()?;
        let mut counts = Counts::default();
        let why = loop {
            let stopped = tokio::select! {
                why = stop.reached() => Some(why),
                _ = self.ended.readable() => Some("target-exited"),
                ready = self.tracer.readable() => { ready?; None }
                () = tokio::time::sleep(TICK) => None,
            };
            let events = self.tracer.take()?;
            self.tell(&events, &mut ledger, &mut counts, output)?;
            self.tell_losses(before, &mut counts, output)?;
            output.flush()?;
            output.check_reader()?;
            let gone = events.iter().any(|e| matches!(e, Event::MmGone(_)));
            match stopped {
                Some(why) => break why,
                None if gone => break self.after_the_end(output).await,
                None => {}
            }
        };
        self.close(before, &mut ledger, &mut counts, output).await?;
        let Counts {
            events,
            faults,
            moves,
            reconciled,
            lost,
        } = counts;
        output.record(&Record::End {
            why,
            events,
            faults,
            moves,
            lost,
            reconciled,
            status: None,
        })
    }

    /// The ledger as it is at the start. The hooks are live: what happens during the reading is in the ring too.
    fn seeded_ledger(&self) -> Result<Ledger> {
        let mut ledger = Ledger::new(page::zero_pfn()?, self.paging).limited_to(self.ranges);
        for part in self.readings()?.unwrap_or_default() {
            ledger.seeded(part.first, part.end, part.began_ns);
            for (page, word) in part.words {
                ledger.seed(VirtAddr(page.wrapping_mul(PAGE_SIZE)), word);
            }
        }
        Ok(ledger)
    }

    fn say_start(&self, output: &mut Output) -> Result<()> {
        let Tracer { live, missing, .. } = &self.tracer;
        let missing = missing.iter().map(|m| format!("{}: {}", m.hook, m.why));
        output.record(&Record::Start {
            pid: self.ended.get_ref().pid,
            kernel: kernel::release(),
            hooks: live.clone(),
            missing: missing.collect(),
        })
    }

    /// The address space is gone: the process ends, or it has executed another program.
    async fn after_the_end(&self, output: &Output) -> &'static str {
        let ends = tokio::time::timeout(Duration::from_secs(1), self.ended.readable()).await;
        if ends.is_err() {
            output.say("v2p: the process executed another program: the address space that was watched is gone");
        }
        "target-exited"
    }

    /// Everything that was still under way, and what no event showed.
    async fn close(
        &mut self,
        before: Loss,
        ledger: &mut Ledger,
        counts: &mut Counts,
        output: &mut Output,
    ) -> Result<()> {
        self.drain(ledger, counts, output).await?;
        let readings = self.readings()?;
        // What happened during the reading is no difference that no event showed.
        let late = self.drain(ledger, counts, output).await?;
        self.tell_losses(before, counts, output)?;
        let Some(readings) = readings else {
            return Ok(());
        };
        let busy = late.iter().flat_map(pages_of).collect();
        let reading = readings.into_iter().flat_map(|part| part.words).collect();
        for one in ledger.reconcile(now_ns(), &reading, &busy) {
            counts.reconciled += 1;
            counts.moves += 1;
            output.record(&Record::Move(one))?;
        }
        Ok(())
    }

    /// Tells all events up to now.
    async fn drain(
        &mut self,
        ledger: &mut Ledger,
        counts: &mut Counts,
        output: &mut Output,
    ) -> Result<Vec<Event>> {
        let cookie = self.carrier.mark()?;
        let events = match self.tracer.take_until(cookie).await {
            Ok(events) => events,
            Err(e) => {
                output.say(&format!("v2p: {e:#}"));
                self.tracer.take()?
            }
        };
        self.tell(&events, ledger, counts, output)?;
        Ok(events)
    }

    fn tell(
        &self,
        events: &[Event],
        ledger: &mut Ledger,
        counts: &mut Counts,
        output: &mut Output,
    ) -> Result<()> {
        for event in events {
            if matches!(event, Event::Marker(_)) {
                continue;
            }
            counts.events += 1;
            let moves = ledger.apply(event);
            if let Event::Fault(fault) = event
                && self.is_asked(fault.va)
            {
                counts.faults += 1;
                if self.show_faults {
                    output.record(&self.fault_record(fault))?;
                }
            }
            for one in moves {
                debug_assert_eq!(one.proof, Proof::Event);
                counts.moves += 1;
                output.record(&Record::Move(one))?;
            }
        }
        Ok(())
    }

    fn tell_losses(&self, before: Loss, counts: &mut Counts, output: &mut Output) -> Result<()> {
        let lost = self.tracer.loss(self.programs).since(before);
        if lost > counts.lost {
            output.record(&Record::Lost {
                events: lost - counts.lost,
            })?;
            counts.lost = lost;
        }
        Ok(())
    }

    fn is_asked(&self, va: u64) -> bool {
        self.ranges.is_empty() || self.ranges.iter().any(|r| (r.start..r.end).contains(&va))
    }

    fn fault_record(&self, fault: &Fault) -> Record {
        let end = Level::from_u32(fault.level).map(|level| {
            let entry = Entry(fault.entry);
            let state = entry.state(level, self.paging.physical_mask);
            WalkEnd {
                level,
                entry,
                state,
            }
        });
        Record::Fault {
            seq: fault.header.seq,
            t_ns: fault.header.t_ns,
            tid: fault.header.tid,
            va: Hex(fault.va),
            pfn: end
                .and_then(|end| end.pfn(VirtAddr(fault.va)))
                .map(|pfn| pfn.0),
            major: fault.major != 0,
        }
    }

    /// What pagemap says of every page that is asked about, a mapping after the other. `None`: the address space
    /// is gone.
    fn readings(&self) -> Result<Option<Vec<Reading>>> {
        let Ok(mappings) = maps::mappings(self.ended.get_ref().pid) else {
            return Ok(None);
        };
        let mut readings = Vec::new();
        let mut scanner = Scanner::default();
        for Mapping { start, end, .. } in mappings {
            for (start, end) in self.asked_parts(start, end) {
                let mut reading = Reading {
                    first: start >> PAGE_SHIFT,
                    end: end >> PAGE_SHIFT,
                    began_ns: now_ns(),
                    words: BTreeMap::new(),
                };
                self.read_into(&mut reading, &mut scanner, VirtAddr(start), VirtAddr(end))?;
                readings.push(reading);
            }
        }
        // After an exec or the end, maps are another program's or none, and pagemap gives nothing: that is
        // no page's absence.
        if self.pagemap.word(VirtAddr(PAGE_SIZE))?.is_none() {
            return Ok(None);
        }
        Ok(Some(readings))
    }

    /// Reads what is populated between two addresses, or all of it where the kernel cannot tell.
    fn read_into(
        &self,
        reading: &mut Reading,
        scanner: &mut Scanner,
        start: VirtAddr,
        end: VirtAddr,
    ) -> Result<()> {
        let mut each = |va: VirtAddr, word: PagemapWord| {
            // Bit 55, soft-dirty, is set for untouched pages too.
            if word.state() != PagemapState::Absent {
                reading.words.insert(va.page_number(), word);
            }
        };
        let scanned = scanner.scan(self.pagemap, start, end, |part| {
            self.pagemap
                .words(VirtAddr(part.start), VirtAddr(part.end), &mut each)
                .map(|_| ())
        })?;
        if !scanned {
            self.pagemap.words(start, end, &mut each)?;
        }
        Ok(())
    }

    /// The parts of a mapping that are asked about.
    fn asked_parts(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        if self.ranges.is_empty() {
            return vec![(start, end)];
        }
        let parts = self
            .ranges
            .iter()
            .map(|r| (r.start.max(start), r.end.min(end)));
        parts.filter(|(start, end)| start < end).collect()
    }
}

/// One reading of pages that lie together.
#[derive(Default)]
struct Reading {
    /// Number of the first page.
    first: u64,
    /// Number after the last.
    end: u64,
    /// When it began.
    began_ns: u64,
    /// The words of pages that are not absent, by page number.
    words: BTreeMap<u64, PagemapWord>,
}

/// The pages that an event is about, by number.
fn pages_of(event: &Event) -> std::ops::Range<u64> {
    let (va, level) = match event {
        Event::Fault(fault) => (fault.va, fault.level),
        Event::MigrationSet(m) | Event::MigrationRemove(m) => (m.va, m.level),
        Event::MmGone(_) | Event::Marker(_) => return 0..0,
    };
    let size = Level::from_u32(level)
        .and_then(Level::page_size)
        .unwrap_or(PageSize::Base);
    let first = (va & !(size.bytes() - 1)) >> PAGE_SHIFT;
    first..first + size.pages()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_holds_all_ranges() {
        let ranges = [
            Range {
                start: 0x5000,
                end: 0x6000,
            },
            Range {
                start: 0x1000,
                end: 0x2000,
            },
        ];
        assert_eq!(span(&ranges), 0..1 << 30);
        assert_eq!(span(&[]), 0..USER_END);
    }
}
