//! What is told, in which order: a migration waits a moment for the event that has its reason, and what comes after
//! it waits with it.

use std::{collections::VecDeque, rc::Rc, time::Instant};

use anyhow::Result;

use super::{Listener, names::Names};
use crate::record::{Cause, Move, Proof, Record};

/// Records waiting for one in front of them; more are told without it.
const MANY: usize = 1 << 16;

/// How long a migration waits for its reason, in milliseconds: until the call has moved all its pages, which are those of a whole process at the
/// most. Only where that event was lost is it so long.
const PATIENCE_MS: u128 = 5000;

/// What was told so far.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) faults: u64,
    pub(super) moves: u64,
    pub(super) reconciled: u64,
    pub(super) lost: u64,
}

/// Tells records, and counts.
pub(super) struct Report<'o> {
    pub(super) output: &'o mut dyn Listener,
    pub(super) counts: Counts,
    /// Whether events tell the reasons of migrations.
    has_reasons: bool,
    waiting: VecDeque<(Instant, Record)>,
}

impl<'o> Report<'o> {
    pub(super) fn new(output: &'o mut dyn Listener, has_reasons: bool) -> Self {
        Self {
            output,
            has_reasons,
            counts: Counts::default(),
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn tell(&mut self, record: Record) -> Result<()> {
        if let Record::Lost { .. } = record {
            // At once; and the reason of what waits may be among the lost: another's must not be taken for it.
            self.release(0)?;
        }
        if self.waiting.is_empty() && !(self.has_reasons && lacks_reason(&record)) {
            return self.output.record(&record);
        }
        self.waiting.push_back((Instant::now(), record));
        if self.waiting.len() > MANY {
            self.release(0)?;
        }
        Ok(())
    }

    /// A move, of process `pid` where there may be several.
    pub(super) fn moved(&mut self, one: Move, pid: Option<u32>, names: &mut Names) -> Result<()> {
        self.counts.moves += 1;
        self.counts.reconciled += u64::from(one.proof == Proof::Reconciled);
        let mapping = if self.output.wants_names() {
            names.of(one.va.0)
        } else {
            Rc::default()
        };
        self.tell(Record::Move { pid, one, mapping })
    }

    /// A call of migrate_pages by thread `tid` has ended, which was made for `reason`.
    pub(super) fn migrated(&mut self, tid: u32, reason: Option<&'static str>) -> Result<()> {
        for (_, record) in &mut self.waiting {
            if let Record::Move { one, .. } = record
                && one.cause == Cause::Migration
                && one.reason.is_none()
                && one.by.is_some_and(|by| by.tid == tid)
            {
                one.reason = Some(reason.unwrap_or("unknown"));
            }
        }
        self.release(PATIENCE_MS)
    }

    /// Tells what has waited long enough.
    pub(super) fn release(&mut self, patience_ms: u128) -> Result<()> {
        while let Some((since, record)) = self.waiting.front() {
            if lacks_reason(record) && since.elapsed().as_millis() < patience_ms {
                break;
            }
            if let Some((_, record)) = self.waiting.pop_front() {
                self.output.record(&record)?;
            }
        }
        Ok(())
    }

    /// Tells the last record.
    pub(super) fn end(&mut self, why: &'static str, status: Option<i32>) -> Result<()> {
        let Counts {
            events,
            faults,
            moves,
            reconciled,
            lost,
        } = self.counts;
        self.output.record(&Record::End {
            why,
            events,
            faults,
            moves,
            lost,
            reconciled,
            status,
        })
    }

    /// Lets what was told be seen; gives why to stop, where the listener wants to.
    pub(super) fn turn(&mut self) -> Result<Option<&'static str>> {
        self.release(PATIENCE_MS)?;
        self.output.turn()
    }
}

fn lacks_reason(record: &Record) -> bool {
    matches!(record, Record::Move { one, .. }
        if one.cause == Cause::Migration && one.proof == Proof::Event && one.reason.is_none())
}
