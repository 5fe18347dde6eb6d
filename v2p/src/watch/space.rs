//! One address space that is watched: its ledger, and what is read for it.

use std::{cell::RefCell, ops::Range as Span};

use anyhow::Result;
use v2p_common::{
    PAGE_SHIFT, VirtAddr,
    event::{Event, Exec, Fault, Number, fault},
    pte::{Entry, Level, Paging, WalkEnd},
};

use super::{ALL, merged::Merged, names::Names, reading, report::Report};
use crate::{
    kernel::now_ns,
    ledger::Ledger,
    process::{Pagemap, maps::Range},
    record::{Access, Hex, Move, Record},
    translate::parts::Scanner,
};

/// An address space, while it lives, and between an exec's two: the old one's end, and the new one.
pub(super) struct Space {
    /// What the members of the family name it by.
    pub(super) id: u64,
    /// Kernel address of its `mm_struct`; 0: it has ended, or is not known.
    pub(super) mm: u64,
    /// The process whose it is: where a child shares it, the parent.
    pub(super) pid: u32,
    pub(super) ledger: Ledger,
    pub(super) names: Names,
    /// None where the process was gone before it could be opened.
    pub(super) pagemap: Option<Pagemap>,
    pub(super) merged: Merged,
    /// The event that told its end, where an exec or the end of the process may have made it: somebody else may have held it last.
    pub(super) gone: Option<Number>,
    /// For how many turns it is gone, while its process lives and no event told why.
    pub(super) astray: u32,
    /// Whether the way to it was found without an event, which may come yet.
    pub(super) found: bool,
    /// When the last reading began.
    pub(super) read_ns: u64,
    /// It was read in this turn: events that are in the reading already may not have come yet.
    pub(super) fresh: bool,
}

/// Who is told, and the process whose moves they are, where there may be several.
type Whom<'a, 'o> = (&'a mut Report<'o>, Option<u32>);

impl Space {
    /// One of process `pid`, of which nothing was read yet.
    pub(super) fn new((id, mm, pid): (u64, u64, u32), ledger: Ledger, names: Names) -> Self {
        Self {
            id,
            mm,
            pid,
            ledger,
            names,
            pagemap: None,
            merged: Merged::of(pid),
            gone: None,
            astray: 0,
            found: false,
            read_ns: 0,
            fresh: false,
        }
    }

    /// The ledger as it is at the start. The hooks are live: what happens during the reading is in the ring too.
    pub(super) fn seed(&mut self, ranges: &[Range], scanner: &mut Scanner) -> Result<()> {
        let Self {
            ledger,
            names,
            pagemap: Some(pagemap),
            merged,
            ..
        } = self
        else {
            return Ok(());
        };
        let first_ns = now_ns();
        let mappings = names.update();
        let mut began_ns = now_ns();
        let each = |pages: Span<u64>, words: &[(u64, _)]| {
            for (page, word) in words {
                let is_merged = merged.is(*word);
                ledger.seed(VirtAddr(page << PAGE_SHIFT), *word, is_merged);
            }
            // Where there is nothing, nothing was read: the mappings said so, or a scan.
            let since = if words.is_empty() { first_ns } else { began_ns };
            ledger.seeded(pages, since);
            began_ns = now_ns();
        };
        let asked = reading::pages_of(ranges, ALL);
        reading::read(pagemap, scanner, mappings, &asked, each)?;
        Ok(())
    }

    /// Reads what is in doubt. An address space that has gone is told by its own event.
    pub(super) fn read(&mut self, ranges: &[Range], scanner: &mut Scanner) -> Result<()> {
        let Self {
            ledger,
            names,
            pagemap: Some(pagemap),
            ..
        } = self
        else {
            return Ok(());
        };
        let unread = ledger.take_unread();
        if unread.is_empty() || pagemap.word(VirtAddr(0))?.is_none() {
            return Ok(());
        }
        self.read_ns = now_ns();
        let asked = reading::pages_of(ranges, ALL);
        let unread = reading::common(&unread, &asked);
        let mappings = names.update();
        let compare = |pages: Span<u64>, words: &[_]| ledger.compare(pages, words);
        let whole = reading::read(pagemap, scanner, mappings, &unread, compare)?;
        if !whole {
            ledger.distrust();
        }
        Ok(())
    }

    /// Whether its pages can be read: it was not given up.
    pub(super) fn is_there(&self) -> bool {
        let read = self
            .pagemap
            .as_ref()
            .map(|pagemap| pagemap.word(VirtAddr(0)));
        matches!(read, Some(Ok(Some(_))))
    }

    /// Believes what the last reading found, but for one of this turn, and tells the moves.
    pub(super) fn confirm(&mut self, (report, shown): Whom<'_, '_>) -> Result<()> {
        if std::mem::take(&mut self.fresh) {
            return Ok(());
        }
        let names = RefCell::new(&mut self.names);
        let has = |page| names.borrow().has(page << PAGE_SHIFT);
        let mut told = Ok(());
        self.ledger.tell_found(self.read_ns, has, &mut |one| {
            if told.is_ok() {
                told = report.moved(one, shown, &mut names.borrow_mut());
            }
        });
        told
    }

    /// Has `what` done to the ledger, and tells the moves that this makes.
    pub(super) fn tell(
        &mut self,
        (report, shown): Whom<'_, '_>,
        what: impl FnOnce(&mut Ledger, &mut dyn FnMut(Move)),
    ) -> Result<()> {
        let Self { ledger, names, .. } = self;
        let mut told = Ok(());
        what(ledger, &mut |one| {
            if told.is_ok() {
                told = report.moved(one, shown, names);
            }
        });
        told
    }

    /// Tells the moves that its end makes, where that was told or the process has ended, and what made it is known now: that, or an
    /// exec that is under way.
    pub(super) fn settle_gone(&mut self, has_ended: bool, whom: Whom<'_, '_>) -> Result<()> {
        let gone = self.gone.take();
        self.tell(whom, |ledger, tell| match gone {
            // The event was lost.
            None if has_ended => ledger.end(now_ns(), tell),
            None => {}
            Some(gone) if has_ended => ledger.tell(&Event::MmGone(gone), tell),
            Some(gone) => ledger.left_by_exec(gone.header.t_ns, tell),
        })
    }

    /// Whether its pages could be read, and it was given up since.
    pub(super) fn is_left(&self) -> bool {
        self.pagemap.is_some() && !self.is_there()
    }

    /// It is process `pid`'s from now on: the one whose it was has ended or executed a program, and its number may be another's soon.
    pub(super) const fn hand_over(&mut self, pid: u32) {
        self.pid = pid;
        self.names.ask(pid);
    }

    /// Whether an exec was told already: its event was taken for lost, and the way here was found. It may have come late only: the address space is
    /// there from exec_mmap on, and the event comes when the program is set up, for which a disk may be waited for (begin_new_exec and exec_binprm,
    /// fs/exec.c, 6.1 to 7.3).
    pub(super) fn knows(&self, exec: &Exec) -> bool {
        self.mm == exec.header.mm && self.found
    }

    /// The process has another address space: its pagemap is another file. Why it cannot be read, where that is so. `lives`: whether the process
    /// has not ended; where it has, its number may be another's, whose pages those would be.
    pub(super) fn executed(
        &mut self,
        exec: &Exec,
        lives: impl Fn() -> bool,
    ) -> Option<anyhow::Error> {
        let (opened, error) = match Pagemap::of(self.pid) {
            Ok(pagemap) => (Some(pagemap), None),
            Err(e) => (None, Some(e)),
        };
        self.enter(exec.header.mm, opened);
        self.found = false;
        // After all that was opened by its number.
        if !lives() {
            self.pagemap = None;
            return None;
        }
        if let Some(stack) = self.names.stack() {
            self.ledger.image(exec, stack);
        }
        error
    }

    /// It is another one now.
    pub(super) fn enter(&mut self, mm: u64, opened: Option<Pagemap>) {
        self.mm = mm;
        self.pagemap = opened;
        self.merged = Merged::of(self.pid);
        self.names.update();
        self.gone = None;
        self.astray = 0;
    }
}

/// A fault as it is shown.
pub(super) fn fault_record(fault: &Fault, pid: Option<u32>, paging: Paging) -> Record {
    let end = Level::from_u32(fault.level).map(|level| {
        let entry = Entry(fault.entry);
        let state = entry.state(level, paging.physical_mask);
        WalkEnd {
            level,
            entry,
            state,
        }
    });
    Record::Fault {
        pid,
        seq: fault.header.seq,
        t_ns: fault.header.t_ns,
        tid: fault.header.tid,
        va: Hex(fault.va),
        pfn: end
            .and_then(|end| end.pfn(VirtAddr(fault.va)))
            .map(|pfn| pfn.0),
        major: fault.flags & fault::MAJOR != 0,
        access: Access::of(fault.flags),
    }
}

#[cfg(test)]
mod tests {
    use v2p_common::event::Header;

    use super::*;
    use crate::page::ZeroFrames;

    /// A number that no process has.
    const NOBODY: u32 = u32::MAX / 4;

    #[test]
    fn an_exec_whose_address_space_was_found_before_is_told_once_however_late_it_comes() {
        let paging = Paging {
            levels: 4,
            physical_mask: (1 << 52) - 1,
        };
        let ledger = Ledger::new(ZeroFrames::UNKNOWN, paging);
        let names = Names::new(NOBODY, Vec::new());
        let mut space = Space::new((0, 0x1000, NOBODY), ledger, names);
        let exec = |mm, t_ns| Exec {
            header: Header {
                mm,
                t_ns,
                ..Header::default()
            },
            pid: NOBODY,
            unheard: 0,
            faults: 0,
        };
        assert!(!space.knows(&exec(0x1000, 9)));
        space.enter(0x2000, None);
        space.found = true;
        for t_ns in [4, 6] {
            assert!(space.knows(&exec(0x2000, t_ns)));
        }
        assert!(!space.knows(&exec(0x3000, 6)));
        assert!(space.executed(&exec(0x2000, 6), || false).is_none());
        // One that comes to the same address later is another.
        assert!(!space.knows(&exec(0x2000, 8)));
    }

    #[test]
    fn of_a_process_that_has_ended_no_page_is_read_by_its_number() {
        let us = std::process::id();
        let paging = Paging {
            levels: 4,
            physical_mask: (1 << 52) - 1,
        };
        let ledger = Ledger::new(ZeroFrames::UNKNOWN, paging);
        let names = Names::new(us, Vec::new());
        let mut space = Space::new((0, 0x1000, us), ledger, names);
        for lives in [true, false] {
            assert!(space.executed(&Exec::default(), || lives).is_none());
            assert_eq!(space.is_there(), lives);
        }
    }
}
