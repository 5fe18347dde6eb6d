//! Memory that the programs and we both see.

use std::{
    ops::Deref,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags};
use v2p_common::control::{Control, Table};

use super::TABLES;
use crate::page::PAGE_LEN;

/// Memory of a map, in our own address space.
pub(super) struct Mapping {
    place: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// `len` bytes from `offset` on, both whole pages.
    pub(super) fn of(
        map: BorrowedFd<'_>,
        len: usize,
        offset: usize,
        access: ProtFlags,
    ) -> Result<Self> {
        let (any, shared) = (std::ptr::null_mut(), MapFlags::SHARED);
        // SAFETY: a new mapping touches nothing that exists.
        let place = unsafe { rustix::mm::mmap(any, len, access, shared, map, offset as u64) }?;
        let place = NonNull::new(place.cast()).context("mmap gave address 0")?;
        Ok(Self { place, len })
    }

    /// Where byte `offset` lies.
    ///
    /// # Safety
    /// It lies inside the mapping.
    pub(super) const unsafe fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: the caller's word.
        unsafe { self.place.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it outlives self.
        let _ = unsafe { rustix::mm::munmap(self.place.as_ptr().cast(), self.len) };
    }
}

/// The values of a memory-mapped array map.
pub(super) struct MappedArray {
    memory: Mapping,
    /// Keeps the map alive.
    _map: MapData,
}

impl MappedArray {
    /// `len`: bytes of all values.
    pub(super) fn new(map: MapData, len: usize) -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let len = len.next_multiple_of(PAGE_LEN);
        Ok(Self {
            memory: Mapping::of(map.fd().as_fd(), len, 0, access)?,
            _map: map,
        })
    }

    /// Where the first value lies.
    pub(super) const fn start(&self) -> NonNull<u8> {
        self.memory.place
    }
}

/// The block shared with the programs.
pub struct SharedControl(pub(super) MappedArray);

impl Deref for SharedControl {
    type Target = Control;

    fn deref(&self) -> &Control {
        // SAFETY: mapped until drop, and as long as a Control; every field is a `Word`, which others may
        // write at any time.
        unsafe { self.0.start().cast().as_ref() }
    }
}

/// Page tables that the carrier copied.
pub struct SharedTables(pub(super) MappedArray);

impl SharedTables {
    /// The table of block `index` of the last request; `None` beyond [`TABLES`]. Not to be read while a request is
    /// under way.
    pub fn get(&self, index: usize) -> Option<&Table> {
        // SAFETY: `index` is inside the mapping. The program writes only inside a system call of this thread.
        (index < TABLES).then(|| unsafe { self.0.start().cast::<Table>().add(index).as_ref() })
    }
}
