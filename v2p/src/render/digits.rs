//! Addresses as text. Not by the formatter, which takes as long for one as all the rest of a line does: there may be several a page.

/// Digits of the longest.
const LONGEST: usize = 16;
const PREFIX: usize = 2;

/// The hexadecimal digits of a number, with `0x` in front.
pub(super) struct HexDigits {
    text: [u8; PREFIX + LONGEST],
    start: usize,
}

impl HexDigits {
    pub(super) fn of(number: u64) -> Self {
        let mut text = [b'0'; PREFIX + LONGEST];
        let (_, digits) = text.split_at_mut(PREFIX);
        // All of them, without a branch: the compiler makes a few vector instructions of it.
        for (place, byte) in digits
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(number.to_be_bytes())
        {
            *place = [digit(byte >> 4), digit(byte & 0xf)];
        }
        let unused = (number | 1).leading_zeros() as usize / 4;
        if let Some(x) = text.get_mut(unused + 1) {
            *x = b'x';
        }
        if let Some(zero) = text.get_mut(unused) {
            *zero = b'0';
        }
        Self {
            text,
            start: unused,
        }
    }

    pub(super) fn text(&self) -> &str {
        let used = self.text.get(self.start..).unwrap_or_default();
        str::from_utf8(used).unwrap_or_default()
    }
}

const fn digit(low: u8) -> u8 {
    if low < 10 {
        b'0' + low
    } else {
        b'a' + low - 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_as_the_formatter_makes_them() {
        for number in (0..64)
            .flat_map(|shift| [u64::MAX >> shift, 0x0123_4567_89ab_cdef >> shift])
            .chain([0, 10, 1 << 63])
        {
            assert_eq!(HexDigits::of(number).text(), format!("{number:#x}"));
        }
    }
}
