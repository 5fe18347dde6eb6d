//! The event ring, as user space reads it.
//!
//! Not by aya's reader: that tells the kernel of each record that it is done with it, and so takes the position from under
//! the program that emits the next, each time.

use std::{
    os::fd::{AsFd as _, AsRawFd, RawFd},
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{Map, MapData};
use rustix::mm::ProtFlags;
use tokio::io::unix::AsyncFd;

use super::{RING_BYTES, shared::Mapping};
use crate::page::PAGE_LEN;

/// include/uapi/linux/bpf.h: the header of a record is its length, with two flags, and a word of the kernel's own.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const HEADER: usize = 8;

/// The kernel is told after so many bytes that they are free again.
const TELL_AFTER: usize = 1 << 16;

/// The event ring.
pub struct Ring(AsyncFd<Reader>);

impl Ring {
    /// Of the map `EVENTS`.
    ///
    /// # Errors
    /// Outside a tokio runtime.
    pub(super) fn new(map: Map) -> Result<Self> {
        let Map::RingBuf(map) = map else {
            bail!("the event ring is no ring");
        };
        // SAFETY: the map's descriptor is open as long as the reader, and always the same.
        let ring = unsafe { AsyncFd::register(Reader::new(map).context("the event ring")?) };
        Ok(Self(ring.map_err(|e| {
            anyhow!("the event ring cannot be polled: {e}")
        })?))
    }

    /// Hands every record that is there to `each`, which gets its bytes.
    ///
    /// # Errors
    /// The first that `each` makes; that record counts as read, those after it stay in the ring.
    pub fn drain(&mut self, each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.0.get_mut().drain(each)
    }

    /// Waits until there may be records.
    ///
    /// # Errors
    /// Where the ring cannot be polled.
    pub async fn readable(&mut self) -> Result<()> {
        let mut ready = self.0.readable_mut().await.context("the event ring")?;
        ready.clear_ready();
        Ok(())
    }
}

/// The ring's memory (kernel/bpf/ringbuf.c, 6.1 to 7.3): a page with the position up to which we have read, which is ours to
/// write; one with that up to which there are records; and the data, mapped twice in a row so that no record is cut.
struct Reader {
    consumer: Mapping,
    producer: Mapping,
    /// Up to where records were read.
    read: usize,
    map: MapData,
}

impl Reader {
    fn new(map: MapData) -> Result<Self> {
        let fd = map.fd().as_fd();
        let consumer = Mapping::of(fd, PAGE_LEN, 0, ProtFlags::READ | ProtFlags::WRITE)?;
        let len = PAGE_LEN + 2 * RING_BYTES as usize;
        let producer = Mapping::of(fd, len, PAGE_LEN, ProtFlags::READ)?;
        let mut reader = Self {
            consumer,
            producer,
            read: 0,
            map,
        };
        reader.read = reader.position().load(Ordering::Acquire);
        Ok(reader)
    }

    /// Up to where we have read, as the kernel sees it.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: the first word of a page that is mapped as long as self, which nobody else writes.
        unsafe { self.consumer.at(0).cast().as_ref() }
    }

    /// Up to where there are records.
    fn end(&self) -> usize {
        // SAFETY: the first word of a page that is mapped as long as self; the kernel writes it whole.
        let end: &AtomicUsize = unsafe { self.producer.at(0).cast().as_ref() };
        end.load(Ordering::Acquire)
    }

    fn drain(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut told, mut end) = (self.read, self.end());
        let mut done = Ok(());
        while done.is_ok() {
            if self.read == end {
                end = self.end();
                if self.read == end {
                    break;
                }
            }
            let offset = PAGE_LEN + (self.read & (RING_BYTES as usize - 1));
            // SAFETY: a record starts at `offset`, in the first of the two mappings of the data; its header is aligned.
            let header: &AtomicU32 = unsafe { self.producer.at(offset).cast().as_ref() };
            let header = header.load(Ordering::Acquire);
            if header & BUSY != 0 {
                break;
            }
            let len = (header & !DISCARDED) as usize;
            if len > RING_BYTES as usize - HEADER {
                bail!("the event ring: a record of {len} bytes");
            }
            if header & DISCARDED == 0 {
                // SAFETY: a record that is no longer busy is not written until the position is past it, and it is no longer
                // than the ring, which is mapped twice.
                let bytes = unsafe {
                    let start = self.producer.at(offset + HEADER);
                    std::slice::from_raw_parts(start.as_ptr(), len)
                };
                done = each(bytes);
            }
            self.read = self.read.wrapping_add((HEADER + len).next_multiple_of(8));
            if self.read.wrapping_sub(told) >= TELL_AFTER {
                told = self.read;
                self.position().store(told, Ordering::Release);
            }
        }
        self.position().store(self.read, Ordering::Release);
        done
    }
}

impl AsRawFd for Reader {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}
