//! What became of a write: pure.

use super::{moves::Began, strike::Struck};
use crate::record::Verdict;

/// When the page left the frame that was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// It did not.
    Not,
    /// After the last look-up, and before the pwrite had returned: by then the frame was no longer the page's.
    Before,
    /// About when the pwrite returned: before or after it.
    Unclear,
    /// Afterwards: the bytes were the page's.
    After,
}

/// When the page left; and whether an event shows that it did. `there`: it is there in the end.
///
/// The event of a removal comes when the deed is done, so one that is stamped a moment after the pwrite may tell of a page that
/// was gone a moment before it. The look-up after the pwrite decides: where it names the frame, and nobody was taking entries out, the page had not
/// gone and come again, and what is stamped later began later.
pub(super) fn left(struck: &Struck, moves: &[Began], there: bool) -> (Left, bool) {
    let Struck {
        look_up_ns,
        written_ns,
        seen_ns,
        still,
        quiet,
        ..
    } = *struck;
    let Some(first) = first(look_up_ns, moves) else {
        return match (there, still && quiet) {
            (true, _) => (Left::Not, false),
            (false, true) => (Left::After, false),
            (false, false) => (Left::Unclear, false),
        };
    };
    let left = match first.at_ns {
        t if t <= written_ns => Left::Before,
        _ if first.copied_later => Left::After,
        t if still && quiet && t > seen_ns => Left::After,
        _ => Left::Unclear,
    };
    (left, true)
}

/// The first move since the last look-up. Their order is that of the events, which come when the deeds are done.
pub(super) fn first(look_up_ns: u64, moves: &[Began]) -> Option<&Began> {
    let since = moves.iter().filter(|m| m.at_ns >= look_up_ns);
    since.min_by_key(|m| m.at_ns)
}

/// What is known after the write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    pub(super) left: Left,
    /// An event shows that it left.
    pub(super) by_event: bool,
    /// The process, or its program, is gone.
    pub(super) gone: bool,
    /// Other bytes were there before, and a fresh page does not have these: that they are there shows that they arrived.
    pub(super) telling: bool,
    /// The hooks on migrations are live.
    pub(super) hooked: bool,
    /// So are those on all that takes a page away, or nobody but we can do that.
    pub(super) sees_removals: bool,
    /// Events lost.
    pub(super) lost: u64,
    /// Entries are still being taken out, of which no event has told.
    pub(super) zapping: bool,
    /// The bytes were there right after the pwrite, by both routes.
    pub(super) back_at_once: bool,
    /// What came in place of the page then is a copy, which may have been begun before the pwrite, and have come without the bytes.
    pub(super) copied: bool,
    /// The bytes are there, through the virtual address.
    pub(super) read_back_va: bool,
    /// The bytes are there, through /dev/mem at the frame of the look-up after it.
    pub(super) read_back_pa: bool,
    /// The frame still has what it had before.
    pub(super) as_before: bool,
}

/// The verdict over a write that was made, and why where it is not plain.
///
/// `Strayed` is said where it is known: the page had left the frame when the pwrite returned. `Landed` asks that both
/// routes read the bytes back, at once or afterwards. What is left is `Unproven`: events were lost, or the owner took the page or the bytes away
/// within the microseconds before they could be read back, of which no event tells the order.
pub(super) fn verdict(e: &Evidence) -> (Verdict, Option<&'static str>) {
    use Verdict::{Landed, Strayed, Unproven};
    let say = |verdict, why| (verdict, Some(why));
    if e.left == Left::Before {
        return say(
            Strayed,
            match (e.gone, e.read_back_va) {
                (true, _) => {
                    "between look-up and write the process has ended, or executed another program"
                }
                (_, true) => {
                    "a move began between look-up and write; the page took the bytes along"
                }
                (_, false) => "a move began between look-up and write",
            },
        );
    }
    let was_back = e.back_at_once && !e.copied;
    let unproven = if e.lost > 0 {
        Some("events were lost")
    } else if !e.hooked {
        Some("the hooks on migrations are not live")
    } else if !e.read_back_va && !was_back {
        Some(not_read_back(e))
    } else if !e.telling && !e.sees_removals {
        Some(
            "such bytes were there before, or would be in a fresh page (zeros), and not every hook is live that would see a move",
        )
    } else if !e.telling && e.left != Left::Not {
        Some(
            "the page moved about when the write was made, and such bytes were there before, or would be in a fresh page (zeros)",
        )
    } else if e.left == Left::Unclear && !e.by_event {
        Some(no_event(e))
    } else if !e.read_back_pa && !was_back {
        Some("the bytes are there for the process, but not at the frame that the routes name")
    } else {
        None
    };
    match (unproven, e.left) {
        (Some(why), _) => say(Unproven, why),
        (None, _) if !e.read_back_va => say(Landed, since(e)),
        (None, Left::Not) => (Landed, None),
        (None, _) => say(
            Landed,
            "the page moved after the write, and took the bytes along",
        ),
    }
}

/// Why bytes are not in the page any more that were there right after the pwrite.
const fn since(e: &Evidence) -> &'static str {
    match (e.gone, e.left) {
        (true, _) => {
            "the page had the bytes; the process has ended, or executed another program, since"
        }
        (false, Left::Not) => "the page had the bytes; the process has written over them since",
        (false, _) => "the page had the bytes; it was taken away or replaced since",
    }
}

/// Why the bytes are not in the page, though no event says that it had left before the pwrite returned.
const fn not_read_back(e: &Evidence) -> &'static str {
    match (e.left, e.gone) {
        _ if e.back_at_once => {
            "they were read back; then a copy came in the page's place, which may have been begun before the write, and is without them"
        }
        (Left::After, true) => {
            "the page had the bytes, but the process has ended, or executed another program, before they could be read back"
        }
        (Left::After, false) => {
            "the page had the bytes, and was taken away or replaced before they could be read back"
        }
        (_, true) => {
            "the process has ended, or executed another program, at the time of the write: before or after it cannot be said"
        }
        (Left::Unclear, false) if e.by_event => {
            "the page was taken away at the time of the write: before or after it cannot be said"
        }
        (Left::Unclear, false) => no_event(e),
        (_, false) if e.as_before => {
            "nothing moved, and the frame has what it had before: the kernel dropped the write"
        }
        (_, false) => "nothing moved, and other bytes are there: the process has written over them",
    }
}

/// Why it is not known since when the page no longer has the frame.
const fn no_event(e: &Evidence) -> &'static str {
    match e.zapping {
        true => {
            "entries of the process are being taken out still, and the page no longer has that frame: whether it went before the write cannot be said"
        }
        false => "the page no longer has that frame, and no event says since when",
    }
}

/// Where the bytes of a pwrite went that failed, or took not all of them: `n` is what it said to have taken, `now` what the
/// frame has now.
pub(super) fn aftermath(n: usize, sent: &[u8], before: &[u8], now: Option<&[u8]>) -> String {
    let rest = sent.len().saturating_sub(n);
    let Some(now) = now else {
        return format!("{n} bytes were written, and the frame cannot be read any more");
    };
    if now == before {
        return "no byte there has changed".to_owned();
    }
    let tail = |of: &[u8]| of.get(n..).unwrap_or_default().to_vec();
    let head = match now.get(..n) == sent.get(..n) {
        true => format!("{n} bytes were written"),
        false => format!("{n} bytes were said to be written, but others are there"),
    };
    let tail = match tail(now) {
        _ if rest == 0 => return head,
        tail_now if tail_now == tail(before) => "are as they were",
        tail_now if tail_now.iter().all(|byte| *byte == 0) => "are zeros now",
        _ => "have changed",
    };
    format!("{head}, the {rest} after them {tail}")
}

#[cfg(test)]
mod tests;
