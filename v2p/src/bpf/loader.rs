//! aya's loader, without its reading of the kernel's types.
//!
//! In aya 0.14 every loader begins with that, some 27 ms of a processor, for relocations that our object does not have, and
//! there is no way to have one without (`EbpfLoader::new`). Where the file is not found it goes on without; so it is made by a thread
//! that finds no files. What needs the types, hooks on functions, reads them for itself.

use std::thread;

use aya::EbpfLoader;

/// A loader that knows no types; where there is no thread, or it cannot be kept from files, one that has read them in vain.
pub(super) fn loader() -> EbpfLoader<'static> {
    let maker = thread::Builder::new().spawn(|| {
        find_no_files();
        EbpfLoader::new()
    });
    let made = maker.ok().and_then(|maker| maker.join().ok());
    made.unwrap_or_default()
}

/// From now on every open of this thread, and of no other, fails with ENOENT (seccomp(2), a filter of its own). What fails is left as
/// it is: nothing but time depends on it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "codes of 16 bits, and a small number"
)]
fn find_no_files() {
    const LOAD_NUMBER: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // The number is the first word of struct seccomp_data.
    let mut steps = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(IF_EQUAL, 0, 1, libc::SYS_openat as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOENT as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: integers, and a filter of as many steps as it says, which outlives the call; both are of this thread alone.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const filter,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_makes_a_loader_finds_no_files() {
        drop(loader());
        assert!(std::fs::File::open("/proc/self/status").is_ok());
        let kept = thread::spawn(|| {
            find_no_files();
            std::fs::File::open("/proc/self/status")
        });
        let error = kept.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
