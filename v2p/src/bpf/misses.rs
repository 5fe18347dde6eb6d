//! What the kernel counts of a program that it did not run.

use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `recursion_misses` of a program; `None`: this kernel does not tell. By bpf(2), since this is asked after every guarded
/// write, and /proc/self/fdinfo takes a tenth of a millisecond a program.
pub(super) fn misses_of(fd: BorrowedFd<'_>) -> Option<u64> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    // struct bpf_prog_info up to the word that is asked for (include/uapi/linux/bpf.h, since 5.12). The kernel reads it
    // too: zeros ask for nothing that has a length of its own.
    const WORDS: usize = 27;
    const RECURSION_MISSES: usize = 26;
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = [0u64; WORDS];
    let mut attr = Attr {
        fd: u32::try_from(fd.as_raw_fd()).ok()?,
        len: u32::try_from(size_of_val(&info)).ok()?,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most `len` bytes at `info`, and how many it wrote to `len`.
    let r = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attr,
            size_of::<Attr>(),
        )
    };
    let told = r == 0 && attr.len as usize == size_of_val(&info);
    let misses = info.get(RECURSION_MISSES).copied();
    misses.filter(|_| told)
}
