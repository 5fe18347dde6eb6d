//! The bytes on their way: in memory that is resident and stays so. Where the kernel faults on them it fills the rest of the
//! *target* with zeros (copy_from_user, include/linux/uaccess.h, 6.1 to 7.3).

use anyhow::{Context as _, Result};
use v2p_common::VirtAddr;

use crate::page::PAGE_LEN;

/// Room for a page of them.
pub(super) struct Source {
    room: Vec<u8>,
    len: usize,
}

impl Source {
    pub(super) fn new() -> Result<Self> {
        let room = locked_copy(&[0; PAGE_LEN])?;
        Ok(Self { room, len: 0 })
    }

    /// Takes a copy of `bytes`, at most a page.
    pub(super) fn hold(&mut self, bytes: &[u8]) -> Result<()> {
        let place = self.room.get_mut(..bytes.len());
        place.context("more than a page")?.copy_from_slice(bytes);
        self.len = bytes.len();
        Ok(())
    }

    /// Where it lies: a page that is resident.
    pub(super) fn address(&self) -> VirtAddr {
        VirtAddr(self.room.as_ptr() as u64)
    }

    /// The copy.
    pub(super) fn held(&self) -> &[u8] {
        self.room.get(..self.len).unwrap_or_default()
    }
}

/// A copy of `bytes` that is resident and stays so.
pub(super) fn locked_copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let copy = bytes.to_vec();
    // SAFETY: the range is the vector's own allocation. It stays locked when the vector goes:
    // a page of the heap more that is resident.
    unsafe { rustix::mm::mlock(copy.as_ptr().cast_mut().cast(), copy.len()) }
        .context("mlock of the source buffer")?;
    Ok(copy)
}
