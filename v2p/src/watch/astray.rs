//! An exec of which no event came: it found no room in the ring, or the kernel skipped the hook. The loss is told as any
//! other; here the watch finds its way to the new address space.

use anyhow::Result;
use v2p_common::{PAGE_SIZE, VirtAddr};

use super::{Session, State, losses::missed, space::Space};
use crate::{
    kernel::now_ns,
    process::{Pagemap, Process},
    translate::Both,
};

/// So many turns the address space that is known may be gone, while its process lives, before its event is taken for lost.
const TURNS: u32 = 3;

impl Session<'_> {
    /// Looks whether one of those that are watched has another address space than the one that is known.
    pub(super) async fn look_for_exec(&mut self, state: &mut State<'_>) -> Result<()> {
        let (family, target) = (&state.family, self.ended.get_ref());
        let is_astray = |space: &&Space| space.is_left() && family.lives(space.pid, target);
        let astray = family.spaces.iter().filter(is_astray);
        let astray: Vec<_> = astray.map(|space| (space.id, space.pid)).collect();
        for (id, pid) in astray {
            let mut spaces = state.family.spaces.iter_mut();
            let Some(space) = spaces.find(|space| space.id == id) else {
                continue;
            };
            space.astray += 1;
            if space.astray >= TURNS {
                space.astray = 0;
                let before = space.mm;
                self.look_for_exec_of(pid, (id, before), state).await?;
            }
        }
        Ok(())
    }

    /// The same of process `pid`, whose address space is known by this identity, and was at this address.
    async fn look_for_exec_of(
        &mut self,
        pid: u32,
        (id, before): (u64, u64),
        state: &mut State<'_>,
    ) -> Result<()> {
        // What cannot be found now is looked for again.
        let Ok(pagemap) = Pagemap::of(pid) else {
            return Ok(());
        };
        self.carrier.attach(self.programs)?;
        let found = Both::ask(self.carrier, &pagemap, VirtAddr(PAGE_SIZE));
        // Its event may have been on the way.
        self.drain(state).await?;
        self.carrier.detach(self.programs)?;
        let mut spaces = state.family.spaces.iter();
        let at = spaces.position(|s| (s.id, s.mm) == (id, before) && s.is_left());
        match (found?, at) {
            // Else its number may be another's.
            (Some(both), Some(at)) if state.family.lives(pid, self.ended.get_ref()) => {
                self.find_again(at, (both.walk.mm, pagemap), state)
            }
            _ => Ok(()),
        }
    }

    /// The address space is `mm` instead of the one at `at`.
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
        let target = self.ended.get_ref();
        // Only the target's can be named from here.
        let overtake = || space.pid == target.pid && self.tracer.overtake(space.mm, mm);
        if !self.tracer.traces(mm) && !overtake() {
            return Ok(());
        }
        space.tell((report, shown), |ledger, tell| {
            ledger.left_by_exec(now_ns(), tell)
        })?;
        space.enter(mm, Some(pagemap));
        space.found = true;
        // That exec may have taken them off, for other rights.
        let attached = match space.pid == target.pid {
            true => self.tracer.attach_faults_again(self.programs, target),
            false => Process::open(space.pid)
                .and_then(|process| self.tracer.attach_faults_again(self.programs, &process)),
        };
        if let Err(e) = attached {
            let what =
                format!("v2p: watch: faults of the program just executed are not told: {e:#}");
            report.output.say(&what);
        }
        missed(state);
        Ok(())
    }
}
