//! The host's side of the guest's serial line: frames of one byte of kind, four of length, the bytes.
//! The guest's side is xtask/guest-init.

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The command's exit status.
    Exit(i32),
}

/// Puts frames together from what arrives.
#[derive(Default)]
pub(super) struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// More bytes of the line.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// The next whole frame. An error: the line carries something else.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, String> {
        let Some((&[kind, a, b, c, d], rest)) = self.buffer.split_first_chunk() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(bytes) = rest.get(..len) else {
            return if kind == 0 || kind > 3 {
                Err(format!("frame of kind {kind}"))
            } else {
                Ok(None)
            };
        };
        let bytes = bytes.to_vec();
        let frame = match kind {
            1 => Frame::Stdout(bytes),
            2 => Frame::Stderr(bytes),
            3 => Frame::Exit(i32::from_le_bytes(
                bytes.try_into().map_err(|_| "exit frame".to_owned())?,
            )),
            _ => return Err(format!("frame of kind {kind}")),
        };
        self.buffer.drain(..5 + len);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_however_the_bytes_arrive() {
        let line = [1, 2, 0, 0, 0, b'h', b'i', 3, 4, 0, 0, 0, 1, 0, 0, 0];
        let mut frames = Frames::default();
        let mut got = Vec::new();
        for byte in line {
            frames.push(&[byte]);
            got.extend(frames.next().unwrap());
        }
        assert_eq!(got, [Frame::Stdout(b"hi".to_vec()), Frame::Exit(1)]);
    }

    #[test]
    fn a_line_that_carries_something_else_is_an_error() {
        let mut frames = Frames::default();
        frames.push(b"[    0.000000] Linux version");
        assert!(frames.next().is_err());
    }
}
