//! Numbers as text. Not by the formatter, which takes as long for one as all the rest of a line does: there may be several a page.

/// Bytes of the longest: u64::MAX in decimal.
const LONGEST: usize = 20;

/// The digits of a number.
pub(super) struct Digits {
    text: [u8; LONGEST],
    start: usize,
}

impl Digits {
    const NONE: Self = Self {
        text: [0; LONGEST],
        start: LONGEST,
    };

    pub(super) fn decimal(mut number: u64) -> Self {
        let mut digits = Self::NONE;
        loop {
            digits.put(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                return digits;
            }
        }
    }

    /// With `0x` in front.
    pub(super) fn hex(mut number: u64) -> Self {
        let mut digits = Self::NONE;
        loop {
            digits.put(match (number & 0xf) as u8 {
                low @ 0..=9 => b'0' + low,
                high => b'a' + high - 10,
            });
            number >>= 4;
            if number == 0 {
                break;
            }
        }
        digits.put(b'x');
        digits.put(b'0');
        digits
    }

    /// Puts `byte` in front of what is there.
    fn put(&mut self, byte: u8) {
        self.start -= 1;
        if let Some(place) = self.text.get_mut(self.start) {
            *place = byte;
        }
    }

    pub(super) fn text(&self) -> &str {
        let used = self.text.get(self.start..).unwrap_or_default();
        str::from_utf8(used).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_as_the_formatter_makes_them() {
        for number in (0..64)
            .map(|shift| u64::MAX >> shift)
            .chain([0, 10, 1 << 63])
        {
            assert_eq!(Digits::decimal(number).text(), number.to_string());
            assert_eq!(Digits::hex(number).text(), format!("{number:#x}"));
        }
    }
}
