//! What may be written, and what became of it: pure.

use v2p_common::Pfn;

use crate::{process::FrameFlags, record::Verdict};

/// Frames below 1 MiB: reads give zeros and writes are dropped under STRICT_DEVMEM
/// (devmem_is_allowed, arch/x86/mm/init.c); x86 keeps user pages out of it.
const LOW_PFN: u64 = 256;

/// What is known after the write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// The frame of the last look-up before the write.
    pub(super) before: Pfn,
    /// The frame of the look-up after it.
    pub(super) after: Option<Pfn>,
    /// An event shows a move that began before the write had returned.
    pub(super) moved_in_window: bool,
    /// An event shows a move that began later.
    pub(super) moved_later: bool,
    /// The hooks on migration are live, and all that they had seen was waited for.
    pub(super) hooked: bool,
    /// Events lost.
    pub(super) lost: u64,
    /// The bytes are there, through the virtual address.
    pub(super) read_back_va: bool,
    /// The bytes are there, through /dev/mem at the frame of the look-up after it.
    pub(super) read_back_pa: bool,
}

/// The verdict over a write that was made, and why where it is not plain.
pub(super) fn verdict(e: &Evidence) -> (Verdict, Option<&'static str>) {
    let read_back = e.read_back_va && e.read_back_pa;
    if e.moved_in_window {
        let why = match e.read_back_va {
            true => {
                "an event shows a move between look-up and write; the page took the bytes along"
            }
            false => "an event shows a move between look-up and write",
        };
        return (Verdict::Strayed, Some(why));
    }
    if e.after != Some(e.before) && !e.read_back_va {
        return (
            Verdict::Strayed,
            Some("the page has another frame, without the bytes"),
        );
    }
    if e.lost > 0 {
        return (Verdict::Unproven, Some("events were lost"));
    }
    if !e.hooked {
        return (
            Verdict::Unproven,
            Some("the hooks on migration are not live, or could not be waited for (nohz_full)"),
        );
    }
    if e.after != Some(e.before) && !e.moved_later {
        return (
            Verdict::Unproven,
            Some("the page has another frame, and no event says since when"),
        );
    }
    match (read_back, e.moved_later) {
        (true, false) => (Verdict::Landed, None),
        (true, true) => (
            Verdict::Landed,
            Some("the page moved after the write, and took the bytes along"),
        ),
        (false, true) => (
            Verdict::Unproven,
            Some("the page moved after the write, and the bytes are not where it is now"),
        ),
        (false, false) => (
            Verdict::Unproven,
            Some("the bytes are not there, though nothing moved"),
        ),
    }
}

/// Why the frame must not be written; `None`: it may.
pub(super) fn refusal(pfn: Pfn, flags: FrameFlags, mapcount: u64) -> Option<String> {
    if pfn.0 < LOW_PFN {
        return Some("the frame lies below 1 MiB, where the kernel drops writes".into());
    }
    let never = [
        (FrameFlags::BUDDY, "is free"),
        (FrameFlags::SLAB, "belongs to the kernel (slab)"),
        (FrameFlags::RESERVED, "is reserved"),
        (FrameFlags::HWPOISON, "is poisoned"),
        (FrameFlags::PGTABLE, "is a page table"),
        (FrameFlags::OFFLINE, "is offline"),
        (FrameFlags::ZERO_PAGE, "is the shared zero page"),
        (FrameFlags::NOPAGE, "is no memory"),
    ];
    if let Some((_, why)) = never.iter().find(|(flag, _)| flags.has(*flag)) {
        return Some(format!("the frame {why}"));
    }
    let user =
        flags.has(FrameFlags::MMAP) && (flags.has(FrameFlags::ANON) || flags.has(FrameFlags::LRU));
    if !user {
        return Some(format!(
            "/proc/kpageflags does not call the frame a mapped user page ({:#x})",
            flags.0
        ));
    }
    (mapcount != 1).then(|| format!("the frame is mapped {mapcount} times"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANDED: Evidence = Evidence {
        before: Pfn(1000),
        after: Some(Pfn(1000)),
        moved_in_window: false,
        moved_later: false,
        hooked: true,
        lost: 0,
        read_back_va: true,
        read_back_pa: true,
    };

    #[test]
    fn a_write_lands_when_nothing_moved_and_both_read_backs_are_equal() {
        assert_eq!(verdict(&LANDED).0, Verdict::Landed);
    }

    #[test]
    fn a_move_in_the_window_is_a_stray_whatever_else_is_said() {
        let e = Evidence {
            moved_in_window: true,
            lost: 5,
            ..LANDED
        };
        assert_eq!(verdict(&e).0, Verdict::Strayed);
    }

    #[test]
    fn another_frame_without_the_bytes_is_a_stray_without_any_event() {
        let e = Evidence {
            after: Some(Pfn(2)),
            read_back_va: false,
            ..LANDED
        };
        assert_eq!(verdict(&e).0, Verdict::Strayed);
    }

    #[test]
    fn lost_events_leave_it_unproven() {
        let e = Evidence { lost: 1, ..LANDED };
        assert_eq!(verdict(&e).0, Verdict::Unproven);
    }

    #[test]
    fn without_hooks_nothing_is_claimed() {
        let e = Evidence {
            hooked: false,
            ..LANDED
        };
        assert_eq!(verdict(&e).0, Verdict::Unproven);
    }

    #[test]
    fn a_move_after_the_write_takes_the_bytes_along() {
        let e = Evidence {
            after: Some(Pfn(2)),
            moved_later: true,
            ..LANDED
        };
        assert_eq!(verdict(&e).0, Verdict::Landed);
    }

    #[test]
    fn bytes_that_are_not_there_are_never_called_landed() {
        for (read_back_va, read_back_pa) in [(false, false), (true, false), (false, true)] {
            let e = Evidence {
                read_back_va,
                read_back_pa,
                ..LANDED
            };
            assert_ne!(verdict(&e).0, Verdict::Landed);
        }
    }

    #[test]
    fn only_a_mapped_user_frame_above_1_mib_is_written() {
        let user = FrameFlags(FrameFlags::MMAP.0 | FrameFlags::ANON.0);
        assert_eq!(refusal(Pfn(1000), user, 1), None);
        assert!(refusal(Pfn(255), user, 1).unwrap().contains("1 MiB"));
        assert!(refusal(Pfn(1000), user, 2).unwrap().contains("2 times"));
        assert!(refusal(Pfn(1000), FrameFlags(0), 0).is_some());
        for bad in [
            FrameFlags::BUDDY,
            FrameFlags::SLAB,
            FrameFlags::PGTABLE,
            FrameFlags::ZERO_PAGE,
        ] {
            assert!(refusal(Pfn(1000), FrameFlags(user.0 | bad.0), 1).is_some());
        }
    }
}
