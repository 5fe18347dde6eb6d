//! Addresses, as records have them.

use std::{fmt, io::Write as _};

use serde::{Serialize, Serializer};

/// A number that is shown as hex with `0x`: an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // On the stack: there may be one a page.
        let mut text = [0; 2 + 16];
        let mut rest = text.as_mut_slice();
        let all = rest.len();
        write!(rest, "{:#x}", self.0).map_err(|_| fmt::Error)?;
        let used = all - rest.len();
        f.pad(
            text.get(..used)
                .and_then(|text| str::from_utf8(text).ok())
                .unwrap_or_default(),
        )
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes, shown as hex digits, two a byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HexBytes(pub Vec<u8>);

impl fmt::Display for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_two_digits_each() {
        assert_eq!(HexBytes(vec![0, 0x0a, 0xff]).to_string(), "000aff");
    }
}
