//! What is gathered after a write: where the page is, what it holds, what the hooks saw.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use v2p_common::{PAGE_SHIFT, event::Event};

use super::{
    Guard,
    inspect::{Checked, Sight},
    moves::{Begun, add_reasons, moves},
    strike::Struck,
    verdict::{Evidence, Left, first, left, verdict},
};
use crate::{kernel::now_ns, ledger::Ledger, process::frame_mapcount, record::Verdict};

/// How long who takes entries out is waited for: some GiB take so long.
const ZAPS: Duration = Duration::from_secs(1);

/// How often it is read back while the page goes on moving.
const READINGS: u32 = 100;

/// What the hooks saw of a page since it was first looked up.
pub(super) struct Drained {
    pub(super) moves: Vec<Begun>,
    /// Events lost meanwhile.
    pub(super) lost: u64,
    /// Entries are still being taken out, of which no event has told.
    pub(super) zapping: bool,
}

/// What was read back.
struct Back {
    sight: Sight,
    by_va: bool,
    by_pa: bool,
    /// What the frame has that was written to.
    hit_as_before: bool,
}

impl Guard {
    /// Forgets what was before, losses too: from here on the events are those of the protocol. Gives the time.
    ///
    /// An event of before that is still on its way, in a program on another CPU, is stamped later than this, and so would be
    /// taken for one of the protocol's: that makes no verdict kinder.
    pub(super) fn forget(&mut self) -> Result<u64> {
        self.lost();
        self.tracer.take()?;
        self.events.clear();
        Ok(now_ns())
    }

    /// Reads back, drains, and judges.
    pub(super) async fn prove(
        &mut self,
        one: &Checked,
        struck: &Struck,
        began_ns: u64,
    ) -> Result<(Verdict, Option<String>, Drained)> {
        let bytes = self.source.held().to_vec();
        let back = self.read_back(one, &bytes)?;
        let stayed = back.sight.pfn() == Some(one.pfn);
        let drained = self.drain(one, began_ns, stayed).await?;
        let began: Vec<_> = drained.moves.iter().map(|m| m.began).collect();
        let (left, by_event) = left(struck, &began, stayed);
        // What a fresh page holds tells nothing, unless the page is known to have been the old one as it was read back.
        let is_fresh = bytes.iter().all(|byte| *byte == 0);
        let may_be_fresh = !(struck.back && left == Left::After && self.sees_removals);
        let copied = first(struck.look_up_ns, &began).is_some_and(|first| first.copied_before);
        let (verdict, why) = verdict(&Evidence {
            left,
            by_event,
            gone: matches!(back.sight, Sight::Gone),
            telling: one.before != bytes && !(is_fresh && may_be_fresh),
            hooked: self.tracer.watches_migration(),
            sees_removals: self.sees_removals,
            lost: drained.lost,
            zapping: drained.zapping,
            back_at_once: struck.back,
            copied,
            read_back_va: back.by_va,
            read_back_pa: back.by_pa,
            as_before: back.hit_as_before,
        });
        let mut why = why.map(str::to_owned);
        if verdict == Verdict::Landed {
            let by_now = self.by_now(one, &back, &drained)?;
            why = by_now.or(why);
        }
        Ok((verdict, why, drained))
    }

    /// What would be refused by now: a fork may have shared the page since it was checked, and a page that moved is another.
    fn by_now(&mut self, one: &Checked, back: &Back, drained: &Drained) -> Result<Option<String>> {
        let Sight::At(place) = back.sight else {
            return Ok(None);
        };
        // Where nothing moved, only this can have changed; and a clean page may have been given up.
        let alone =
            place.word.is_exclusive() && place.entry.is_dirty() && frame_mapcount(one.pfn)? == 1;
        if drained.moves.is_empty() && alone {
            return Ok(None);
        }
        let refusal = self.refusal(&place)?;
        Ok(refusal.map(|refusal| format!("it is there, but by now {}", refusal.what)))
    }

    /// By both routes, at the frame where the page is then; until it stays there for the while.
    fn read_back(&mut self, one: &Checked, bytes: &[u8]) -> Result<Back> {
        let part = one.part;
        let mut there = vec![0; bytes.len()];
        let mut back = Back {
            sight: Sight::Gone,
            by_va: false,
            by_pa: false,
            hit_as_before: false,
        };
        for _ in 0..READINGS {
            let sight = self.look_at_rest(part.va)?;
            let by_va = self.memory.read(part.va, &mut there).is_ok() && there == bytes;
            // What was in swap has a frame now that it was read.
            let sight = match sight {
                Sight::Without(_) => self.look_at_rest(part.va)?,
                other => other,
            };
            let at = |pfn: v2p_common::Pfn| pfn.at(part.va.page_offset());
            let mut read = |pfn| {
                let devmem = self.devmem.as_ref();
                devmem
                    .is_some_and(|devmem| devmem.read(at(pfn), &mut there).is_ok())
                    .then(|| there.clone())
            };
            let by_pa = sight
                .pfn()
                .and_then(&mut read)
                .is_some_and(|now| now == bytes);
            back = Back {
                sight,
                by_va,
                by_pa,
                hit_as_before: read(one.pfn).is_some_and(|now| now == one.before),
            };
            // Else the page may have moved between the readings.
            if by_va == by_pa || matches!(sight, Sight::Gone) {
                break;
            }
        }
        Ok(back)
    }

    /// The events up to a marker; `stayed`: a look-up just before named the frame of `one`.
    ///
    /// Then a program that is still running on another CPU needs not be waited for. A move that such a look-up does not show
    /// was undone, and what undoes it waits for the one that did it: to end a migration or a swap-out takes the
    /// lock of the folio, which is held until the hook has run; and while entries are being taken out, which may free a page long
    /// before the hook (zap_pte_range, mm/memory.c, flushes when its batch is full, 6.1 to 7.3), that is waited for. So its event
    /// lies before the marker in the ring, whose records are read in the order in which they were reserved. In all other cases a
    /// grace period is waited for, so that the story is whole.
    pub(super) async fn drain(
        &mut self,
        one: &Checked,
        began_ns: u64,
        stayed: bool,
    ) -> Result<Drained> {
        let zapping = !self.zaps_end();
        let cookie = self.carrier.mark()?;
        let events = self.tracer.take()?;
        let marked = events
            .iter()
            .any(|e| matches!(e, Event::Marker(m) if m.number == cookie));
        self.events.extend(events);
        let moves = self.moves_of(one, began_ns);
        if marked && stayed && moves.is_empty() {
            return Ok(Drained {
                moves,
                lost: self.lost(),
                zapping,
            });
        }
        self.drain_rest(one, began_ns, zapping).await
    }

    /// All events up to now, programs that were still running included.
    pub(super) async fn drain_all(&mut self, one: &Checked, began_ns: u64) -> Result<Drained> {
        let zapping = !self.zaps_end();
        self.drain_rest(one, began_ns, zapping).await
    }

    async fn drain_rest(&mut self, one: &Checked, began_ns: u64, zapping: bool) -> Result<Drained> {
        let cookie = self.carrier.mark()?;
        let (more, came) = self.tracer.take_until(cookie).await?;
        self.events.extend(more);
        let lost = self.lost();
        // Where there is a loss, that is what the verdict turns on.
        ensure!(
            came || lost > 0,
            "the marker did not come out of the event ring"
        );
        let mut moves = self.moves_of(one, began_ns);
        add_reasons(&mut moves, &self.events, &self.reasons);
        Ok(Drained {
            moves,
            lost,
            zapping,
        })
    }

    /// Threads that are taking entries of the process out just now, but for those whose end was not told.
    fn zapping(&mut self) -> u64 {
        let now = self.programs.control().account.zapping.get();
        self.unended = self.unended.min(now);
        now - self.unended
    }

    /// Waits until who is taking entries out has done so, since the event comes at the end. False: not within the time; who did not end
    /// in it is not waited for again.
    fn zaps_end(&mut self) -> bool {
        let start = Instant::now();
        while self.zapping() > 0 {
            if start.elapsed() > ZAPS {
                self.unended = self.programs.control().account.zapping.get();
                return false;
            }
            thread::sleep(Duration::from_micros(100));
        }
        true
    }

    /// The moves of a page, by all events since the first check: what was seen of it while another was proven is in them.
    fn moves_of(&self, one: &Checked, began_ns: u64) -> Vec<Begun> {
        let page = one.part.va.page_number();
        let range = crate::process::maps::Range {
            start: page << PAGE_SHIFT,
            end: (page + 1) << PAGE_SHIFT,
        };
        let mut ledger = Ledger::new(self.decoder.zero, self.direct_map.paging)
            .limited_to(&[range])
            .seeing_removals(self.sees_removals);
        ledger.seed(one.part.va, one.word, false);
        ledger.seeded(page..page + 1, began_ns);
        moves(&mut ledger, &self.events)
    }

    /// Events lost since this was last asked.
    fn lost(&mut self) -> u64 {
        let now = self.tracer.loss(&self.programs);
        let lost = now.since(self.loss);
        self.loss = now;
        lost
    }
}
