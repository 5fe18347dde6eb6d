//! A page of our own: locked, written, and told apart by random bytes.

use std::{ptr, sync::OnceLock};

use anyhow::{Context as _, Result};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use v2p_common::{
    PAGE_SHIFT, PageSize, Pfn, VirtAddr, control::PHYSICAL_BYTES, pagemap::PagemapWord,
};

use crate::process::{self, FrameFlags, Pagemap};

/// Bytes in a page, as a length in memory.
pub const PAGE_LEN: usize = 1 << PAGE_SHIFT;
/// Where the nonce lies in its page.
const NONCE_OFFSET: usize = PAGE_LEN / 2;

/// One anonymous private page.
pub struct OwnPage {
    start: ptr::NonNull<u8>,
}

/// Random bytes in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonce {
    /// Where they start, in bytes from the start of the page.
    pub offset: u64,
    /// The bytes.
    pub bytes: [u8; PHYSICAL_BYTES],
}

/// The frames of zeros that all processes share, as far as they are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZeroFrames {
    /// That of a base page.
    pub page: Option<Pfn>,
    /// The first of a huge page of 2 MiB.
    pub huge: Option<Pfn>,
}

impl ZeroFrames {
    /// None is known: each is a frame like any other.
    pub const UNKNOWN: Self = Self {
        page: None,
        huge: None,
    };

    /// Those that our own pagemap tells.
    ///
    /// # Errors
    /// Where memory cannot be mapped, or our own pagemap not be read.
    pub fn learn() -> Result<Self> {
        Ok(Self {
            page: zero_pfn()?,
            huge: huge_zero_pfn_by(own_pfn)?,
        })
    }

    /// Whether `pfn` is one of them.
    pub fn has(self, pfn: Pfn) -> bool {
        let in_huge = |Pfn(first)| (first..first + PageSize::Pmd.pages()).contains(&pfn.0);
        self.page == Some(pfn) || self.huge.is_some_and(in_huge)
    }
}

impl OwnPage {
    /// Maps a page, locks it and writes to it, in this order: a page that was only read would be
    /// the shared zero page, and moved by the first write.
    ///
    /// # Errors
    /// Where the mapping or the lock is refused (RLIMIT_MEMLOCK).
    pub fn new() -> Result<Self> {
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                PAGE_LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .context("mmap of a page")?;
        let page = Self::adopt(start)?;
        page.write(0, &[0; PAGE_LEN]);
        Ok(page)
    }

    /// Makes a page of a mapping of one page that nothing else refers to, and locks it.
    ///
    /// # Errors
    /// Where the lock is refused (RLIMIT_MEMLOCK).
    pub(crate) fn adopt(start: *mut std::ffi::c_void) -> Result<Self> {
        let page = Self {
            start: ptr::NonNull::new(start.cast()).context("a page at address 0")?,
        };
        // SAFETY: the page is mapped, and stays so until drop.
        unsafe { rustix::mm::mlock(start, PAGE_LEN) }.context("mlock of a page")?;
        Ok(page)
    }

    /// Lets nobody write to it any more.
    ///
    /// # Errors
    /// Those of mprotect(2).
    pub(crate) fn protect(&self) -> Result<()> {
        let (start, access) = (self.start.as_ptr().cast(), MprotectFlags::READ);
        // SAFETY: our own page, of which nothing holds a reference that writes.
        unsafe { rustix::mm::mprotect(start, PAGE_LEN, access) }.context("mprotect of a page")
    }

    /// Gives the mapping up to the caller, who is to unmap it.
    pub fn into_raw(self) -> *mut std::ffi::c_void {
        std::mem::ManuallyDrop::new(self).start.as_ptr().cast()
    }

    /// The address of its first byte.
    pub fn va(&self) -> VirtAddr {
        VirtAddr(self.start.as_ptr() as u64)
    }

    /// Writes `bytes` at `offset`; what would lie beyond the page is left out.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let room = PAGE_LEN.saturating_sub(offset);
        for (i, byte) in bytes.iter().take(room).enumerate() {
            // SAFETY: offset + i < PAGE_LEN, inside our mapping. Volatile: the page is also
            // read and written behind the compiler's back.
            unsafe { self.start.as_ptr().add(offset + i).write_volatile(*byte) };
        }
    }

    /// Reads `len` bytes at `offset` through the virtual address, at most to the page's end.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let end = offset.saturating_add(len).min(PAGE_LEN);
        (offset..end)
            // SAFETY: i < PAGE_LEN, inside our mapping; volatile as in `write`.
            .map(|i| unsafe { self.start.as_ptr().add(i).read_volatile() })
            .collect()
    }

    /// Puts fresh random bytes into the page.
    ///
    /// # Errors
    /// Where the kernel gives no random bytes.
    pub fn put_nonce(&self) -> Result<Nonce> {
        let mut bytes = [0; PHYSICAL_BYTES];
        let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .context("getrandom")?;
        anyhow::ensure!(n == bytes.len(), "getrandom gave {n} bytes");
        self.write(NONCE_OFFSET, &bytes);
        Ok(Nonce {
            offset: NONCE_OFFSET as u64,
            bytes,
        })
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left. A failure leaves it mapped.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), PAGE_LEN) };
    }
}

/// The frame of the shared zero page: what a read of an untouched anonymous page maps. `None` where we may not
/// see it.
///
/// # Errors
/// Where a page cannot be mapped, or our own pagemap not be read.
pub fn zero_pfn() -> Result<Option<Pfn>> {
    zero_pfn_by(own_pfn)
}

/// The same, as `ask` tells the frame of a page of ours.
///
/// # Errors
/// Where a page cannot be mapped, and those of `ask`.
pub fn zero_pfn_by(ask: impl FnOnce(VirtAddr) -> Result<Option<Pfn>>) -> Result<Option<Pfn>> {
    with_untouched(PAGE_LEN, |start| {
        touch(start);
        ask(VirtAddr(start as u64))
    })
}

/// The first frame of the shared huge page of zeros, as `ask` tells the frames of pages of ours: what reads of two untouched huge pages map both. `None` where
/// there is none for us, or we may not see it. It stays the same one as long as we live (mm_get_huge_zero_folio, mm/huge_memory.c, 6.1 to 7.3).
///
/// # Errors
/// Where memory cannot be mapped, and those of `ask`.
pub fn huge_zero_pfn_by(
    mut ask: impl FnMut(VirtAddr) -> Result<Option<Pfn>>,
) -> Result<Option<Pfn>> {
    const HUGE: usize = PAGE_LEN << 9;
    with_untouched(3 * HUGE, |start| {
        let first = start.wrapping_add(start.align_offset(HUGE));
        let second = first.wrapping_add(HUGE);
        // SAFETY: two huge pages inside of what is mapped. Where the kernel gives none, a small page comes.
        let _ = unsafe { rustix::mm::madvise(first.cast(), 2 * HUGE, Advice::LinuxHugepage) };
        touch(first);
        touch(second);
        let Some(pfn) = ask(VirtAddr(first as u64))? else {
            return Ok(None);
        };
        // Of small pages this one was not touched.
        let next = VirtAddr(second.wrapping_add(PAGE_LEN) as u64);
        let is_it =
            ask(VirtAddr(second as u64))? == Some(pfn) && ask(next)? == Some(Pfn(pfn.0 + 1));
        Ok(is_it.then_some(pfn))
    })
}

/// By our own pagemap.
fn own_pfn(va: VirtAddr) -> Result<Option<Pfn>> {
    Ok(Pagemap::of_self()?.word(va)?.and_then(PagemapWord::pfn))
}

/// Whether KSM's flag in /proc/kpageflags means what it says: 6.12 sets it for every anonymous page (fs/proc/page.c, a mask
/// tested for one bit of two). A page of our own that nobody has asked KSM to look at shows it.
pub fn ksm_flag_tells() -> bool {
    static TELLS: OnceLock<bool> = OnceLock::new();
    let flags = || {
        let page = OwnPage::new().ok()?;
        let word = Pagemap::of_self().ok()?.word(page.va()).ok()??;
        process::frame_flags(word.pfn()?).ok()
    };
    *TELLS.get_or_init(|| flags().is_some_and(|flags| !flags.has(FrameFlags::KSM)))
}

/// What /proc/kpageflags says, without what it says of every anonymous page.
#[must_use]
pub fn believed(flags: FrameFlags) -> FrameFlags {
    match flags.has(FrameFlags::KSM) && !ksm_flag_tells() {
        true => FrameFlags(flags.0 & !FrameFlags::KSM.0),
        false => flags,
    }
}

/// Reads the byte at `place`, which is mapped.
fn touch(place: *const u8) {
    // SAFETY: as said. Volatile: the read itself is what is wanted.
    let _ = unsafe { place.read_volatile() };
}

/// Hands memory of ours that was never touched to `look`, and gives it back.
fn with_untouched<T>(len: usize, look: impl FnOnce(*mut u8) -> Result<T>) -> Result<T> {
    let (access, flags) = (ProtFlags::READ, MapFlags::PRIVATE);
    // SAFETY: a new anonymous mapping touches nothing that exists.
    let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, access, flags) };
    let start = start.context("mmap of some memory")?;
    let seen = look(start.cast());
    // SAFETY: our own mapping, to which nothing refers.
    let _ = unsafe { rustix::mm::munmap(start, len) };
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_beyond_the_page() {
        let page = OwnPage::new().unwrap();
        page.write(PAGE_LEN - 2, b"abc");
        assert_eq!(page.read(PAGE_LEN - 2, 9), b"ab");
        assert_eq!(page.va().page_offset(), 0);
    }

    #[test]
    fn two_nonces_differ() {
        let page = OwnPage::new().unwrap();
        let first = page.put_nonce().unwrap();
        assert_eq!(page.read(PAGE_LEN / 2, PHYSICAL_BYTES), first.bytes);
        assert_ne!(page.put_nonce().unwrap(), first);
    }
}
