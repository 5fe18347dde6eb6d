//! Protocol buffers, as far as a trace needs them: varints, 64-bit words, bytes in fields. Pure.

/// A message under way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// An empty one.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a field that is a number of any width, an enumeration or a bool.
    #[must_use]
    pub fn number(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    /// Adds a field that is a text.
    #[must_use]
    pub fn text(self, field: u32, value: &str) -> Self {
        self.delimited(field, value.as_bytes())
    }

    /// Adds a field that is a message.
    #[must_use]
    pub fn message(self, field: u32, value: &Self) -> Self {
        self.delimited(field, &value.0)
    }

    fn delimited(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Seven bits a byte, the lowest first; bit 7: more follow.
    fn varint(&mut self, mut value: u64) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.0.push(low);
                return;
            }
            self.0.push(low | 0x80);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_specification() {
        // The examples of protobuf.dev/programming-guides/encoding.
        assert_eq!(Message::new().number(1, 150).bytes(), [8, 0x96, 1]);
        let text = Message::new().text(2, "testing");
        assert_eq!(text.bytes(), b"\x12\x07testing");
        let inner = Message::new().number(1, 150);
        assert_eq!(
            Message::new().message(3, &inner).bytes(),
            [0x1a, 3, 8, 0x96, 1]
        );
        let most = Message::new().number(1, u64::MAX);
        assert_eq!(most.bytes().len(), 11);
        assert_eq!(Message::new().number(16, 0).bytes(), [0x80, 1, 0]);
    }
}
