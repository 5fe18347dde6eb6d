//! Every verdict over a write that was made, or that a move forestalled: the step is disturbed on purpose, and the target tells
//! what is in its memory.

use libtest_mimic::Trial;
use v2p::{
    common::VirtAddr,
    guard::{Job, Step, undisturbed},
    record::{Verdict, Write},
};

use super::{
    INSIDE, Scene,
    cases::{CASES, Case, MADV_DONTNEED, discard, replace},
    inside, is_open, word,
};
use crate::{
    Again, Done,
    target::{PAGE, Target, va},
    trial,
};

const NEW: [u8; 8] = *b"8 bytes!";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("write_verdict_landed", || cases_of(Verdict::Landed)),
        trial("write_verdict_moved", || cases_of(Verdict::Moved)),
        trial("write_verdict_refused", || cases_of(Verdict::Refused)),
        trial("write_verdict_strayed", || cases_of(Verdict::Strayed)),
        trial("write_verdict_unproven", || cases_of(Verdict::Unproven)),
        trial("write_dry_run_writes_nothing", || with_scene(dry_run)),
        trial("write_with_events_lost_is_unproven", || with_scene(lost)),
        trial("write_goes_page_by_page", || with_scene(several)),
        trial("write_of_what_is_there_already", || with_scene(same_bytes)),
    ]
}

/// With a target whose pages are its own, and the hooks live on it.
fn with_scene(test: impl FnOnce(&mut Scene, &mut Target)) -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    let mut target = Target::start();
    // A frame that it gives back is the next that it is given.
    target.stay_on_first_cpu();
    (0..24).for_each(|i| _ = target.tell("write", i));
    let mut scene = Scene::on(&target);
    test(&mut scene, &mut target);
    Done::Passed
}

/// Each case of a verdict; the matrix shows it by its name.
fn cases_of(verdict: Verdict) -> Done {
    let done = with_scene(|scene, target| {
        let cases = CASES.iter().zip(0..);
        let cases: Vec<_> = cases.filter(|(case, _)| case.verdict == verdict).collect();
        assert!(!cases.is_empty());
        for (case, i) in cases {
            case.hold(scene, target, i);
        }
    });
    if let Done::Passed = done {
        println!("matrix: write: {}", verdict.name());
    }
    done
}

impl Case {
    fn hold(&self, scene: &mut Scene, target: &mut Target, i: u64) {
        // The forks of other cases left it read-only: whose write copies it then depends on who else has a hold on it.
        target.tell("write", i);
        let said = self.run(scene, target, i);
        target.bury();
        let name = self.name;
        let why = said.why.clone().unwrap_or_default();
        assert_eq!(said.verdict, self.verdict, "{name}: {said:#?}");
        assert!(why.contains(self.says), "{name}: {said:#?}");
        let arrived = target.peek(inside(i)) == word(NEW);
        assert_eq!(arrived, self.arrived, "{name}: {said:#?}");
        assert_eq!(said.lost, 0, "{name}");
        assert_eq!(
            said.written,
            match said.verdict {
                Verdict::Moved | Verdict::Refused => 0,
                _ => 8,
            },
            "{name}"
        );
        assert_eq!(said.window_ns.is_some(), said.written > 0, "{name}");
        // Zeros were there.
        assert_eq!(said.before.as_ref().unwrap().0, [0; 8], "{name}");
        told(&said, self, i);
    }

    fn run(&self, scene: &mut Scene, target: &mut Target, i: u64) -> Write {
        scene.write_disturbed(inside(i), &NEW, &mut |step| {
            if step == self.step {
                (self.deed)(target, i);
            }
            Ok(())
        })
    }
}

/// The moves that were made are told, from the frame that was looked up on.
fn told(said: &Write, case: &Case, i: u64) {
    if !case.moves {
        return assert!(said.moves.is_empty(), "{said:#?}");
    }
    let first = said.moves.first();
    let first = first.unwrap_or_else(|| panic!("{}: {said:#?}", case.name));
    assert_eq!((first.va.0, first.pages), (va(i), 1), "{said:#?}");
    let pfn = v2p::common::Pfn(said.pfn.unwrap());
    assert_eq!(
        first.from,
        v2p::state::PageState::Present { pfn },
        "{said:#?}"
    );
    assert_eq!(said.pa.unwrap().0, pfn.at(INSIDE).0);
}

/// All but the write, and its own word for it.
fn dry_run(scene: &mut Scene, target: &mut Target) {
    let job = Job {
        va: VirtAddr(inside(21)),
        bytes: &NEW,
        dry_run: true,
        force_readonly: false,
    };
    let said = scene.job(&job, &mut undisturbed);
    assert_eq!(
        (said.verdict, said.written),
        (Verdict::Allowed, 0),
        "{said:#?}"
    );
    assert!(said.dry_run && said.window_ns.is_none() && said.pfn == Some(target.frame(21)));
    assert_eq!(target.peek(inside(21)), 0);
    let said = scene.job(&job, &mut |step| {
        if step == Step::LookUp {
            replace(target, 21);
        }
        Ok(())
    });
    assert_eq!(said.verdict, Verdict::Moved, "{said:#?}");
}

/// An event that found no room may have been the one that counts: before the write nothing is written, after it nothing is
/// proven.
fn lost(scene: &mut Scene, target: &mut Target) {
    let control = scene.guard.programs().control();
    let lose = || control.account.lost.set(control.account.lost.get() + 1);
    for (at, written) in [(Step::LookUp, 0), (Step::Write, 8), (Step::Prove, 8)] {
        target.must(libc::SYS_madvise, &[va(22), PAGE, MADV_DONTNEED]);
        target.tell("write", 22);
        let said = scene.write_disturbed(inside(22), &NEW, &mut |step| {
            if step == at {
                lose();
            }
            Ok(())
        });
        assert_eq!(
            (said.verdict, said.lost, said.written),
            (Verdict::Unproven, 1, written),
            "{said:#?}"
        );
        assert!(said.why.as_ref().unwrap().contains("events were lost"));
        assert_eq!(target.peek(inside(22)) == word(NEW), written > 0);
    }
    // What was lost before is not held against the next one.
    lose();
    let next = scene.write(inside(23), &NEW);
    assert_eq!((next.verdict, next.lost), (Verdict::Landed, 0), "{next:#?}");
}

/// Over three pages: each is written and proven on its own, and the first that does not land is the last.
fn several(scene: &mut Scene, target: &mut Target) {
    let bytes: Vec<u8> = (0..2 * PAGE).map(|i| (i % 251) as u8 + 1).collect();
    let start = va(15) - 100;
    let said = scene.write(start, &bytes);
    assert_eq!(said.verdict, Verdict::Landed, "{said:#?}");
    assert_eq!(said.parts.len(), 3);
    assert_eq!(said.written, bytes.len());
    let first = u64::from_ne_bytes(bytes[4..12].try_into().unwrap());
    let last = u64::from_ne_bytes(bytes[bytes.len() - 8..].try_into().unwrap());
    assert_eq!(target.peek(start + 4), first);
    assert_eq!(target.peek(start + bytes.len() as u64 - 8), last);

    let other = vec![0xee; bytes.len()];
    let mut looks = 0;
    let said = scene.write_disturbed(start, &other, &mut |step| {
        looks += u32::from(step == Step::Write);
        // The second page, before it is looked up for the last time.
        if step == Step::Prove && looks == 1 {
            replace(target, 15);
        }
        Ok(())
    });
    assert_eq!(
        (said.verdict, said.written),
        (Verdict::Moved, 100),
        "{said:#?}"
    );
    assert!(
        said.why
            .as_ref()
            .unwrap()
            .contains("the 100 bytes before it landed"),
        "{said:#?}"
    );
    assert_eq!(target.peek(va(15) - 8), 0xeeee_eeee_eeee_eeee);
    assert_ne!(target.peek(va(15) + 8), 0xeeee_eeee_eeee_eeee);
    assert_ne!(target.peek(va(16) + 8), 0xeeee_eeee_eeee_eeee);

    // All pages were the process's own when they were checked; the second is not any more when its turn comes.
    target.tell("write", 15);
    let third = vec![0xdd; bytes.len()];
    let mut forked = false;
    let said = scene.write_disturbed(start, &third, &mut |step| {
        if step == Step::Prove && !std::mem::replace(&mut forked, true) {
            target.fork();
        }
        Ok(())
    });
    target.bury();
    assert_eq!(
        (said.verdict, said.refused, said.written),
        (Verdict::Refused, Some("shared"), 100),
        "{said:#?}"
    );
    let why = said.why.as_ref().unwrap();
    assert!(
        why.contains("mapped 2 times") && why.contains("the 100 bytes before it landed"),
        "{why}"
    );
    assert_eq!(said.parts.len(), 1, "{said:#?}");
    assert_eq!(target.peek(va(15) - 8), 0xdddd_dddd_dddd_dddd);
    assert_ne!(target.peek(va(15) + 8), 0xdddd_dddd_dddd_dddd);
    if scene.guard.tracer().sees_removals() {
        goes_and_comes_back(scene, target, start, bytes.len());
    }
}

/// What becomes of the third page while the first is proven is not forgotten, though it is where it was.
fn goes_and_comes_back(scene: &mut Scene, target: &mut Target, start: u64, len: usize) {
    (14..17).for_each(|i| _ = target.tell("write", i));
    let frame = target.frame(16);
    let mut back = None;
    let said = scene.write_disturbed(start, &vec![0xcc; len], &mut |step| {
        if step == Step::Prove && back.is_none() {
            discard(target, 16);
            back = Some(target.tell("write", 16));
        }
        Ok(())
    });
    if back != Some(frame) {
        std::panic::panic_any(Again("the page came back in another frame".to_owned()));
    }
    let written = 100 + usize::try_from(PAGE).unwrap();
    assert_eq!(
        (said.verdict, said.written),
        (Verdict::Moved, written),
        "{said:#?}"
    );
    assert!(!said.moves.is_empty(), "{said:#?}");
    assert_ne!(target.peek(va(16) + 8), 0xcccc_cccc_cccc_cccc);
}

/// The bytes were there before: that they are there afterwards shows nothing, the hooks do.
fn same_bytes(scene: &mut Scene, target: &mut Target) {
    let same = [0; 8];
    let said = scene.write(inside(20), &same);
    let expected = match scene.guard.tracer().sees_removals() {
        true => Verdict::Landed,
        false => Verdict::Unproven,
    };
    assert_eq!(said.verdict, expected, "{said:#?}");
    let said = scene.write_disturbed(inside(20), &same, &mut |step| {
        if step == Step::Write {
            replace(target, 20);
        }
        Ok(())
    });
    assert_eq!(said.verdict, Verdict::Strayed, "{said:#?}");
    // Nor do zeros, which any fresh page has.
    target.tell("write", 20);
    let said = scene.write(inside(20), &NEW);
    assert_eq!(said.verdict, Verdict::Landed, "{said:#?}");
    let said = scene.write_disturbed(inside(20), &same, &mut |step| {
        if step == Step::ReadBack {
            discard(target, 20);
        }
        Ok(())
    });
    assert_eq!(said.verdict, Verdict::Unproven, "{said:#?}");
}
