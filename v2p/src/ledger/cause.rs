//! Why a page changed: what was done, and what lay there before and after, give the cause. Pure.

use v2p_common::{
    PAGE_SHIFT, call,
    event::{Look, collapse, how, memory, zap},
};

use crate::{record::Cause, state::PageState};

/// What is known to have been done to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    /// Entries were taken out, in the system call of this number; none: by a kernel thread. `dying`: with the whole
    /// address space. `perhaps`: or were not, for the call failed.
    Zap {
        call: Option<u64>,
        dying: bool,
        perhaps: bool,
    },
    /// Reclaim, poison or a collapse took out a page of this memory.
    Unmap(Memory),
    /// Somebody needed the page there.
    Fill,
    /// Entries went elsewhere, so many pages further on; that wraps around.
    Leave { on: u64 },
    /// Entries came here from elsewhere; none went by that.
    Arrive,
    /// KSM merged.
    Merge,
    /// KSM unmerged.
    Break,
    /// A huge page took the place of base pages; whether it is known where.
    Collapse { there: bool },
    /// A program was executed, and this is its image.
    Exec,
}

/// Whose page it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Memory {
    File,
    /// It goes to swap.
    Anonymous,
    /// Given to be freed.
    Freed,
    /// A file's, which is being collapsed.
    Collapsing,
    /// A file's, and more than reclaim would take: the split of a huge page, poison, an invalidation.
    Forced,
    /// That is not known.
    Any,
}

impl Deed {
    /// What an event tells. `None`: it is of a kind that is not known.
    pub(super) fn of(look: &Look) -> Option<Self> {
        Some(match look.how {
            how::ZAP => {
                let number = look.detail & zap::CALL;
                Self::Zap {
                    call: (number != zap::NO_CALL).then_some(number),
                    dying: look.detail & zap::DYING != 0 || is_oom_reaper(look),
                    perhaps: look.detail & zap::PERHAPS != 0,
                }
            }
            how::UNMAP_ONE => Self::Unmap(match look.detail {
                memory::FILE => Memory::File,
                memory::ANONYMOUS => Memory::Anonymous,
                memory::COLLAPSING => Memory::Collapsing,
                memory::FORCED => Memory::Forced,
                memory::FREED => Memory::Freed,
                _ => Memory::Any,
            }),
            how::FILL => Self::Fill,
            how::REMAP => Self::Leave {
                on: (look.other >> PAGE_SHIFT).wrapping_sub(look.va >> PAGE_SHIFT),
            },
            how::KSM_MERGE => Self::Merge,
            how::KSM_BREAK => Self::Break,
            how::COLLAPSE => Self::Collapse {
                there: look.len <= v2p_common::control::BLOCK_BYTES
                    && look.detail & collapse::PERHAPS == 0,
            },
            _ => return None,
        })
    }

    /// Whether entries were taken out by the exec of another program.
    pub(super) const fn is_by_exec(self) -> bool {
        matches!(
            self,
            Self::Zap {
                call: Some(call::EXECVE | call::EXECVEAT),
                ..
            }
        )
    }

    /// Whether it was done to all of its pages.
    pub(super) const fn is_sure(self) -> bool {
        !matches!(self, Self::Zap { perhaps: true, .. })
    }

    /// The cause that this deed gives to a change; `None`: it does not explain it. `page` is the page's number;
    /// `merged`: it was a page of KSM.
    pub(super) fn cause(
        self,
        page: u64,
        from: PageState,
        to: PageState,
        merged: bool,
    ) -> Option<Cause> {
        use PageState::{Absent, Guard, Poisoned, Present, Swapped, Zero};
        match (self, from, to) {
            (_, from, to) if from == to => None,
            // MADV_GUARD_INSTALL takes what is there, and leaves its marks.
            (Self::Zap { call, dying, .. }, _, Absent | Guard) => Some(zapped(call, dying)),
            (Self::Unmap(_), _, Swapped { .. }) => Some(Cause::SwapOut),
            (Self::Unmap(_), _, Poisoned) => Some(Cause::Poison),
            (Self::Unmap(Memory::Freed), _, Absent) => Some(Cause::Discard),
            (Self::Unmap(Memory::File), _, Absent) => Some(Cause::Reclaim),
            (Self::Unmap(Memory::Collapsing), _, Absent) => Some(Cause::Collapse),
            (Self::Unmap(Memory::Forced), _, Absent) => Some(Cause::Unknown),
            (Self::Fill, _, _) => filled(from, to, merged),
            (Self::Leave { .. }, _, Absent) => Some(Cause::Remap),
            // Also where something else lay there before (MREMAP_FIXED).
            (Self::Arrive, Absent, _) | (Self::Arrive, Present { .. }, Present { .. }) => {
                Some(Cause::Remap)
            }
            (Self::Merge, Present { .. }, Present { .. } | Zero) => Some(Cause::KsmMerge),
            (Self::Break, Present { .. } | Zero, Present { .. }) => Some(Cause::KsmBreak),
            (Self::Collapse { there }, _, Present { pfn }) => {
                // Somewhere in the address space: a page inside a huge one lies as deep in 2 MiB of memory as in
                // 2 MiB of addresses.
                (there || pfn.0 % 512 == page % 512).then_some(Cause::Collapse)
            }
            (Self::Exec, Absent, _) => Some(Cause::Exec),
            _ => None,
        }
    }

    /// Why page `page` went, if it did; what goes to swap may be anything by now.
    pub(super) fn removes(self, page: u64, from: PageState, merged: bool) -> Option<Cause> {
        match (self, from) {
            (Self::Unmap(Memory::Anonymous), PageState::Present { .. }) => Some(Cause::SwapOut),
            _ => self.cause(page, from, PageState::Absent, merged),
        }
    }
}

/// It takes the pages of a process that is to die, and still lives (oom_reaper, mm/oom_kill.c, 6.1 to 7.3). It is a kernel thread: what is
/// in a system call has but its name.
fn is_oom_reaper(look: &Look) -> bool {
    look.detail & zap::CALL == zap::NO_CALL && look.header.comm.starts_with(b"oom_reaper\0")
}

fn zapped(number: Option<u64>, dying: bool) -> Cause {
    match number {
        Some(call::EXECVE | call::EXECVEAT) => Cause::Exec,
        _ if dying => Cause::Exit,
        Some(call::MMAP | call::MUNMAP | call::BRK | call::MREMAP | call::SHMAT | call::SHMDT) => {
            Cause::Unmap
        }
        // The ring is unmapped (kill_ioctx, fs/aio.c, 6.1 to 7.3), and what lay there is mapped over (mm/mmap.c, 6.1 to 7.3).
        Some(call::IO_DESTROY | call::REMAP_FILE_PAGES) => Cause::Unmap,
        Some(call::PROCESS_MRELEASE) => Cause::Exit,
        // A kernel thread (a network file system that drops a page, a driver), or a call of the 32-bit table.
        None => Cause::Unknown,
        // madvise and its like, truncation, hole punching.
        Some(_) => Cause::Discard,
    }
}

/// What it means that a page is now there because somebody needed it: the owner by a fault, or another.
/// `None`: that alone does not explain it.
pub(super) fn filled(from: PageState, to: PageState, merged: bool) -> Option<Cause> {
    use PageState::{Absent, Device, Guard, Present, Swapped, Zero};
    match (from, to) {
        // A guard's mark goes without a word.
        (Absent | Guard, Present { .. } | Zero | Device { .. }) => Some(Cause::FirstTouch),
        (Zero, Present { .. }) if merged => Some(Cause::KsmBreak),
        (Zero, Present { .. }) => Some(Cause::ZeroFill),
        (Swapped { .. }, Present { .. } | Zero) => Some(Cause::SwapIn),
        (Present { .. }, Present { .. }) if merged => Some(Cause::KsmBreak),
        (Present { .. }, Present { .. }) => Some(Cause::Cow),
        _ => None,
    }
}

/// What two readings of the tables alone tell, with nothing in between seen. `mapped`: whether there still is a
/// mapping at that address.
pub(super) fn deduced(from: PageState, to: PageState, mapped: bool) -> Cause {
    use PageState::{Absent, Device, Poisoned, Present, Swapped, Zero};
    match (from, to) {
        (_, Absent) if !mapped => Cause::Unmap,
        (Absent, Present { .. } | Zero | Device { .. }) => Cause::FirstTouch,
        (Zero, Present { .. }) => Cause::ZeroFill,
        (Present { .. }, Swapped { .. }) => Cause::SwapOut,
        (Swapped { .. }, Present { .. }) => Cause::SwapIn,
        (_, Poisoned) => Cause::Poison,
        _ => Cause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v2p_common::Pfn;

    const A: PageState = PageState::Present { pfn: Pfn(7) };
    const B: PageState = PageState::Present { pfn: Pfn(9) };
    const SWAPPED: PageState = PageState::Swapped { swap: None };
    use PageState::{Absent, Poisoned, Zero};

    #[test]
    fn a_deed_and_what_came_of_it_give_the_cause() {
        let anonymous = Deed::Unmap(Memory::Anonymous);
        let file = Deed::Unmap(Memory::File);
        let zap_of = |call, dying| Deed::Zap {
            call,
            dying,
            perhaps: false,
        };
        let (zap, end) = (|call| zap_of(call, false), |call| zap_of(call, true));
        for (deed, from, to, cause) in [
            (zap(Some(call::MUNMAP)), A, Absent, Some(Cause::Unmap)),
            (zap(Some(207)), A, Absent, Some(Cause::Unmap)),
            (zap(Some(216)), A, Absent, Some(Cause::Unmap)),
            (zap(Some(28)), A, Absent, Some(Cause::Discard)),
            (zap(Some(77)), A, Absent, Some(Cause::Discard)),
            (zap(None), A, Absent, Some(Cause::Unknown)),
            (zap(Some(28)), A, B, None),
            (end(Some(231)), A, Absent, Some(Cause::Exit)),
            (end(Some(59)), A, Absent, Some(Cause::Exec)),
            (
                Deed::Unmap(Memory::Collapsing),
                A,
                Absent,
                Some(Cause::Collapse),
            ),
            (Deed::Unmap(Memory::Any), A, Absent, None),
            (anonymous, A, SWAPPED, Some(Cause::SwapOut)),
            (anonymous, A, Absent, None),
            (Deed::Unmap(Memory::Freed), A, Absent, Some(Cause::Discard)),
            (file, A, Absent, Some(Cause::Reclaim)),
            (file, A, A, None),
            (anonymous, A, Poisoned, Some(Cause::Poison)),
            (Deed::Fill, Absent, A, Some(Cause::FirstTouch)),
            (Deed::Fill, Zero, A, Some(Cause::ZeroFill)),
            (Deed::Fill, SWAPPED, A, Some(Cause::SwapIn)),
            (Deed::Fill, A, B, Some(Cause::Cow)),
            (Deed::Fill, A, Absent, None),
            (Deed::Merge, A, B, Some(Cause::KsmMerge)),
            (Deed::Merge, A, Zero, Some(Cause::KsmMerge)),
            (Deed::Merge, A, Absent, None),
            (Deed::Break, A, B, Some(Cause::KsmBreak)),
            (Deed::Exec, Absent, A, Some(Cause::Exec)),
        ] {
            assert_eq!(
                deed.cause(0, from, to, false),
                cause,
                "{deed:?} {from:?} {to:?}"
            );
        }
        assert_eq!(Deed::Fill.cause(0, A, B, true), Some(Cause::KsmBreak));
    }

    #[test]
    fn a_collapse_somewhere_explains_only_pages_that_lie_in_a_huge_one() {
        let huge = PageState::Present {
            pfn: Pfn(512 * 9 + 5),
        };
        let somewhere = Deed::Collapse { there: false };
        assert_eq!(
            somewhere.cause(512 + 5, A, huge, false),
            Some(Cause::Collapse)
        );
        assert_eq!(somewhere.cause(512 + 6, A, huge, false), None);
        assert_eq!(
            Deed::Collapse { there: true }.cause(512 + 6, Absent, huge, false),
            Some(Cause::Collapse)
        );
    }

    #[test]
    fn two_readings_alone_tell_little_and_say_so() {
        assert_eq!(deduced(A, B, true), Cause::Unknown);
        assert_eq!(deduced(A, Absent, true), Cause::Unknown);
        assert_eq!(deduced(A, Absent, false), Cause::Unmap);
        assert_eq!(deduced(A, SWAPPED, true), Cause::SwapOut);
        assert_eq!(deduced(Absent, A, true), Cause::FirstTouch);
    }
}
