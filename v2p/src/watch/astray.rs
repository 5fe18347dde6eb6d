//! An exec of the target of which no event came: it found no room in the ring, or the kernel skipped the hook. The loss is told as any
//! other; here the watch finds its way to the new address space.

use anyhow::Result;
use v2p_common::{PAGE_SIZE, VirtAddr};

use super::{Session, State, losses::missed};
use crate::{kernel::now_ns, process::Pagemap, translate::Both};

/// So many turns the address space that is known may be gone, while its process lives, before its event is taken for lost.
const TURNS: u32 = 3;

impl Session<'_> {
    /// Looks whether the target has another address space than the one that is known.
    pub(super) fn look_for_exec(&mut self, state: &mut State<'_>) -> Result<()> {
        let target = self.ended.get_ref();
        let mut spaces = state.family.spaces.iter();
        let is_astray = |space: &super::Space| space.pid == target.pid && space.is_left();
        let astray = spaces.position(is_astray).filter(|_| !target.has_ended());
        let Some(at) = astray else {
            state.astray = 0;
            return Ok(());
        };
        state.astray += 1;
        if state.astray < TURNS {
            return Ok(());
        }
        state.astray = 0;
        // What cannot be found now is looked for again.
        let Ok(pagemap) = Pagemap::of(target.pid) else {
            return Ok(());
        };
        self.carrier.attach(self.programs)?;
        let found = Both::ask(self.carrier, &pagemap, VirtAddr(PAGE_SIZE));
        self.carrier.detach(self.programs)?;
        let State { family, report, .. } = state;
        let shown = family.spaces.get(at).and_then(|space| family.shown(space));
        let (Some(both), Some(space)) = (found?, family.spaces.get_mut(at)) else {
            return Ok(());
        };
        let mm = both.walk.mm;
        if !self.tracer.traces(mm) && !self.tracer.overtake(space.mm, mm) {
            return Ok(());
        }
        for one in space.ledger.left_by_exec(now_ns()) {
            report.moved(one, shown, &mut space.names)?;
        }
        space.enter(mm, Some(pagemap));
        space.found = true;
        // That exec may have taken them off, for other rights.
        if let Err(e) = self.tracer.attach_faults_again(self.programs, target) {
            let what =
                format!("v2p: watch: faults of the program just executed are not told: {e:#}");
            report.output.say(&what);
        }
        missed(state);
        Ok(())
    }
}
