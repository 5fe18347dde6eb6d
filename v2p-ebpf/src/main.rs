//! The programs that v2p loads into the kernel: they extract and emit; what it means
//! is decided in user space.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic.rs says why")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's helpers pack two 32-bit numbers into a word; sizes here are small"
)]

/// A message through aya-log, in builds for the programs' authors; else nothing.
macro_rules! debug {
    ($($message:tt)*) => {
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!($($message)*);
    };
}

mod atomic;
mod emit;
mod family;
mod hooks;
mod kread;
mod maps;
mod task;
mod walk;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses a program that can get here: there is no way out of it.
    loop {}
}

/// The kernel lets only programs under a GPL-compatible licence read its memory.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
