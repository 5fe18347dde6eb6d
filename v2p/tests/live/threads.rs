//! The target's threads beside its main one.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use crate::target::write_to;

pub(crate) fn in_a_new_thread(place: *mut u8) {
    let address = place as u64;
    thread::spawn(move || write_to(address))
        .join()
        .expect("a thread writes");
}

/// Ends the main thread, which holds nothing that another waits for, and no other.
pub(crate) fn end_this_thread() -> ! {
    // SAFETY: as said.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("exit(2) does not return")
}

/// Threads without end, each for half a millisecond.
pub(crate) fn relay() {
    thread::spawn(|| {
        thread::sleep(Duration::from_micros(500));
        relay();
    });
}

/// A thread that is there before any watch begins: writes to the addresses that it is sent, and says so.
pub(crate) fn start_worker() -> (Sender<u64>, Receiver<()>) {
    let (worker, orders) = channel();
    let (said, done) = channel();
    thread::spawn(move || {
        for address in orders {
            write_to(address);
            said.send(()).expect("the target lives");
        }
    });
    (worker, done)
}
