//! What is told, in which order: a migration waits a moment for the event that has its reason, and what comes after
//! it waits with it.

use std::{collections::VecDeque, time::Instant};

use anyhow::Result;

use super::names::Names;
use crate::{
    record::{Cause, Move, Proof, Record},
    render::Output,
};

/// Records waiting for one in front of them; more are told without it.
const MANY: usize = 1 << 16;

/// How long a migration waits for its reason, in milliseconds.
const PATIENCE_MS: u128 = 200;

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
    pub(super) output: &'o mut Output,
    pub(super) counts: Counts,
    pub(super) names: Names,
    waiting: VecDeque<(Instant, Record)>,
}

impl<'o> Report<'o> {
    pub(super) fn new(output: &'o mut Output, names: Names) -> Self {
        Self {
            output,
            counts: Counts::default(),
            names,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn tell(&mut self, record: Record) -> Result<()> {
        if self.waiting.is_empty() && !lacks_reason(&record) {
            return self.output.record(&record);
        }
        self.waiting.push_back((Instant::now(), record));
        if self.waiting.len() > MANY {
            self.release(0)?;
        }
        Ok(())
    }

    pub(super) fn moved(&mut self, one: Move) -> Result<()> {
        self.counts.moves += 1;
        self.counts.reconciled += u64::from(one.proof == Proof::Reconciled);
        let mapping = if self.output.is_json() {
            String::new()
        } else {
            self.names.of(one.va.0)
        };
        self.tell(Record::Move { one, mapping })
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

    /// Lets what was told be seen.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.release(PATIENCE_MS)?;
        self.output.flush()?;
        self.output.check_reader()
    }
}

fn lacks_reason(record: &Record) -> bool {
    matches!(record, Record::Move { one, .. }
        if one.cause == Cause::Migration && one.proof == Proof::Event && one.reason.is_none())
}
