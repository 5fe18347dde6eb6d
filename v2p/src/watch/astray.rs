//! An exec of the target of which no event came: it found no room in the ring, or the kernel skipped the hook. The loss is told as any
//! other; here the watch finds its way to the new address space.

use anyhow::Result;
use v2p_common::{PAGE_SIZE, VirtAddr};

use super::{Session, State, losses::missed, space::Space};
use crate::{kernel::now_ns, process::Pagemap, translate::Both};

/// So many turns the address space that is known may be gone, while its process lives, before its event is taken for lost.
const TURNS: u32 = 3;

impl Session<'_> {
    /// Looks whether the target has another address space than the one that is known.
    pub(super) async fn look_for_exec(&mut self, state: &mut State<'_>) -> Result<()> {
        let target = self.ended.get_ref().pid;
        let is_astray = |space: &Space| space.pid == target && space.is_left();
        let mut spaces = state.family.spaces.iter_mut();
        let astray = spaces.find(|space| is_astray(space));
        let Some(space) = astray.filter(|_| !self.ended.get_ref().has_ended()) else {
            return Ok(());
        };
        space.astray += 1;
        if space.astray < TURNS {
            return Ok(());
        }
        space.astray = 0;
        let before = space.mm;
        // What cannot be found now is looked for again.
        let Ok(pagemap) = Pagemap::of(target) else {
            return Ok(());
        };
        self.carrier.attach(self.programs)?;
        let found = Both::ask(self.carrier, &pagemap, VirtAddr(PAGE_SIZE));
        // Its event may have been on the way.
        self.drain(state).await?;
        self.carrier.detach(self.programs)?;
        let mut spaces = state.family.spaces.iter();
        let at = spaces.position(|space| is_astray(space) && space.mm == before);
        let (Some(both), Some(at)) = (found?, at) else {
            return Ok(());
        };
        self.find_again(at, (both.walk.mm, pagemap), state)
    }

    /// The target's address space is `mm` instead of the one at `at`.
    fn find_again(
        &mut self,
        at: usize,
        (mm, pagemap): (u64, Pagemap),
        state: &mut State<'_>,
    ) -> Result<()> {
        let State { family, report, .. } = state;
        let shown = family.spaces.get(at).and_then(|space| family.shown(space));
        let Some(space) = family.spaces.get_mut(at) else {
            return Ok(());
        };
        if !self.tracer.traces(mm) && !self.tracer.overtake(space.mm, mm) {
            return Ok(());
        }
        for one in space.ledger.left_by_exec(now_ns()) {
            report.moved(one, shown, &mut space.names)?;
        }
        space.enter(mm, Some(pagemap));
        space.found = true;
        // That exec may have taken them off, for other rights.
        if let Err(e) = self
            .tracer
            .attach_faults_again(self.programs, self.ended.get_ref())
        {
            let what =
                format!("v2p: watch: faults of the program just executed are not told: {e:#}");
            report.output.say(&what);
        }
        missed(state);
        Ok(())
    }
}
