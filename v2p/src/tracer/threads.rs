//! What tells of faults, on every thread of a process.

use anyhow::Result;

use crate::{
    bpf::{FaultKind, Programs},
    process::Process,
};

/// How often threads may come while we attach before that is taken as it is.
const TRIES: u32 = 8;

/// Threads may start threads while we attach: new ones inherit the event from those that have it, but without a program where it had none
/// yet; and the kernel lets two threads with the same events change them for one another instead of taking them off and on
/// (perf_event_context_sched_out, kernel/events/core.c, 6.1 to 7.3), so that an old thread may then go on with what a new one has inherited. So all is done again where threads came.
pub(super) fn attach_to_all_threads(
    programs: &mut Programs,
    process: &Process,
    kind: FaultKind,
) -> Result<()> {
    let before = programs.fault_events();
    let mut done = Vec::new();
    for left in (0..TRIES).rev() {
        let threads = process.threads();
        attach_to(programs, process, kind, &threads)?;
        done = threads;
        if !process.threads().iter().any(|tid| !done.contains(tid)) {
            return Ok(());
        }
        if left > 0 {
            programs.drop_fault_events(before);
        }
    }
    // It starts threads all the while.
    programs.threads_came();
    loop {
        let mut new = process.threads();
        new.retain(|tid| !done.contains(tid));
        if new.is_empty() {
            return Ok(());
        }
        attach_to(programs, process, kind, &new)?;
        done.append(&mut new);
    }
}

fn attach_to(
    programs: &mut Programs,
    process: &Process,
    kind: FaultKind,
    threads: &[u32],
) -> Result<()> {
    for tid in threads {
        let attached = programs.attach_faults(kind, (process.pid, *tid));
        // A thread that has ended needs no hook.
        if attached.is_err() && process.has_live_thread(*tid) {
            return attached;
        }
    }
    Ok(())
}
