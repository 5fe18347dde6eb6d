//! A page of memfd_secret(2), which the kernel takes out of its direct map.

use std::{fs::File, io, os::fd::FromRawFd as _, ptr};

use rustix::mm::{MapFlags, ProtFlags};

const LEN: usize = 4096;

/// One page, written to, so that it is there.
pub(crate) struct SecretPage {
    place: *mut std::ffi::c_void,
    _file: File,
}

impl SecretPage {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes a number and no memory.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else has.
        let file = unsafe { File::from_raw_fd(i32::try_from(fd).unwrap()) };
        file.set_len(LEN as u64)?;
        // SAFETY: a new mapping touches nothing that exists.
        let place = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }?;
        // SAFETY: mapped and writable.
        unsafe { place.cast::<u8>().write_volatile(7) };
        Ok(Self { place, _file: file })
    }

    pub(crate) fn address(&self) -> u64 {
        self.place as u64
    }
}

impl Drop for SecretPage {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nothing refers.
        let _ = unsafe { rustix::mm::munmap(self.place, LEN) };
    }
}
