//! Bytes cut at the borders of pages: pure.

use v2p_common::{PAGE_SIZE, VirtAddr};

/// What of the bytes lies in one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// Where it starts, for the process.
    pub(super) va: VirtAddr,
    /// Where it starts in the bytes.
    pub(super) from: usize,
    /// How many.
    pub(super) len: usize,
}

impl Part {
    /// The part's own of all bytes.
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.from..self.from + self.len)
            .unwrap_or_default()
    }
}

/// The parts of `len` bytes from `va` on; `None`: they would go beyond the last address.
pub(super) fn parts(va: VirtAddr, len: usize) -> Option<Vec<Part>> {
    va.0.checked_add(u64::try_from(len).ok()?)?;
    let mut parts = Vec::new();
    let mut from = 0;
    while from < len {
        let at = va.0 + from as u64;
        let room = usize::try_from(PAGE_SIZE - at % PAGE_SIZE).ok()?;
        let part = Part {
            va: VirtAddr(at),
            from,
            len: room.min(len - from),
        };
        from += part.len;
        parts.push(part);
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(va: u64, len: usize) -> Vec<(u64, usize, usize)> {
        let parts = parts(VirtAddr(va), len).unwrap();
        parts.iter().map(|p| (p.va.0, p.from, p.len)).collect()
    }

    #[test]
    fn no_part_crosses_a_page_and_together_they_are_all() {
        assert_eq!(shape(0x1ff0, 16), [(0x1ff0, 0, 16)]);
        assert_eq!(shape(0x1ff0, 17), [(0x1ff0, 0, 16), (0x2000, 16, 1)]);
        assert_eq!(
            shape(0x1fff, 4098),
            [(0x1fff, 0, 1), (0x2000, 1, 4096), (0x3000, 4097, 1)]
        );
        assert_eq!(shape(0x1000, 0), []);
    }

    #[test]
    fn bytes_beyond_the_last_address_have_no_parts() {
        assert_eq!(parts(VirtAddr(u64::MAX - 3), 5), None);
    }

    #[test]
    fn a_part_knows_its_bytes() {
        let parts = parts(VirtAddr(0x1ffe), 5).unwrap();
        let bytes: Vec<_> = parts.iter().map(|p| p.of(b"abcde")).collect();
        assert_eq!(bytes, [&b"ab"[..], b"cde"]);
    }
}
