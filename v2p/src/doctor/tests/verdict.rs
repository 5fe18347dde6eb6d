//! From predictions, trials and witnesses to one verdict.

use v2p_common::{
    PhysAddr,
    witness::{Answers, Function},
};

use crate::{
    doctor::{
        check::{Check, Effect, Errno, Id, Stage},
        predict::Outcome,
        verdict::{Trial, Verdict, Word},
        witness::{Said, Testimony},
    },
    exit,
};

/// Nothing was watched.
const SILENCE: Testimony<'static> = Testimony {
    said: &[],
    heard: &[],
};

fn strict() -> Vec<Check> {
    vec![
        Check::ok(Id::Lockdown, "not locked down", "none"),
        Check::denies(Id::StrictDevmem, "what", "evidence").fails(Stage::Reach, libc::EPERM),
    ]
}

fn failed(errno: i32) -> Outcome {
    Outcome::Failed(Some(Errno(errno)))
}

fn judge(checks: &[Check], outcome: &Outcome) -> Verdict {
    Verdict::new(
        checks,
        &Trial::all(outcome),
        SILENCE,
        Some(PhysAddr(0x1000)),
        false,
    )
}

#[test]
fn a_trial_that_agrees_names_the_check_and_its_errno() {
    let verdict = judge(&strict(), &failed(libc::EPERM));
    assert_eq!(
        (verdict.read, verdict.write, verdict.first),
        (Word::Denied, Word::Denied, Some(Id::StrictDevmem))
    );
    assert_eq!((verdict.agrees, verdict.tried), (Some(true), true));
    assert_eq!(verdict.errno, Some(Errno(libc::EPERM)));
    assert_eq!(verdict.exit_code(), exit::NO);
}

#[test]
fn a_trial_that_works_against_the_prediction_is_a_yes_that_disagrees() {
    let verdict = judge(&strict(), &Outcome::Worked);
    assert_eq!((verdict.first, verdict.errno), (None, None));
    assert_eq!(verdict.agrees, Some(false));
    assert_eq!(verdict.exit_code(), exit::YES);
}

#[test]
fn a_denial_that_no_check_predicted_is_not_given_to_one_that_passed() {
    let verdict = judge(&strict()[..1], &failed(libc::EACCES));
    assert_eq!(verdict.first, Some(Id::Container));
    assert_eq!(verdict.agrees, Some(false));
}

#[test]
fn an_open_that_fails_is_not_the_refusal_of_ram_that_was_foretold() {
    let verdict = judge(&strict(), &Outcome::NotOpened(Some(Errno(libc::EPERM))));
    assert_eq!(verdict.first, Some(Id::Container));
    assert_eq!(verdict.agrees, Some(false));
    assert_eq!(verdict.denial.unwrap().evidence, "open(/dev/mem): EPERM");
    // Where lockdown could not be told, it is what is left.
    let mut checks = strict();
    checks[0] = Check::unknown(Id::Lockdown, "", "").may_fail(Stage::Open, libc::EPERM);
    let verdict = judge(&checks, &Outcome::NotOpened(Some(Errno(libc::EPERM))));
    assert_eq!(verdict.first, Some(Id::Lockdown));
}

#[test]
fn a_conflict_of_memory_types_is_no_security_module() {
    let trial = Trial::all(&failed(libc::EAGAIN));
    let verdict = Verdict::new(&strict()[..1], &trial, SILENCE, None, true);
    assert_eq!((verdict.by, verdict.first), ("mmap", Some(Id::Pat)));
}

#[test]
fn where_the_checks_were_wrong_the_kernels_own_word_is_named() {
    let answers = Answers {
        calls: 1,
        argument: 2,
        value: u64::from(u32::MAX),
    };
    let said = Said::new("open", Function::SecurityLockedDown, answers);
    let said: Vec<_> = said.into_iter().collect();
    let trial = Trial::all(&Outcome::NotOpened(Some(Errno(libc::EPERM))));
    let testimony = Testimony {
        said: &said,
        heard: &Function::ALL,
    };
    let verdict = Verdict::new(&strict()[..1], &trial, testimony, None, false);
    assert_eq!(
        (verdict.first, verdict.agrees),
        (Some(Id::Lockdown), Some(false))
    );
    let denial = verdict.denial.unwrap();
    assert_eq!(
        denial.evidence,
        "watched: security_locked_down(0x2) = -EPERM"
    );
}

/// Of a read that failed with EPERM, by what the kernel's functions said meanwhile.
fn judge_watched(predicted: Id, said: &[(Function, u64)]) -> Verdict {
    let answers = |value| Answers {
        calls: 1,
        argument: 16,
        value,
    };
    let said = said
        .iter()
        .filter_map(|(function, value)| Said::new("pread", *function, answers(*value)));
    let said: Vec<_> = said.collect();
    let checks = [Check::denies(predicted, "what", "evidence").fails(Stage::Reach, libc::EPERM)];
    let testimony = Testimony {
        said: &said,
        heard: &Function::ALL,
    };
    let untried = Outcome::NotTried("not ours".to_owned());
    let trial = Trial {
        read: failed(libc::EPERM),
        write: untried.clone(),
        mmap: untried,
    };
    Verdict::new(&checks, &trial, testimony, None, false)
}

#[test]
fn the_same_error_of_another_check_is_no_agreement() {
    let claimed = [
        (Function::IomemIsExclusive, 1),
        (Function::DevmemIsAllowed, 0),
    ];
    for (predicted, agrees) in [(Id::StrictDevmem, false), (Id::IoStrictDevmem, true)] {
        let verdict = judge_watched(predicted, &claimed);
        assert_eq!(verdict.first, Some(Id::IoStrictDevmem), "{predicted:?}");
        assert_eq!(verdict.agrees, Some(agrees), "{predicted:?}");
        let watched = verdict.ways.first().unwrap().watched;
        assert_eq!(watched, Some(Id::IoStrictDevmem));
    }
    let ram = [
        (Function::IomemIsExclusive, 0),
        (Function::DevmemIsAllowed, 0),
    ];
    let verdict = judge_watched(Id::IoStrictDevmem, &ram);
    assert_eq!(
        (verdict.first, verdict.agrees),
        (Some(Id::StrictDevmem), Some(false))
    );
    assert_eq!(
        verdict.denial.unwrap().evidence,
        "watched: devmem_is_allowed(0x10) = 0"
    );
    // Nothing was heard that says otherwise.
    assert_eq!(judge_watched(Id::StrictDevmem, &[]).agrees, Some(true));
}

#[test]
fn an_open_that_another_refused_with_the_same_error_is_that_ones() {
    let answers = Answers {
        calls: 1,
        argument: 2,
        value: u64::from(u32::MAX),
    };
    let eperm = |function| Said::new("open", function, answers).unwrap();
    let trial = Trial::all(&Outcome::NotOpened(Some(Errno(libc::EPERM))));
    let judge = |predicted, said: &[Said]| {
        let check = Check::denies(predicted, "what", "evidence");
        let checks = [check.fails(Stage::Open, libc::EPERM)];
        let heard = &Function::ALL;
        let verdict = Verdict::new(&checks, &trial, Testimony { said, heard }, None, false);
        (verdict.first, verdict.agrees)
    };
    let lockdown = [
        eperm(Function::SecurityLockedDown),
        eperm(Function::OpenPort),
    ];
    let capability = [eperm(Function::OpenPort)];
    let cgroup = [eperm(Function::DevcgroupCheckPermission)];
    for (id, said) in [
        (Id::Lockdown, &lockdown[..]),
        (Id::CapSysRawio, &capability),
        (Id::Container, &cgroup),
    ] {
        for predicted in [Id::Lockdown, Id::CapSysRawio, Id::Container] {
            let agrees = predicted == id;
            assert_eq!(judge(predicted, said), (Some(id), Some(agrees)));
        }
    }
}

#[test]
fn a_device_is_written_only_where_dev_mem_opens_for_writing() {
    let read_only = |check: Check, effect| [check.has(Stage::OpenForWriting, effect)];
    let judge = |checks: &[Check], mmap: Outcome| {
        let untried = Outcome::NotTried("registers".to_owned());
        let trial = Trial {
            read: untried.clone(),
            write: untried,
            mmap,
        };
        let verdict = Verdict::new(checks, &trial, SILENCE, None, true);
        (
            verdict.read,
            verdict.write,
            verdict.first,
            verdict.exit_code(),
        )
    };
    let mode = Check::denies(Id::DevmemNode, "", "");
    let eacces = Some(Errno(libc::EACCES));
    let denies = read_only(mode, Effect::Fails(eacces));
    assert_eq!(
        judge(&denies, Outcome::Worked),
        (Word::Allowed, Word::Denied, Some(Id::DevmemNode), exit::NO)
    );
    let unknown = Check::unknown(Id::Container, "", "");
    let unknown = read_only(unknown, Effect::Unknown(eacces));
    let (_, write, _, code) = judge(&unknown, Outcome::Worked);
    assert_eq!((write, code), (Word::Unknown, exit::UNSUPPORTED));
    let (.., code) = judge(&[], Outcome::Worked);
    assert_eq!(code, exit::YES);
    // What refuses the map comes first.
    let (read, write, first, _) = judge(&denies, failed(libc::EAGAIN));
    assert_eq!(
        (read, write, first),
        (Word::Denied, Word::Denied, Some(Id::Pat))
    );
}

#[test]
fn where_there_is_no_page_nothing_is_allowed_and_what_denies_is_still_named() {
    let why = Check::unknown(Id::Movable, "it is swapped out", "pagemap");
    let judge = |checks: &[Check]| {
        let mut verdict = judge(checks, &Outcome::NotTried("no page".to_owned()));
        verdict.without_a_page(&why);
        assert_eq!((verdict.read, verdict.write), (Word::Denied, Word::Denied));
        assert_eq!(verdict.exit_code(), exit::NO);
        (verdict.first, verdict.denial)
    };
    assert_eq!(judge(&strict()[..1]), (None, Some(why.clone())));
    assert_eq!(judge(&strict()).0, Some(Id::StrictDevmem));
}

#[test]
fn what_was_not_tried_is_told_as_predicted_and_untried() {
    let verdict = judge(&strict(), &Outcome::NotTried("not ours".to_owned()));
    assert_eq!((verdict.read, verdict.tried), (Word::Denied, false));
    assert_eq!(verdict.agrees, None);
    assert_eq!(verdict.first, Some(Id::StrictDevmem));
}

#[test]
fn one_denial_is_a_no_though_the_other_cannot_be_told() {
    let unknown = [Check::unknown(Id::Lockdown, "", "").may_fail(Stage::Open, libc::EPERM)];
    let with_read = |read| {
        let write = Outcome::NotTried("not ours".to_owned());
        let mmap = write.clone();
        let trial = Trial { read, write, mmap };
        Verdict::new(&unknown, &trial, SILENCE, None, false).exit_code()
    };
    assert_eq!(with_read(failed(libc::EPERM)), exit::NO);
    assert_eq!(with_read(Outcome::Worked), exit::UNSUPPORTED);
}

#[test]
fn zeros_are_no_reading_and_a_dropped_write_is_no_writing() {
    let low = [Check::limits(Id::LowMemory, "what", "evidence").has(Stage::Copy, Effect::Drops)];
    let trial = Trial {
        read: Outcome::Dropped,
        write: Outcome::NotTried("not ours".to_owned()),
        mmap: Outcome::Worked,
    };
    let verdict = Verdict::new(&low, &trial, SILENCE, None, false);
    assert_eq!((verdict.read, verdict.write), (Word::Denied, Word::Dropped));
    assert_eq!((verdict.first, verdict.errno), (Some(Id::LowMemory), None));
    assert_eq!(
        (verdict.agrees, verdict.exit_code()),
        (Some(true), exit::NO)
    );
}
