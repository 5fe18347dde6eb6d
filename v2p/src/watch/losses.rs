//! What was lost: counted, told, and made up for by comparing.

use anyhow::Result;
use v2p_common::event::Event;

use super::{Session, State};
use crate::{record::Record, tracer::Loss};

impl Session<'_> {
    /// Tells events, and what was lost among them.
    pub(super) fn tell_all(&mut self, events: &[Event], state: &mut State<'_>) -> Result<()> {
        let loss = self.tracer.loss(self.programs);
        if !loss.is_skipped_since(state.loss) {
            self.tell(events, state)?;
            return self.tell_losses(loss, state);
        }
        // What the kernel skipped leaves no gap in the numbers: it may have been before any of these.
        self.tell_losses(loss, state)?;
        self.tell(events, state)
    }

    /// Tells what was lost since it was last told.
    pub(super) fn tell_losses(&self, loss: Loss, state: &mut State<'_>) -> Result<()> {
        let before = std::mem::replace(&mut state.loss, loss);
        let lost = loss.since(before);
        if loss.is_skipped_since(before) {
            let skipped = self.tracer.skipped(self.programs).into_iter();
            let told: Vec<_> = skipped
                .map(|(name, n)| format!("{name} {n} times"))
                .collect();
            let what = format!("v2p: skipped by the kernel so far: {}", told.join(", "));
            state.report.output.say(&what);
            missed(state);
        }
        lose(lost, state)
    }
}

/// Tells that so many events were lost.
pub(super) fn lose(lost: u64, state: &mut State<'_>) -> Result<()> {
    if lost > 0 {
        state.report.tell(Record::Lost { events: lost })?;
        state.report.counts.lost += lost;
        missed(state);
    }
    Ok(())
}

/// What was lost is not known: compare.
pub(super) fn missed(state: &mut State<'_>) {
    let spaces = &mut state.family.spaces;
    spaces.iter_mut().for_each(|s| s.ledger.missed());
}
