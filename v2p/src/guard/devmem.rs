//! /dev/mem by pread and pwrite, and nothing else: on x86 mmap of RAM gives EINVAL even where
//! reading and writing work (arch/x86/mm/pat/memtype.c, 6.1 and 6.12). What writes is visible in the guard alone.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    ptr,
};

use rustix::mm::{MapFlags, ProtFlags};
use v2p_common::{PAGE_SIZE, PhysAddr};

use crate::{
    kernel::node::{DEVMEM, what_else},
    page::PAGE_LEN,
};

/// An open /dev/mem.
pub struct DevMem(File);

impl DevMem {
    /// Opens it for reading.
    ///
    /// # Errors
    /// Those of open(2), which [`crate::doctor::explain`] tells the reason of; and where something else than the memory device
    /// lies there.
    pub fn open() -> io::Result<Self> {
        Self::open_with(OpenOptions::new().read(true))
    }

    /// Opens it for reading and writing. [`crate::guard`] alone can do so: a wrong write can panic
    /// the kernel.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn open_for_writing() -> io::Result<Self> {
        Self::open_with(OpenOptions::new().read(true).write(true))
    }

    fn open_with(options: &OpenOptions) -> io::Result<Self> {
        // Looked at before it is opened, which does things to some devices; and after, since it may have changed.
        is_devmem(&fs::metadata(DEVMEM)?)?;
        let file = options.open(DEVMEM)?;
        is_devmem(&file.metadata()?)?;
        Ok(Self(file))
    }

    /// Reads `buffer.len()` bytes at `pa`; they must lie in one page.
    ///
    /// # Errors
    /// Those of pread(2), or UnexpectedEof for a short read.
    pub fn read(&self, pa: PhysAddr, buffer: &mut [u8]) -> io::Result<()> {
        in_one_page(pa, buffer.len())?;
        self.0.read_exact_at(buffer, pa.0)
    }

    /// Writes `bytes` at `pa` by one pwrite, and gives how many the kernel says it took; they must lie in one page. `bytes` must
    /// be resident: where the kernel faults on them it fills the rest of the *target* with zeros
    /// (copy_from_user, include/linux/uaccess.h).
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub(super) fn write(&self, pa: PhysAddr, bytes: &[u8]) -> io::Result<usize> {
        in_one_page(pa, bytes.len())?;
        self.0.write_at(bytes, pa.0)
    }

    /// Whether the page at `pa` can be mapped for reading. It is unmapped again without having been touched: reading
    /// a device's registers may change its state.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn try_mmap(&self, pa: PhysAddr) -> io::Result<()> {
        let page = pa.0 & !(PAGE_SIZE - 1);
        // SAFETY: a new mapping touches nothing that exists.
        let place = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                PAGE_LEN,
                ProtFlags::READ,
                MapFlags::SHARED,
                self.0.as_fd(),
                page,
            )
        }?;
        // SAFETY: our own mapping, to which nothing refers.
        unsafe { rustix::mm::munmap(place, PAGE_LEN) }?;
        Ok(())
    }
}

fn is_devmem(metadata: &Metadata) -> io::Result<()> {
    match what_else(metadata) {
        None => Ok(()),
        Some(other) => Err(io::Error::new(io::ErrorKind::InvalidInput, other)),
    }
}

/// One call must not cross a page: write_mem() reports a refused later page as if nothing of the
/// earlier ones had been written (drivers/char/mem.c, 6.1 to 7.3).
fn in_one_page(pa: PhysAddr, len: usize) -> io::Result<()> {
    let offset = pa.0 % PAGE_SIZE;
    if offset + len as u64 <= PAGE_SIZE {
        return Ok(());
    }
    let what = format!("{len} bytes at {:#x} cross a page", pa.0);
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_crosses_a_page_is_refused() {
        assert!(in_one_page(PhysAddr(0x1ff0), 16).is_ok());
        assert!(in_one_page(PhysAddr(0x1ff0), 17).is_err());
    }
}
