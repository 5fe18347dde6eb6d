//! Ring bytes, turned back into events.

use super::{AROUND, Around, Event, Exec, Fork, Header, Look, Migration, Number, kind};

/// Bytes that are no event: another version's object, or memory gone wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadEvent {
    /// The kind they claim, where there were enough bytes for one.
    pub kind: Option<u32>,
    /// How many bytes there were.
    pub len: usize,
}

impl core::fmt::Display for BadEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.kind {
            Some(kind) => write!(f, "event of kind {kind} with {} bytes", self.len),
            None => write!(f, "event of {} bytes", self.len),
        }
    }
}

impl core::error::Error for BadEvent {}

/// Reads native-endian integers off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }
    fn header(&mut self) -> Option<Header> {
        Some(Header {
            kind: self.u32()?,
            len: self.u32()?,
            seq: self.u64()?,
            t_ns: self.u64()?,
            tid: self.u32()?,
            tgid: self.u32()?,
            comm: self.take()?,
            mm: self.u64()?,
        })
    }
    fn migration(&mut self, header: Header) -> Option<Migration> {
        Some(Migration {
            header,
            va: self.u64()?,
            entry: self.u64()?,
            level: self.u32()?,
            reserved: self.u32()?,
        })
    }
    fn around(&mut self, header: Header) -> Option<Around> {
        let va = self.u64()?;
        let mut entries = [0; AROUND];
        for entry in &mut entries {
            *entry = self.u64()?;
        }
        Some(Around {
            header,
            va,
            entries,
        })
    }
    fn number(&mut self, header: Header) -> Option<Number> {
        Some(Number {
            header,
            number: self.u64()?,
        })
    }
    fn exec(&mut self, header: Header) -> Option<Exec> {
        Some(Exec {
            header,
            pid: self.u32()?,
            unheard: self.u32()?,
            faults: self.u64()?,
        })
    }
    fn fork(&mut self, header: Header) -> Option<Fork> {
        Some(Fork {
            header,
            child_mm: self.u64()?,
            pid: self.u32()?,
            parent: self.u32()?,
            started_ns: self.u64()?,
        })
    }
    fn event(&mut self) -> Option<Event> {
        let header = self.header()?;
        Some(match header.kind {
            kind::LOOK => Event::Look(Look {
                header,
                va: self.u64()?,
                len: self.u64()?,
                other: self.u64()?,
                entry: self.u64()?,
                level: self.u32()?,
                how: self.u32()?,
                detail: self.u64()?,
            }),
            kind::AROUND => Event::Around(self.around(header)?),
            kind::MIGRATION_SET => Event::MigrationSet(self.migration(header)?),
            kind::MIGRATION_REMOVE => Event::MigrationRemove(self.migration(header)?),
            kind::MIGRATED => Event::Migrated(self.number(header)?),
            kind::MM_GONE => Event::MmGone(self.number(header)?),
            kind::EXEC => Event::Exec(self.exec(header)?),
            kind::FORK => Event::Fork(self.fork(header)?),
            kind::ENDED => Event::Ended(self.number(header)?),
            kind::CROWDED => Event::Crowded(self.number(header)?),
            kind::MARKER => Event::Marker(self.number(header)?),
            _ => return None,
        })
    }
}

impl Event {
    /// Decodes one ring record.
    ///
    /// # Errors
    /// [`BadEvent`] where the kind is unknown, or the bytes are not as many as the kind has
    /// and the header says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadEvent> {
        let bad = BadEvent {
            kind: bytes.first_chunk().map(|b| u32::from_ne_bytes(*b)),
            len: bytes.len(),
        };
        let mut reader = Reader(bytes);
        let event = reader.event().ok_or(bad)?;
        let whole = reader.0.is_empty() && event.header().len as usize == bytes.len();
        if whole { Ok(event) } else { Err(bad) }
    }
}
