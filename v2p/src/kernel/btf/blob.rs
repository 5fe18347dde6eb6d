//! The bytes of the kernel's types: several megabytes, which are mapped where the kernel lets them be.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Deref,
    path::Path,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The bytes, for as long as this lives.
pub struct Blob(Bytes);

enum Bytes {
    /// Pages of the kernel's own, where it lets them be mapped (btf_sysfs_vmlinux_mmap, kernel/bpf/sysfs_btf.c; seen on 6.18): sysfs is read a
    /// page a call.
    Mapped(&'static [u8]),
    /// A copy.
    Read(Vec<u8>),
}

impl Blob {
    /// The bytes of `path`.
    ///
    /// # Errors
    /// Those of opening and reading it.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        if let Some(bytes) = map(&file, len) {
            return Ok(Self(Bytes::Mapped(bytes)));
        }
        let mut bytes = Vec::with_capacity(len);
        file.read_to_end(&mut bytes)?;
        Ok(Self(Bytes::Read(bytes)))
    }
}

/// The first `len` bytes of a file of sysfs, which has no others than the kernel's own memory to show; `None`: not here.
fn map(file: &File, len: usize) -> Option<&'static [u8]> {
    if len == 0 || !is_of_sysfs(file) {
        return None;
    }
    let any = std::ptr::null_mut();
    // SAFETY: a new mapping touches nothing that exists.
    let place = unsafe { mmap(any, len, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }.ok()?;
    // SAFETY: so many bytes of the kernel's types, which never change and cannot be cut short; only Drop takes them away.
    Some(unsafe { std::slice::from_raw_parts(place.cast(), len) })
}

/// Any other file could be changed or cut short while it is mapped.
fn is_of_sysfs(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| stat.f_type == libc::SYSFS_MAGIC)
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(bytes) => bytes,
            Bytes::Read(bytes) => bytes,
        }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if let Bytes::Mapped(bytes) = self.0 {
            // SAFETY: our own mapping; what refers to it borrows from self.
            let _ = unsafe { munmap(bytes.as_ptr().cast_mut().cast(), bytes.len()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_is_what_is_read() {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let Ok(read) = std::fs::read(path) else {
            eprintln!("skipped: no {} here", path.display());
            return;
        };
        let blob = Blob::of(path).unwrap();
        if matches!(blob.0, Bytes::Read(_)) {
            eprintln!("this kernel does not let its types be mapped");
        }
        assert!(*blob == *read);
    }

    #[test]
    fn a_file_that_could_change_is_read() {
        let blob = Blob::of(Path::new("/proc/self/exe")).unwrap();
        assert!(matches!(blob.0, Bytes::Read(_)));
        assert!(blob.starts_with(b"\x7fELF"));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let error = Blob::of(Path::new("/no/such/file")).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
