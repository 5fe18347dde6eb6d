//! /proc/PID/mem, read: what a process sees at its addresses. Like pagemap it stays with the address space that there was
//! when it was opened.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use anyhow::Result;
use v2p_common::VirtAddr;

use super::{
    Process,
    space::{at_a_root, is_over, over},
};
use crate::exit::Failure;

/// The memory of a process.
pub struct Memory(File);

impl Memory {
    /// That of `process`.
    ///
    /// # Errors
    /// Exit code 1 where it has none, 3 where we may not read it.
    pub fn of(process: &Process) -> Result<Self> {
        let pid = process.pid;
        // That of a thread that has ended does not open, or is empty (6.1).
        let opened = at_a_root(pid, |root| {
            let file = File::open(root.join("mem"))?;
            match file.read_at(&mut [0], 0) {
                Ok(0) => Err(over()),
                _ => Ok(file),
            }
        });
        Ok(Self(opened.map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => super::no_rights(&format!("/proc/{pid}/mem"), &e),
            _ if is_over(&e) || e.kind() == io::ErrorKind::NotFound => {
                Failure::no(format!("process {pid} has ended"))
            }
            _ => Failure::failed(format!("/proc/{pid}/mem: {e}")),
        })?))
    }

    /// Reads `buffer.len()` bytes at `va`. What is not there is brought there, as by a read of the process itself.
    ///
    /// # Errors
    /// EIO where there is no memory at that address, or none that may be read so; UnexpectedEof where the address space
    /// is gone.
    pub fn read(&self, va: VirtAddr, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, va.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::OwnPage;

    #[test]
    fn our_own_memory_is_what_we_wrote_there() {
        let page = OwnPage::new().unwrap();
        let nonce = page.put_nonce().unwrap();
        let memory = Memory::of(&Process::open(std::process::id()).unwrap()).unwrap();
        let mut bytes = nonce.bytes;
        bytes.fill(0);
        let va = VirtAddr(page.va().0 + nonce.offset);
        memory.read(va, &mut bytes).unwrap();
        assert_eq!(bytes, nonce.bytes);
        assert!(memory.read(VirtAddr(0), &mut bytes).is_err());
    }
}
