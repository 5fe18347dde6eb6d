//! Memory that the programs and we both see.

use std::{ops::Deref, os::fd::AsFd as _, ptr::NonNull};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags};
use v2p_common::control::{Control, Table};

use super::TABLES;
use crate::page::PAGE_LEN;

/// The values of a memory-mapped array map, in our own memory.
pub(super) struct MappedArray {
    place: NonNull<u8>,
    len: usize,
    /// Keeps the map alive.
    _map: MapData,
}

impl MappedArray {
    /// `len`: bytes of all values.
    pub(super) fn new(map: MapData, len: usize) -> Result<Self> {
        let len = len.next_multiple_of(PAGE_LEN);
        // SAFETY: a new mapping touches nothing that exists.
        let place = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd().as_fd(),
                0,
            )
        }?;
        let place = NonNull::new(place.cast()).context("mmap gave address 0")?;
        Ok(Self {
            place,
            len,
            _map: map,
        })
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it outlives self.
        let _ = unsafe { rustix::mm::munmap(self.place.as_ptr().cast(), self.len) };
    }
}

/// The block shared with the programs.
pub struct SharedControl(pub(super) MappedArray);

impl Deref for SharedControl {
    type Target = Control;

    fn deref(&self) -> &Control {
        // SAFETY: mapped until drop, and as long as a Control; every field is a `Word`, which others may
        // write at any time.
        unsafe { self.0.place.cast().as_ref() }
    }
}

/// Page tables that the carrier copied.
pub struct SharedTables(pub(super) MappedArray);

impl SharedTables {
    /// The table of block `index` of the last request; `None` beyond [`TABLES`]. Not to be read while a request is
    /// under way.
    pub fn get(&self, index: usize) -> Option<&Table> {
        // SAFETY: `index` is inside the mapping. The program writes only inside a system call of this thread.
        (index < TABLES).then(|| unsafe { self.0.place.cast::<Table>().add(index).as_ref() })
    }
}
