//! Numbers of system calls: an ABI (arch/x86/entry/syscalls/syscall_64.tbl).

/// mmap
pub const MMAP: u64 = 9;
/// munmap
pub const MUNMAP: u64 = 11;
/// brk
pub const BRK: u64 = 12;
/// ioctl
pub const IOCTL: u64 = 16;
/// mremap
pub const MREMAP: u64 = 25;
/// madvise
pub const MADVISE: u64 = 28;
/// shmat
pub const SHMAT: u64 = 30;
/// execve
pub const EXECVE: u64 = 59;
/// shmdt
pub const SHMDT: u64 = 67;
/// mlock
pub const MLOCK: u64 = 149;
/// io_destroy
pub const IO_DESTROY: u64 = 207;
/// remap_file_pages
pub const REMAP_FILE_PAGES: u64 = 216;
/// execveat
pub const EXECVEAT: u64 = 322;
/// mlock2
pub const MLOCK2: u64 = 325;
/// process_mrelease
pub const PROCESS_MRELEASE: u64 = 448;
