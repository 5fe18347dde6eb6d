//! /dev/mem by pread and pwrite, and nothing else: on x86 mmap of RAM gives EINVAL even where
//! reading and writing work (arch/x86/mm/pat/memtype.c, 6.1 and 6.12).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
};

use v2p_common::{PAGE_SIZE, PhysAddr};

/// The path.
pub const PATH: &str = "/dev/mem";

/// An open /dev/mem.
pub struct DevMem(File);

impl DevMem {
    /// Opens it for reading and writing. [`crate::guard`] alone may do so: a wrong write can panic
    /// the kernel.
    ///
    /// # Errors
    /// Those of open(2); [`crate::doctor::devmem`] explains them.
    pub(crate) fn open_for_writing() -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(PATH)
            .map(Self)
    }

    /// Reads `buffer.len()` bytes at `pa`; they must lie in one page.
    ///
    /// # Errors
    /// Those of pread(2), or UnexpectedEof for a short read.
    pub fn read(&self, pa: PhysAddr, buffer: &mut [u8]) -> io::Result<()> {
        in_one_page(pa, buffer.len())?;
        self.0.read_exact_at(buffer, pa.0)
    }

    /// Writes all of `bytes` at `pa` by one pwrite; they must lie in one page. `bytes` must be resident: where
    /// the kernel faults on them it fills the rest of the *target* with zeros
    /// (copy_from_user, include/linux/uaccess.h).
    ///
    /// # Errors
    /// Those of pwrite(2); WriteZero names how many bytes went out where it is not all.
    pub(crate) fn write(&self, pa: PhysAddr, bytes: &[u8]) -> io::Result<()> {
        in_one_page(pa, bytes.len())?;
        let n = self.0.write_at(bytes, pa.0)?;
        if n == bytes.len() {
            return Ok(());
        }
        let what = format!("only {n} of {} bytes were written", bytes.len());
        Err(io::Error::new(io::ErrorKind::WriteZero, what))
    }
}

/// One call must not cross a page: write_mem() reports a refused later page as if nothing of the
/// earlier ones had been written (drivers/char/mem.c, 6.1 to 7.3).
fn in_one_page(pa: PhysAddr, len: usize) -> io::Result<()> {
    let offset = pa.0 % PAGE_SIZE;
    if offset + len as u64 <= PAGE_SIZE {
        return Ok(());
    }
    let what = format!("{len} bytes at {pa:#x?} cross a page");
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
