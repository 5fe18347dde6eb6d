//! Predictions, trials and witnesses -> one verdict: pure.

use serde::Serialize;
use v2p_common::PhysAddr;

use super::{
    check::{Access, Check, Errno, Id},
    devmem::{NOT_OURS, unexplained},
    predict::{Answer, Outcome, agree, explains, predict},
    witness::{Said, named},
};
use crate::{exit, record::Hex};

/// What each way to the address met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trial {
    /// read(2).
    pub read: Outcome,
    /// write(2).
    pub write: Outcome,
    /// mmap(2).
    pub mmap: Outcome,
}

impl Trial {
    /// All three the same: open(2) came first.
    pub fn all(outcome: &Outcome) -> Self {
        Self {
            read: outcome.clone(),
            write: outcome.clone(),
            mmap: outcome.clone(),
        }
    }

    const fn of(&self, access: Access) -> &Outcome {
        match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
            Access::Mmap => &self.mmap,
        }
    }
}

/// May it, or not?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Yes.
    Allowed,
    /// No.
    Denied,
    /// It says yes, and does nothing.
    Dropped,
    /// Neither the checks tell, nor was it tried.
    Unknown,
}

impl Word {
    const fn predicted(answer: Answer) -> Self {
        match answer {
            Answer::Allowed => Self::Allowed,
            Answer::Dropped(_) => Self::Dropped,
            Answer::NotOpened(..) | Answer::Denied(..) => Self::Denied,
            Answer::Unknown(_) => Self::Unknown,
        }
    }

    const fn tried(outcome: &Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Worked => Self::Allowed,
            Outcome::Dropped => Self::Dropped,
            Outcome::NotOpened(_) | Outcome::Failed(_) => Self::Denied,
            Outcome::NotTried(_) => return None,
        })
    }
}

/// One way to the address: predicted and tried.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Way {
    /// Which.
    pub access: Access,
    /// What the checks predict.
    pub predicted: Word,
    /// The check that decides by that, and its error.
    pub check: Option<Id>,
    /// The error that is predicted.
    pub predicted_errno: Option<Errno>,
    /// What the trial met; null where it was not made.
    pub met: Option<Word>,
    /// With which error.
    pub met_errno: Option<Errno>,
    /// Why it was not tried.
    pub untried: Option<String>,
    /// Whether the two are the same; null where one of them is missing.
    pub agrees: Option<bool>,
}

impl Way {
    fn new(checks: &[Check], access: Access, outcome: &Outcome) -> Self {
        let answer = predict(checks, access);
        let (check, predicted_errno) = match answer {
            Answer::Allowed => (None, None),
            Answer::Dropped(id) | Answer::Unknown(id) => (Some(id), None),
            Answer::NotOpened(id, errno) | Answer::Denied(id, errno) => (Some(id), errno),
        };
        Self {
            access,
            predicted: Word::predicted(answer),
            check,
            predicted_errno,
            met: Word::tried(outcome),
            met_errno: match outcome {
                Outcome::NotOpened(errno) | Outcome::Failed(errno) => *errno,
                _ => None,
            },
            untried: match outcome {
                Outcome::NotTried(why) => Some(why.clone()),
                _ => None,
            },
            agrees: agree(answer, outcome),
        }
    }

    /// What the trial says, else the prediction.
    pub fn word(&self) -> Word {
        self.met.unwrap_or(self.predicted)
    }
}

/// What comes of it all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    /// Whether it can be read.
    pub read: Word,
    /// Whether it can be written.
    pub write: Word,
    /// The first check that denies.
    pub first: Option<Id>,
    /// The error that the kernel gives.
    pub errno: Option<Errno>,
    /// Whether reading and writing were both tried.
    pub tried: bool,
    /// Whether all trials met what was predicted; null where none can be compared.
    pub agrees: Option<bool>,
    /// `copy`: read(2) and write(2) are judged; `mmap`: mmap(2), by which devices are reached.
    pub by: &'static str,
    /// The address; null where the kernel hides it.
    pub pa: Option<Hex>,
    /// Each way.
    pub ways: Vec<Way>,
    /// What the kernel's functions answered.
    pub watched: Vec<Said>,
    /// The first denial, in full: for text.
    #[serde(skip)]
    pub denial: Option<Check>,
}

impl Verdict {
    /// Judges. A device's registers (`is_device`) are reached by mmap(2) alone.
    pub fn new(
        checks: &[Check],
        trial: &Trial,
        said: &[Said],
        pa: Option<PhysAddr>,
        is_device: bool,
    ) -> Self {
        let way = |access| Way::new(checks, access, trial.of(access));
        let ways: Vec<_> = [Access::Read, Access::Write, Access::Mmap]
            .map(way)
            .to_vec();
        let judged: Vec<_> = ways
            .iter()
            .filter(|way| (way.access == Access::Mmap) == is_device)
            .collect();
        let denied = judged.iter().find(|way| way.word() != Word::Allowed);
        let denial = denied.and_then(|way| denial(checks, way, trial.of(way.access), said));
        let agreements: Vec<_> = ways.iter().filter_map(|way| way.agrees).collect();
        let first_and_last = |way: Option<&&Way>| way.map_or(Word::Unknown, |way| way.word());
        let read = match first_and_last(judged.first()) {
            // Zeros instead of what is there.
            Word::Dropped => Word::Denied,
            word => word,
        };
        Self {
            read,
            write: first_and_last(judged.last()),
            first: denial.as_ref().map(|check| check.id),
            errno: denied.and_then(|way| way.met.map_or(way.predicted_errno, |_| way.met_errno)),
            tried: !is_device && judged.iter().all(|way| way.met.is_some()),
            agrees: (!agreements.is_empty()).then(|| agreements.iter().all(|agrees| *agrees)),
            by: if is_device { "mmap" } else { "copy" },
            pa: pa.map(|pa| Hex(pa.0)),
            ways,
            watched: said.to_vec(),
            denial,
        }
    }

    /// 0: read and write are allowed; 1: one is denied; 3: neither is, but one cannot be told.
    pub fn exit_code(&self) -> u8 {
        let words = [self.read, self.write];
        if words.iter().all(|word| *word == Word::Allowed) {
            exit::YES
        } else if words.contains(&Word::Denied) || words.contains(&Word::Dropped) {
            exit::NO
        } else {
            exit::UNSUPPORTED
        }
    }
}

/// The check that made it so: what the kernel's functions said counts over what was predicted, unless that agrees.
fn denial(checks: &[Check], way: &Way, outcome: &Outcome, said: &[Said]) -> Option<Check> {
    let of = |id: Id| checks.iter().find(|check| check.id == id);
    let predicted = way.check.and_then(of);
    if way.agrees == Some(true) || way.met.is_none() {
        return predicted.cloned();
    }
    let call = match (outcome, way.access) {
        (Outcome::NotOpened(_), _) => "open",
        (_, Access::Read) => "pread",
        (_, Access::Write) => "pwrite",
        (_, Access::Mmap) => "mmap",
    };
    if let Some((id, said)) = named(said, call) {
        let what = format!("the kernel's own {} denied it", said.function);
        let check = Check::denies(id, what, format!("watched: {}", said.evidence()));
        let mend = of(id).and_then(|check| check.mend.clone());
        return Some(check.mend(mend.unwrap_or_else(|| NOT_OURS.to_owned())));
    }
    let met = way.met_errno.map_or_else(
        || "no error of the kernel's".to_owned(),
        |errno| format!("{call}(/dev/mem): {errno}"),
    );
    let found = explains(checks, way.access, outcome).cloned();
    found.or_else(|| match way.met_errno {
        // Seen on 6.1, 6.12, 7.2 and 7.3: remap_pfn_range's errors come out as EAGAIN (mmap_mem, drivers/char/mem.c, 6.12).
        Some(Errno(libc::EAGAIN)) if way.access == Access::Mmap => {
            let what = "the page is mapped with another memory type, or could not be mapped";
            let mend = "look at x86/pat_memtype_list in debugfs";
            Some(Check::denies(Id::Pat, what, met).mend(mend))
        }
        _ => Some(unexplained(&met)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use v2p_common::witness::{Answers, Function};

    use crate::doctor::check::Stage;

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
            &[],
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
        let verdict = Verdict::new(&strict()[..1], &trial, &[], None, true);
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
        let verdict = Verdict::new(&strict()[..1], &trial, &said, None, false);
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
            Verdict::new(&unknown, &trial, &[], None, false).exit_code()
        };
        assert_eq!(with_read(failed(libc::EPERM)), exit::NO);
        assert_eq!(with_read(Outcome::Worked), exit::UNSUPPORTED);
    }

    #[test]
    fn zeros_are_no_reading_and_a_dropped_write_is_no_writing() {
        let low = [Check::limits(Id::LowMemory, "what", "evidence")
            .has(Stage::Copy, super::super::check::Effect::Drops)];
        let trial = Trial {
            read: Outcome::Dropped,
            write: Outcome::NotTried("not ours".to_owned()),
            mmap: Outcome::Worked,
        };
        let verdict = Verdict::new(&low, &trial, &[], None, false);
        assert_eq!((verdict.read, verdict.write), (Word::Denied, Word::Dropped));
        assert_eq!((verdict.first, verdict.errno), (Some(Id::LowMemory), None));
        assert_eq!(
            (verdict.agrees, verdict.exit_code()),
            (Some(true), exit::NO)
        );
    }
}
