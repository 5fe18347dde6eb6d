//! The event ring, as user space reads it.

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Map, MapData, RingBuf};
use tokio::io::unix::AsyncFd;

/// The event ring.
pub struct Ring(AsyncFd<RingBuf<MapData>>);

impl Ring {
    /// Of the map `EVENTS`.
    ///
    /// # Errors
    /// Outside a tokio runtime.
    pub(super) fn new(map: Map) -> Result<Self> {
        let ring = RingBuf::try_from(map).context("the event ring")?;
        // SAFETY: the map's descriptor is open as long as the ring, and always the same.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Self(ring.map_err(|e| {
            anyhow!("the event ring cannot be polled: {e}")
        })?))
    }

    /// Hands every record that is there to `each`, which gets its bytes.
    ///
    /// # Errors
    /// The first that `each` makes; records after it stay in the ring.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while let Some(record) = self.0.get_mut().next() {
            each(&record)?;
        }
        Ok(())
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
