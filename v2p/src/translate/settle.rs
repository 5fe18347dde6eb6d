//! A page that is asked about alone: one on which the routes differ, before anything is said of it, or one whose table could
//! not be read.

use anyhow::{Result, bail};
use v2p_common::VirtAddr;

use super::page::{Decoder, Page};
use crate::state::Verdict;
use crate::{carrier::Carrier, process::Pagemap};

/// How often it is asked about.
pub(super) const ATTEMPTS: usize = 4;

/// Asks both routes again about `page`. `compared`: the routes were both asked before, and differed; else only one could be.
/// `None`: the address space is gone.
///
/// `disagree` is said only where neither route's own answer changes any more: while one does, the page is moving.
///
/// # Errors
/// Those of the reading.
pub(super) fn settle(
    page: Page,
    compared: bool,
    carrier: &Carrier,
    decoder: &Decoder,
    pagemap: &Pagemap,
) -> Result<Option<Page>> {
    let mut last = None;
    let mut changes = false;
    let mut settled = page;
    for _ in 0..ATTEMPTS {
        let Some((word, walk)) = carrier.both(pagemap, page.va)? else {
            return Ok(None);
        };
        // A table that could not be read was freed under the walk: of a page that the routes differed on that says that it moves.
        let Some(end) = walk.end else {
            changes |= compared;
            continue;
        };
        let walked = (end.level, end.entry);
        let again = decoder.page(page.va, Some(word), Some(walked));
        if again.verdict == Verdict::Agree {
            let verdict = if compared {
                Verdict::Moved
            } else {
                Verdict::Agree
            };
            return Ok(Some(Page { verdict, ..again }));
        }
        let states = (
            decoder.word(word),
            decoder.entry(end.level, end.entry, page.va).0,
        );
        settled = decoder.settle(again, word, walked);
        // What only one route can tell it must tell each time: a page that comes and goes looks so once.
        changes |= last.replace(states).is_some_and(|before| before != states);
    }
    if changes {
        settled.verdict = Verdict::Moved;
    }
    Ok(Some(settled))
}

/// The page at `va` by a walk for it alone. `None`: the address space is gone.
///
/// # Errors
/// Those of the reading; and where a table cannot be read time and again.
pub(super) fn walk_alone(
    va: VirtAddr,
    carrier: &Carrier,
    decoder: &Decoder,
    pagemap: &Pagemap,
) -> Result<Option<Page>> {
    for _ in 0..ATTEMPTS {
        let Some(walk) = carrier.walk(pagemap, va)? else {
            return Ok(None);
        };
        if let Some(end) = walk.end {
            return Ok(Some(decoder.page(va, None, Some((end.level, end.entry)))));
        }
    }
    bail!("the page tables for {:#x} cannot be read", va.0)
}
