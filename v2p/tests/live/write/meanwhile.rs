//! What may happen between two steps beside what the process does to the one page: its pages are moved by others, it ends or is
//! another program, or nobody reads what the hooks say.

use libtest_mimic::Trial;
use v2p::{
    common::VirtAddr,
    guard::Step,
    inject,
    record::{Cause, Verdict},
};

use super::{Scene, inside, is_open, word};
use crate::{
    Done,
    machine::two_nodes,
    target::{PAGES, Target, va},
    trial,
};

const NEW: [u8; 8] = *b"8 bytes!";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("write_tells_a_migration_by_when_it_began", migrations),
        trial("write_tells_a_process_that_ended_meanwhile", ended),
        trial(
            "write_tells_a_process_that_executed_another_program",
            executed,
        ),
        trial("write_that_finds_the_ring_full_is_unproven", full),
    ]
}

fn migrations() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    let mut target = Target::start();
    (0..4).for_each(|i| _ = target.tell("write", i));
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let mut scene = Scene::on(&target);
    let steps = [
        (Step::LookUp, Verdict::Moved, false),
        (Step::Write, Verdict::Strayed, false),
        (Step::Prove, Verdict::Landed, true),
    ];
    for ((at, verdict, arrived), i) in steps.into_iter().zip(0..) {
        let pid = target.pid();
        let said = scene.write_disturbed(inside(i), &NEW, &mut |step| {
            if step == at {
                inject::move_page(pid, VirtAddr(va(i)))?;
            }
            Ok(())
        });
        assert_eq!(said.verdict, verdict, "{at:?}: {said:#?}");
        assert_eq!(target.peek(inside(i)) == word(NEW), arrived, "{at:?}");
        let one = &said.moves[0];
        assert_eq!(
            (one.cause, one.reason),
            (Cause::Migration, Some("syscall")),
            "{said:#?}"
        );
        assert!(target.frame(i) != said.pfn.unwrap(), "{at:?}");
    }
    Done::Passed
}

fn ended() -> Done {
    another(|target| target.kill())
}

fn executed() -> Done {
    another(|target| target.execute())
}

/// The process, or its program, is another one when its turn comes.
fn another(deed: fn(&mut Target)) -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    for (at, verdict) in [
        (Step::LookUp, Verdict::Moved),
        (Step::Write, Verdict::Strayed),
        (Step::ReadBack, Verdict::Unproven),
        (Step::Prove, Verdict::Landed),
    ] {
        let mut target = Target::start();
        target.tell("write", 0);
        let mut scene = Scene::on(&target);
        let said = scene.write_disturbed(inside(0), &NEW, &mut |step| {
            if step == at {
                deed(&mut target);
            }
            Ok(())
        });
        assert_eq!(said.verdict, verdict, "{at:?}: {said:#?}");
        let why = said.why.unwrap();
        assert!(why.contains("has ended, or executed another"), "{why}");
    }
    Done::Passed
}

/// The ring and the lanes are full for real: the process faults all the while, on pages beside the one that is written to,
/// and nobody reads what the programs have to say of it.
fn full() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    // More faults than all lanes have slots for (SLOTS, v2p/src/bpf/lanes.rs).
    const TIMES: u64 = 5000;
    for (at, written) in [(Step::LookUp, 0), (Step::Write, 8)] {
        let mut target = Target::start();
        target.tell("write", 0);
        let mut scene = Scene::on(&target);
        let said = scene.write_disturbed(inside(0), &NEW, &mut |step| {
            if step == at {
                target.churn(va(1), PAGES - 1, TIMES);
            }
            Ok(())
        });
        assert_eq!(
            (said.verdict, said.written),
            (Verdict::Unproven, written),
            "{said:#?}"
        );
        assert!(said.lost > 0, "{said:#?}");
        assert_eq!(target.peek(inside(0)) == word(NEW), written > 0);
        // The next one finds room again.
        let next = scene.write(inside(0), &NEW);
        assert_eq!((next.verdict, next.lost), (Verdict::Landed, 0), "{next:#?}");
    }
    Done::Passed
}
