//! The watch itself: ring -> ledger -> output, until told to stop. Owns drain, loss, and the target's end.

mod names;
mod reading;
mod report;
pub mod spawn;
mod stop;

use std::{
    ops::Range as Span,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::io::unix::AsyncFd;
use v2p_common::{
    PAGE_SHIFT, VirtAddr,
    event::{Event, Fault, Number, fault},
    pte::{Entry, Level, Paging, WalkEnd},
};

use self::{
    names::Names,
    report::{Counts, Report},
    spawn::Command,
};

pub use self::{reading::span, stop::Stop};

use crate::{
    bpf::Programs,
    carrier::Carrier,
    guard::now_ns,
    kernel::{self, reason::Reasons},
    ledger::Ledger,
    page,
    process::{
        self, FrameFlags, Merged, Pagemap, Process,
        maps::{Range, USER_END},
    },
    record::{Hex, Record},
    render::Output,
    tracer::{Loss, Tracer},
    translate::parts::Scanner,
};

/// How often the ring is looked into when nobody wakes us.
const TICK: Duration = Duration::from_millis(50);

/// Every so many ticks doubts are read again and losses looked for. What was found by one reading waits for
/// events until the next.
const READ_EVERY: u32 = 2;

/// How often everything is read, where removals of pages come as events and where they do not; and how many times
/// longer than the reading itself the rest in between is at least.
const SWEEP: Duration = Duration::from_secs(10);
const SWEEP_BLIND: Duration = Duration::from_secs(1);
const SWEEP_REST: u32 = 20;

/// Page numbers of all user addresses.
const ALL: Span<u64> = 0..USER_END >> PAGE_SHIFT;

/// One watch over one process.
pub struct Session<'a> {
    /// The loaded programs.
    pub programs: &'a mut Programs,
    /// For the closing marker.
    pub carrier: &'a mut Carrier,
    /// Live hooks.
    pub tracer: Tracer,
    /// The target's pagemap, opened before the hooks were live.
    pub pagemap: Pagemap,
    /// The target's pidfd.
    pub ended: AsyncFd<Process>,
    /// A program that the target will execute once the hooks are live; what it was before is not watched.
    pub command: Option<Command>,
    /// What to watch; empty: all.
    pub ranges: &'a [Range],
    /// Whether faults are shown.
    pub show_faults: bool,
    /// The tables' layout.
    pub paging: Paging,
}

/// What a running watch knows.
struct State<'o> {
    ledger: Ledger,
    report: Report<'o>,
    scanner: Scanner,
    merged: Merged,
    reasons: Reasons,
    before: Loss,
    next_sweep: Instant,
}

impl Session<'_> {
    /// Watches until `stop` or the target's end.
    ///
    /// # Errors
    /// Where the output fails, or the ring holds what is no event.
    pub async fn run(mut self, mut stop: Stop, output: &mut Output) -> Result<()> {
        let mut state = self.begin(output)?;
        let mut tick = 0u32;
        let why = loop {
            let stopped = tokio::select! {
                biased;
                why = stop.reached() => Some(why),
                _ = self.ended.readable() => Some("target-exited"),
                ready = self.tracer.readable() => { ready?; None }
                () = tokio::time::sleep(TICK) => { tick = tick.wrapping_add(1); None },
            };
            let events = self.tracer.take()?;
            self.tell(&events, &mut state)?;
            if tick.is_multiple_of(READ_EVERY) {
                self.tell_losses(&mut state)?;
                self.resolve_doubts(&mut state)?;
                tick = tick.wrapping_add(1);
            }
            state.report.flush()?;
            let exits = |e: &Event| matches!(e, Event::MmGone(gone) if gone.number == 0);
            match stopped {
                Some(why) => break why,
                None if events.iter().any(exits) => {
                    // The process is past its memory, and ends at any moment.
                    let _ =
                        tokio::time::timeout(Duration::from_secs(1), self.ended.readable()).await;
                    break "target-exited";
                }
                None => {}
            }
        };
        self.close(&mut state).await?;
        let status = self.command.take().and_then(Command::status);
        let Counts {
            events,
            faults,
            moves,
            reconciled,
            lost,
        } = state.report.counts;
        state.report.output.record(&Record::End {
            why,
            events,
            faults,
            moves,
            lost,
            reconciled,
            status,
        })
    }

    /// Everything up to the start record.
    fn begin<'o>(&mut self, output: &'o mut Output) -> Result<State<'o>> {
        let before = self.tracer.loss(self.programs);
        let names = Names::new(self.ended.get_ref().pid, Vec::new());
        let ledger = Ledger::new(page::zero_pfn()?, self.paging)
            .limited_to(self.ranges)
            .seeing_removals(self.tracer.sees_removals())
            .knowing_bad_frames(|pfn| {
                process::frame_flags(pfn).is_ok_and(|flags| flags.has(FrameFlags::HWPOISON))
            });
        let mut state = State {
            ledger,
            report: Report::new(output, names),
            scanner: Scanner::default(),
            merged: Merged::of(self.ended.get_ref().pid),
            reasons: Reasons::learn(),
            before,
            next_sweep: Instant::now() + SWEEP_BLIND,
        };
        // Nobody else pays for the carrier while it is not needed.
        self.carrier.detach(self.programs)?;
        if self.command.is_none() {
            self.seed(&mut state)?;
        }
        self.say_start(state.report.output)?;
        state.report.output.flush()?;
        if let Some(command) = &mut self.command {
            command.execute()?;
        }
        Ok(state)
    }

    /// The ledger as it is at the start. The hooks are live: what happens during the reading is in the ring too.
    fn seed(&self, state: &mut State<'_>) -> Result<()> {
        let State {
            ledger,
            report,
            scanner,
            merged,
            ..
        } = state;
        let mappings = report.names.update();
        let mut began_ns = now_ns();
        let each = |pages: Span<u64>, words: &[(u64, _)]| {
            for (page, word) in words {
                let is_merged = merged.is(*word);
                ledger.seed(VirtAddr(page << PAGE_SHIFT), *word, is_merged);
            }
            ledger.seeded(pages, began_ns);
            began_ns = now_ns();
        };
        let asked = reading::pages_of(self.ranges, ALL);
        reading::read(&self.pagemap, scanner, mappings, &asked, each)?;
        Ok(())
    }

    fn say_start(&self, output: &mut Output) -> Result<()> {
        let missing = self.tracer.missing().iter();
        output.record(&Record::Start {
            pid: self.ended.get_ref().pid,
            kernel: kernel::release(),
            hooks: self.tracer.live().to_vec(),
            missing: missing.map(|m| format!("{}: {}", m.hook, m.why)).collect(),
        })
    }

    /// Everything that was still under way, and what no event showed.
    async fn close(&mut self, state: &mut State<'_>) -> Result<()> {
        self.carrier.attach(self.programs)?;
        self.drain(state).await?;
        // What the last reading found, and what this one does: what happens during it is in the ring afterwards.
        self.confirm(state)?;
        state.ledger.read_again(ALL);
        self.read(state)?;
        self.drain(state).await?;
        self.tell_losses(state)?;
        self.confirm(state)?;
        state.report.release(0)
    }

    /// Tells all events up to now.
    async fn drain(&mut self, state: &mut State<'_>) -> Result<()> {
        let cookie = self.carrier.mark()?;
        let events = match self.tracer.take_until(cookie).await {
            Ok(events) => events,
            Err(e) => {
                state.report.output.say(&format!("v2p: {e:#}"));
                self.tracer.take()?
            }
        };
        self.tell(&events, state)
    }

    fn tell(&mut self, events: &[Event], state: &mut State<'_>) -> Result<()> {
        for event in events {
            if matches!(event, Event::Marker(_)) {
                continue;
            }
            state.report.counts.events += 1;
            if let Event::Fault(fault) = event
                && self.is_asked(fault.va)
            {
                state.report.counts.faults += 1;
                if self.show_faults {
                    state.report.tell(self.fault_record(fault))?;
                }
            }
            for one in state.ledger.apply(event) {
                state.report.moved(one)?;
            }
            match event {
                Event::Migrated(Number { header, number }) => {
                    let reason = state.reasons.name(*number);
                    state.report.migrated(header.tid, reason)?;
                }
                Event::Exec(_) => self.executed(state)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The process has another address space: its pagemap is another file.
    fn executed(&mut self, state: &mut State<'_>) -> Result<()> {
        let pid = self.ended.get_ref().pid;
        match Pagemap::of(pid) {
            Ok(pagemap) => self.pagemap = pagemap,
            Err(e) => {
                let output = &mut state.report.output;
                output.say(&format!(
                    "v2p: watch: the process executed a program whose pages we may not read: {e:#}"
                ));
            }
        }
        state.merged = Merged::of(pid);
        state.report.names.update();
        Ok(())
    }

    fn tell_losses(&self, state: &mut State<'_>) -> Result<()> {
        let lost = self.tracer.loss(self.programs).since(state.before);
        let told = state.report.counts.lost;
        if lost > told {
            state.report.tell(Record::Lost {
                events: lost - told,
            })?;
            state.report.counts.lost = lost;
            // What was lost is not known: compare.
            state.ledger.read_again(ALL);
        }
        Ok(())
    }

    /// Believes what the last reading found, and reads what is in doubt now.
    fn resolve_doubts(&self, state: &mut State<'_>) -> Result<()> {
        self.confirm(state)?;
        let now = Instant::now();
        if now < state.next_sweep {
            return self.read(state);
        }
        state.ledger.read_again(ALL);
        self.read(state)?;
        let rest = match self.tracer.sees_removals() {
            true => SWEEP,
            false => SWEEP_BLIND,
        };
        state.next_sweep = Instant::now() + rest.max(now.elapsed() * SWEEP_REST);
        Ok(())
    }

    fn confirm(&self, state: &mut State<'_>) -> Result<()> {
        let State { ledger, report, .. } = state;
        let names = &report.names;
        let moves = ledger.confirm(now_ns(), |page| names.has(page << PAGE_SHIFT));
        moves.into_iter().try_for_each(|one| report.moved(one))
    }

    /// Reads what is in doubt. An address space that has gone is told by its own event.
    fn read(&self, state: &mut State<'_>) -> Result<()> {
        let State {
            ledger,
            report,
            scanner,
            ..
        } = state;
        let ranges = ledger.take_unread();
        if ranges.is_empty() || self.pagemap.word(VirtAddr(0))?.is_none() {
            return Ok(());
        }
        let asked = reading::pages_of(self.ranges, ALL);
        let ranges = reading::common(&ranges, &asked);
        let mappings = report.names.update();
        let compare = |pages: Span<u64>, words: &[_]| ledger.compare(pages, words);
        let whole = reading::read(&self.pagemap, scanner, mappings, &ranges, compare)?;
        if !whole {
            ledger.distrust();
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
            major: fault.flags & fault::MAJOR != 0,
        }
    }
}
