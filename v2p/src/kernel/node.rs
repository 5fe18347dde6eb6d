//! The device node of physical memory.

use std::{
    fs::Metadata,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

/// The path.
pub const DEVMEM: &str = "/dev/mem";

/// The device's numbers (Documentation/admin-guide/devices.txt).
const NUMBERS: (u32, u32) = (1, 1);

/// What a file is that is not the memory device; `None`: it is.
pub fn what_else(metadata: &Metadata) -> Option<String> {
    let device = metadata.rdev();
    let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
    if !metadata.file_type().is_char_device() {
        return Some("it is no character device".to_owned());
    }
    (numbers != NUMBERS).then(|| {
        let (major, minor) = numbers;
        format!("it is device {major}:{minor}, not 1:1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_memory_device_is_told() {
        let of = |path: &str| what_else(&std::fs::metadata(path).unwrap());
        assert_eq!(
            of("/proc/self/status").as_deref(),
            Some("it is no character device")
        );
        assert_eq!(
            of("/dev/null").as_deref(),
            Some("it is device 1:3, not 1:1")
        );
    }
}
