//! Moves, as one change after the other makes them.

use v2p_common::{PAGE_SIZE, event};

use crate::{
    record::{By, Cause, Comm, Hex, Move, Proof},
    state::PageState,
};

/// What the moves of one change have in common.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) seq: Option<u64>,
    pub(super) t_ns: u64,
    pub(super) by: Option<By>,
    pub(super) proof: Proof,
}

impl Change {
    pub(super) fn of(header: &event::Header) -> Self {
        Self {
            seq: Some(header.seq),
            t_ns: header.t_ns,
            by: Some(by(header)),
            proof: Proof::Event,
        }
    }

    pub(super) const fn reconciled(t_ns: u64) -> Self {
        Self {
            seq: None,
            t_ns,
            by: None,
            proof: Proof::Reconciled,
        }
    }
}

/// Who an event was emitted by.
fn by(header: &event::Header) -> By {
    By {
        tid: header.tid,
        comm: Comm(header.comm),
    }
}

/// Who is told of moves.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Move);

/// More are told at once where a whole address space, or a large part of it, goes: the memory that they take is not to follow its size.
const MANY: usize = 1024;

/// Moves, neighbours with the same story as one.
#[derive(Default)]
pub(super) struct Moves(pub(super) Vec<Move>);

impl Moves {
    /// Tells them where there are many, but for the last, which the next may continue.
    pub(super) fn spill(&mut self, tell: Tell<'_>) {
        if self.0.len() > MANY {
            let last = self.0.pop();
            self.0.drain(..).for_each(tell);
            self.0.extend(last);
        }
    }

    pub(super) fn push(
        &mut self,
        page: u64,
        from: PageState,
        to: PageState,
        cause: Cause,
        change: &Change,
    ) {
        let va = page.wrapping_mul(PAGE_SIZE);
        if let Some(last) = self.0.last_mut()
            && va == last.va.0 + last.pages * PAGE_SIZE
            && from == last.from.advanced(last.pages)
            && to == last.to.advanced(last.pages)
            && cause == last.cause
            && change.seq == last.seq
        {
            last.pages += 1;
            return;
        }
        self.0.push(Move {
            seq: change.seq,
            t_ns: change.t_ns,
            va: Hex(va),
            pages: 1,
            from,
            to,
            cause,
            reason: None,
            by: change.by,
            proof: change.proof,
        });
    }
}
