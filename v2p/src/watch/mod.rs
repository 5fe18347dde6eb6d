//! The watch itself: ring -> ledger -> output, until told to stop. Owns drain, loss, and the target's end.

mod astray;
mod begin;
mod family;
mod listener;
mod lives;
mod losses;
mod merged;
mod names;
mod reading;
mod report;
mod signals;
mod space;
pub mod spawn;
mod stop;

use std::{
    ops::Range as Span,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::io::unix::AsyncFd;
use v2p_common::{
    PAGE_SHIFT,
    event::{Event, Number, gone},
    pte::Paging,
};

use self::{
    family::{Family, PATIENCE},
    losses::{lose, missed},
    names::Names,
    report::Report,
    space::Space,
    spawn::Command,
};

pub use self::{
    begin::{Wish, run},
    listener::Listener,
    reading::span,
    stop::Stop,
};

use crate::{
    bpf::Programs,
    carrier::Carrier,
    kernel::{self, reason::Reasons},
    ledger::Ledger,
    page::ZeroFrames,
    process::{
        self, FrameFlags, Pagemap, Process, asked,
        maps::{Range, USER_END},
    },
    record::Record,
    tracer::{Loss, Tracer},
    translate::parts::Scanner,
};

/// How often the ring is looked into when nobody wakes us.
const TICK: Duration = Duration::from_millis(50);

/// How often doubts are read again and losses looked for, however many events come. What was found by one reading
/// waits for events until the next.
const READ_EVERY: Duration = Duration::from_millis(100);

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
    pub pagemap: Option<Pagemap>,
    /// Kernel address of its `mm_struct`; 0: it has none that is watched yet.
    pub mm: u64,
    /// Whether its children are watched too.
    pub follow: bool,
    /// The target's pidfd.
    pub ended: AsyncFd<Process>,
    /// A program that the target will execute once the hooks are live; what it was before is not watched.
    pub command: Option<Command>,
    /// What to watch, in order and apart; empty: all.
    pub ranges: &'a [Range],
    /// Whether faults are shown.
    pub show_faults: bool,
    /// The tables' layout.
    pub paging: Paging,
    /// The kernel's reasons for a migration.
    pub reasons: Reasons,
}

/// What a running watch knows.
struct State<'o> {
    family: Family,
    report: Report<'o>,
    scanner: Scanner,
    /// What was lost when that was last told.
    loss: Loss,
    /// Events lost, when a gap in their numbers was last seen.
    lost: u64,
    /// Number of the event that is to come.
    next_seq: Option<u64>,
    next_sweep: Instant,
}

impl Session<'_> {
    /// Watches until `stop` or the target's end; where children are followed, until all of them have ended.
    ///
    /// # Errors
    /// Where the output fails, or the ring holds what is no event.
    pub async fn run(mut self, mut stop: Stop, output: &mut dyn Listener) -> Result<()> {
        let mut state = self.begin(output)?;
        let told = stop.was_told().await;
        match &mut self.command {
            // A command is not started for nothing, and what we were before its exec is nobody's business.
            Some(_) if told => return self.end_unstarted(state),
            Some(command) => command.execute()?,
            None => {}
        }
        stop.begins();
        let mut next_reading = Instant::now() + READ_EVERY;
        let why = loop {
            let stopped = tokio::select! {
                biased;
                why = stop.reached() => Some(why),
                _ = self.ended.readable(), if !self.follow => Some("target-exited"),
                ready = self.tracer.readable() => { ready?; None }
                () = tokio::time::sleep(TICK) => None,
            };
            let events = self.tracer.take()?;
            self.tell_all(&events, &mut state)?;
            if Instant::now() >= next_reading {
                self.look_after(&mut state)?;
                self.look_for_exec(&mut state).await?;
                self.resolve_doubts(&mut state)?;
                next_reading = Instant::now() + READ_EVERY;
            }
            let why = match stopped {
                None => state.report.turn()?,
                told => told,
            };
            match why {
                Some(why) => break why,
                None if self.follow && state.family.is_empty() => break "target-exited",
                None => {}
            }
        };
        self.close(&mut state).await?;
        let name = self.command.as_ref().map(|command| command.name.clone());
        let status = self.command.take().and_then(Command::status);
        if let (Some(name), None, "duration" | "signal") = (name, status, why) {
            let what = format!("v2p: watch: {name} goes on, unwatched");
            state.report.output.say(&what);
        }
        state.report.end(why, status)
    }

    /// The end of a watch whose command was never started.
    fn end_unstarted(mut self, mut state: State<'_>) -> Result<()> {
        if let Some(command) = self.command.take() {
            let name = &command.name;
            let what = format!("v2p: watch: {name} was not started: a signal came before");
            state.report.output.say(&what);
        }
        state.report.end("signal", None)
    }

    /// Everything up to the start record.
    fn begin<'o>(&mut self, output: &'o mut dyn Listener) -> Result<State<'o>> {
        let loss = self.tracer.loss(self.programs);
        let pid = self.ended.get_ref().pid;
        let ledger = Ledger::new(ZeroFrames::learn()?, self.paging)
            .limited_to(self.ranges)
            .seeing_removals(self.tracer.sees_removals())
            .weighing_contests(true)
            .knowing_bad_frames(|pfn| {
                process::frame_flags(pfn).is_ok_and(|flags| flags.has(FrameFlags::HWPOISON))
            });
        let names = Names::new(pid, Vec::new());
        let mut target = Space::new((0, self.mm, pid), ledger, names);
        target.pagemap = self.pagemap.take();
        // It may have come by an exec of which the event comes yet.
        target.found = self.mm != 0;
        let mut scanner = Scanner::default();
        // Nobody else pays for the carrier while it is not needed.
        self.carrier.detach(self.programs)?;
        if self.command.is_none() {
            target.seed(self.ranges, &mut scanner)?;
        }
        let state = State {
            family: Family::new(target, self.follow),
            report: Report::new(output, self.tracer.tells_reasons()),
            scanner,
            loss,
            lost: 0,
            next_seq: None,
            next_sweep: Instant::now() + SWEEP_BLIND,
        };
        self.say_start(state.report.output)?;
        state.report.output.turn()?;
        Ok(state)
    }

    fn say_start(&self, output: &mut dyn Listener) -> Result<()> {
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
        confirm(state)?;
        read_all(state);
        self.read(state)?;
        // Those for whom no event says so: their events, where there are any, come before the mark.
        self.look(state);
        for space in &mut state.family.spaces {
            space.ledger.read_for_the_last_time();
        }
        self.drain(state).await?;
        self.tracer.stop_faults(self.programs);
        self.tell_losses(self.tracer.loss(self.programs), state)?;
        // No event is to come any more.
        self.tell_gone(state, 0)?;
        self.settle_gone(state)?;
        confirm(state)?;
        state.report.release(0)
    }

    /// Tells all events up to now.
    async fn drain(&mut self, state: &mut State<'_>) -> Result<()> {
        // Room for the marker; and where others took that meanwhile, once more.
        let mut events = self.tracer.take()?;
        let lost = self.tracer.lost();
        let mut cookie = self.carrier.mark()?;
        if self.tracer.lost() != lost {
            events.extend(self.tracer.take()?);
            cookie = self.carrier.mark()?;
        }
        let (more, came) = self.tracer.take_until(cookie).await?;
        events.extend(more);
        if !came {
            let what = "v2p: the marker did not come out of the event ring: what was emitted last may be missing";
            state.report.output.say(what);
        }
        self.tell_all(&events, state)
    }

    fn tell(&mut self, events: &[Event], state: &mut State<'_>) -> Result<()> {
        let mut unplaced = 0;
        for event in events {
            let seq = event.header().seq;
            // One between the last and this is missing: it was lost, or comes a moment later from another CPU. How many were lost
            // is told with the account.
            if state.next_seq.is_some_and(|next| next != seq) {
                let lost = self.tracer.lost();
                if std::mem::replace(&mut state.lost, lost) < lost {
                    missed(state);
                }
            }
            state.next_seq = Some(seq + 1);
            if matches!(event, Event::Marker(_) | Event::Crowded(_)) {
                continue;
            }
            state.report.counts.events += 1;
            match event {
                Event::Migrated(Number { header, number }) => {
                    let reason = self.reasons.name(*number);
                    state.report.migrated(header.tid, reason)?;
                }
                Event::Exec(exec) => self.executed(exec, state)?,
                Event::Fork(fork) => self.forked(fork, state)?,
                Event::Ended(end) => state.family.ended(end),
                _ => match state.family.find(event.header().mm) {
                    Some(at) => self.apply(event, at, state)?,
                    None if self.is_of_nobody(event) => unplaced += 1,
                    None => state.family.too_early(event),
                },
            }
            if let Event::Ended(_) | Event::MmGone(_) = event {
                self.tell_gone(state, PATIENCE)?;
            }
        }
        state.report.counts.events -= unplaced;
        lose(unplaced, state)
    }

    /// Whether an event is about an address space to which an exec has led that was not told, and that is not found yet.
    fn is_of_nobody(&self, event: &Event) -> bool {
        !self.follow && self.tracer.traces(event.header().mm)
    }

    /// Tells what an event about the address space at `at` makes of it.
    fn apply(&self, event: &Event, at: usize, state: &mut State<'_>) -> Result<()> {
        let State { family, report, .. } = state;
        let shown = family.spaces.get(at).and_then(|space| family.shown(space));
        let Some(space) = family.spaces.get_mut(at) else {
            return Ok(());
        };
        if let Event::Fault(fault) = event
            && self.is_asked(fault.va)
        {
            report.counts.faults += 1;
            if self.show_faults {
                report.tell(space::fault_record(fault, shown, self.paging))?;
            }
        }
        match event {
            // The one that an exec has left: somebody who reads of the process may be the last to have it.
            Event::MmGone(gone) if gone.header.mm != space.mm => return Ok(()),
            // Whether an exec or the end took it, only what comes next can say.
            Event::MmGone(gone) if gone.number != gone::EXEC => space.gone = Some(*gone),
            _ => {
                if let Event::Exec(_) = event {
                    space.gone = None;
                }
                space.tell((report, shown), |ledger, tell| ledger.tell(event, tell))?;
            }
        }
        if let Event::MmGone(_) = event {
            family.ended_space(at);
        }
        Ok(())
    }

    /// Believes what the last reading found, and reads what is in doubt now.
    fn resolve_doubts(&self, state: &mut State<'_>) -> Result<()> {
        confirm(state)?;
        let now = Instant::now();
        if now < state.next_sweep {
            return self.read(state);
        }
        read_all(state);
        self.read(state)?;
        let rest = match self.tracer.sees_removals() {
            true => SWEEP,
            false => SWEEP_BLIND,
        };
        state.next_sweep = Instant::now() + rest.max(now.elapsed() * SWEEP_REST);
        Ok(())
    }

    /// Reads what is in doubt.
    fn read(&self, state: &mut State<'_>) -> Result<()> {
        let State {
            family, scanner, ..
        } = state;
        let mut spaces = family.spaces.iter_mut();
        spaces.try_for_each(|space| space.read(self.ranges, scanner))
    }

    fn is_asked(&self, va: u64) -> bool {
        asked::is_asked(self.ranges, va)
    }
}

/// Everything is to be read again.
fn read_all(state: &mut State<'_>) {
    let spaces = &mut state.family.spaces;
    spaces.iter_mut().for_each(|s| s.ledger.read_again(ALL));
}

/// Believes what the last reading found.
fn confirm(state: &mut State<'_>) -> Result<()> {
    let State { family, report, .. } = state;
    for at in 0..family.spaces.len() {
        let shown = family.spaces.get(at).and_then(|space| family.shown(space));
        if let Some(space) = family.spaces.get_mut(at) {
            space.confirm((report, shown))?;
        }
    }
    Ok(())
}
