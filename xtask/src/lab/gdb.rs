//! As much of gdb's remote protocol (appendix E of its manual) as it takes to stop a guest where it comes to a function, and to change that.
//!
//! A packet is `$`, text, `#` and two hexadecimal digits, the sum of the text's bytes; who got one answers `+`.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use anyhow::{Context as _, Result, bail, ensure};

/// A guest that waits for our word: QEMU stops it when somebody connects.
pub(super) struct Debugger<L> {
    line: L,
}

impl Debugger<UnixStream> {
    /// Over the socket that QEMU's `-gdb` made.
    pub(super) const fn new(line: UnixStream) -> Self {
        Self { line }
    }
}

impl<L: Read + Write> Debugger<L> {
    /// Lets the guest run until it comes to `address`, which may be never.
    ///
    /// # Errors
    /// Where the guest ends before.
    pub(super) fn run_to(&mut self, address: u64) -> Result<()> {
        // By what the processor has for it (1), not by an instruction of ours: there is nothing at the address yet.
        self.order(&format!("Z1,{address:x},1"))?;
        self.send("c")?;
        // SIGTRAP; the connection itself may have been told as a stop before (SIGINT).
        while !self.packet()?.starts_with("T05") {}
        self.order(&format!("z1,{address:x},1"))
    }

    /// Reads memory as the guest's kernel sees it now.
    ///
    /// # Errors
    /// Where nothing is mapped there.
    pub(super) fn read(&mut self, address: u64, len: usize) -> Result<Vec<u8>> {
        self.send(&format!("m{address:x},{len:x}"))?;
        let text = self.packet()?;
        let bytes = unhex(&text).filter(|bytes| bytes.len() == len);
        bytes.with_context(|| format!("QEMU reads {len} bytes at {address:#x} as {text:?}"))
    }

    /// Writes memory, also where the guest itself may not.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.order(&format!("M{address:x},{:x}:{hex}", bytes.len()))
    }

    /// Lets the guest go on by itself.
    ///
    /// # Errors
    /// Where it does not.
    pub(super) fn leave(mut self) -> Result<()> {
        self.order("D")
    }

    /// Sends what is answered by OK.
    fn order(&mut self, text: &str) -> Result<()> {
        self.send(text)?;
        loop {
            match self.packet()?.as_str() {
                "OK" => return Ok(()),
                // Of the stop that our coming made.
                stop if stop.starts_with('T') => {}
                other => bail!("QEMU answers {other:?} to {text:?}"),
            }
        }
    }

    fn send(&mut self, text: &str) -> Result<()> {
        let packet = format!("${text}#{:02x}", sum(text.as_bytes()));
        Ok(self.line.write_all(packet.as_bytes())?)
    }

    /// The next packet.
    fn packet(&mut self) -> Result<String> {
        // Before it there may be what confirms ours.
        while self.byte()? != b'$' {}
        let mut text = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => text.push(byte),
            }
        }
        let digits = [self.byte()?, self.byte()?];
        ensure!(
            unhex(&String::from_utf8_lossy(&digits)) == Some(vec![sum(&text)]),
            "a packet of QEMU's has another sum"
        );
        self.line.write_all(b"+")?;
        Ok(String::from_utf8(text)?)
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.line.read_exact(&mut byte)?;
        let [byte] = byte;
        Ok(byte)
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<_>>().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// What QEMU says, and what it was told.
    struct Line {
        says: io::Cursor<Vec<u8>>,
        told: Vec<u8>,
    }

    impl Read for Line {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.told.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn debugger(says: &str) -> Debugger<Line> {
        let says = io::Cursor::new(says.as_bytes().to_vec());
        let told = Vec::new();
        Debugger {
            line: Line { says, told },
        }
    }

    #[test]
    fn packets_are_sent_and_understood() {
        let mut qemu = debugger("+$f30f1efa#8c");
        assert_eq!(qemu.read(0x1000, 4).unwrap(), [0xf3, 0x0f, 0x1e, 0xfa]);
        assert_eq!(qemu.line.told, b"$m1000,4#8e+");
    }

    #[test]
    fn the_stop_of_the_connection_is_not_the_one_waited_for() {
        let mut qemu = debugger("$T02thread:01;#04+$OK#9a+$T05thread:01;#07+$OK#9a");
        qemu.run_to(0xffff).unwrap();
        assert_eq!(qemu.line.told, b"$Z1,ffff,1#ac++$c#63+$z1,ffff,1#cc+");
    }

    #[test]
    fn trouble_is_an_error() {
        assert!(debugger("+$E14#aa").read(0, 4).is_err());
        assert!(debugger("+$E14#aa").write(0, &[1]).is_err());
        assert!(debugger("+$00#61").read(0, 1).is_err(), "a wrong sum");
        assert!(debugger("+$OK#9a").run_to(0).is_err(), "it ended");
    }
}
