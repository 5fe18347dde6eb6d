//! Predictions, trials and witnesses -> one verdict: pure.

use serde::Serialize;
use v2p_common::PhysAddr;

use super::{
    cause,
    check::{Access, Check, Effect, Errno, Id, Status},
    predict::{Answer, Outcome, agree, predict},
    witness::{Named, Said, Testimony},
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
    /// The check that denied, as far as the kernel's own functions were watched and tell it.
    pub watched: Option<Id>,
    /// Whether the trial met what was predicted, and by the check that was predicted, as far as that was watched; null
    /// where one of them is missing.
    pub agrees: Option<bool>,
}

impl Way {
    fn new(checks: &[Check], access: Access, outcome: &Outcome, testimony: Testimony<'_>) -> Self {
        let answer = predict(checks, access);
        let (check, predicted_errno) = match answer {
            Answer::Allowed => (None, None),
            Answer::Dropped(id) | Answer::Unknown(id) => (Some(id), None),
            Answer::NotOpened(id, errno) | Answer::Denied(id, errno) => (Some(id), errno),
        };
        let met = Word::tried(outcome);
        // What lets it pass asks some of them too.
        let named = met
            .filter(|met| *met != Word::Allowed)
            .and_then(|_| testimony.named(cause::call(access, outcome)));
        // The same error can be another check's.
        let is_another = match (&named, check) {
            (Some(named), Some(check)) => !named.may_be(check),
            _ => false,
        };
        Self {
            access,
            predicted: Word::predicted(answer),
            check,
            predicted_errno,
            met,
            met_errno: match outcome {
                Outcome::NotOpened(errno) | Outcome::Failed(errno) => *errno,
                _ => None,
            },
            untried: match outcome {
                Outcome::NotTried(why) => Some(why.clone()),
                _ => None,
            },
            watched: named.as_ref().and_then(Named::id),
            agrees: agree(answer, outcome).map(|agrees| agrees && !is_another),
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
    /// The first check that denies; null where no single one can be named.
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
    /// The first denial in full, or what cannot be told: for text.
    #[serde(skip)]
    pub denial: Option<Check>,
}

impl Verdict {
    /// Judges. A device's registers (`is_device`) are reached by mmap(2) alone: tried for reading, since nothing is opened
    /// for writing but to write to a page of our own; for writing the kernel asks one thing more, the path's leave to open
    /// for it (6.1 to 7.3: mmap(2) in drivers/char/mem.c does not ask what for).
    pub fn new(
        checks: &[Check],
        trial: &Trial,
        testimony: Testimony<'_>,
        pa: Option<PhysAddr>,
        is_device: bool,
    ) -> Self {
        let way = |access| Way::new(checks, access, trial.of(access), testimony);
        let ways: Vec<_> = [Access::Read, Access::Write, Access::Mmap]
            .map(way)
            .to_vec();
        let judged: Vec<_> = ways
            .iter()
            .filter(|way| (way.access == Access::Mmap) == is_device)
            .collect();
        let denied = judged.iter().find(|way| way.word() != Word::Allowed);
        let mut denial =
            denied.and_then(|way| cause::denial(checks, way, trial.of(way.access), testimony));
        let mut errno =
            denied.and_then(|way| way.met.map_or(way.predicted_errno, |_| way.met_errno));
        let not_for_writing = opening_for_writing(checks).filter(|_| is_device);
        if let (None, Some((check, Effect::Fails(error)))) = (denied, not_for_writing) {
            denial = Some(check.clone());
            errno = error;
        }
        let is_told = |check: &&Check| check.status != Status::Unknown;
        let agreements: Vec<_> = ways.iter().filter_map(|way| way.agrees).collect();
        let first_and_last = |way: Option<&&Way>| way.map_or(Word::Unknown, |way| way.word());
        let read = match first_and_last(judged.first()) {
            // Zeros instead of what is there.
            Word::Dropped => Word::Denied,
            word => word,
        };
        let write = match (first_and_last(judged.last()), not_for_writing) {
            (Word::Allowed, Some((_, Effect::Fails(_)))) => Word::Denied,
            (Word::Allowed, Some(_)) => Word::Unknown,
            (word, _) => word,
        };
        Self {
            read,
            write,
            first: denial.as_ref().filter(is_told).map(|check| check.id),
            errno,
            tried: !is_device && judged.iter().all(|way| way.met.is_some()),
            agrees: (!agreements.is_empty()).then(|| agreements.iter().all(|agrees| *agrees)),
            by: if is_device { "mmap" } else { "copy" },
            pa: pa.map(|pa| Hex(pa.0)),
            ways,
            watched: testimony.said.to_vec(),
            denial,
        }
    }

    /// Where no page is behind the address, whatever the checks let through: there is nothing to reach, and this is why.
    pub fn without_a_page(&mut self, why: &Check) {
        let reaches = |word: &Word| matches!(word, Word::Allowed | Word::Unknown);
        if reaches(&self.read) && reaches(&self.write) {
            self.denial = Some(why.clone());
            (self.first, self.errno) = (None, None);
        }
        for word in [&mut self.read, &mut self.write] {
            if reaches(word) {
                *word = Word::Denied;
            }
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

/// The first check that stops, or may stop, open(2) for writing and not for reading.
fn opening_for_writing(checks: &[Check]) -> Option<(&Check, Effect)> {
    let stops = |check| Some((check, Check::effect_on_opening_for_writing(check)?));
    checks.iter().find_map(stops)
}
