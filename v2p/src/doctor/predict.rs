//! From checks to what an access will meet, and whether it did: pure.

use super::check::{Access, Check, Effect, Errno, Id};

/// What an access will meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing is in its way.
    Allowed,
    /// Reads give zeros, writes go nowhere.
    Dropped(Id),
    /// open(2) before it fails. Without an error: v2p itself does not open what lies there.
    NotOpened(Id, Option<Errno>),
    /// It fails. Without an error: v2p itself cannot make it.
    Denied(Id, Option<Errno>),
    /// This check could not be told.
    Unknown(Id),
}

/// What the first of the checks that stops `access` makes of it.
pub fn predict(checks: &[Check], access: Access) -> Answer {
    let mut unknown = None;
    for check in checks {
        match check.effect_on(access) {
            Some((stage, Effect::Fails(errno))) => {
                return match stage.is_open() {
                    true => Answer::NotOpened(check.id, errno),
                    false => Answer::Denied(check.id, errno),
                };
            }
            Some((_, Effect::Drops)) => return Answer::Dropped(check.id),
            Some((_, Effect::Unknown(_))) => {
                unknown.get_or_insert(check.id);
            }
            None => {}
        }
    }
    unknown.map_or(Answer::Allowed, Answer::Unknown)
}

/// What an access met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was not made, and why.
    NotTried(String),
    /// It did what it was to do.
    Worked,
    /// It said that it had, but read zeros, or the write is not there.
    Dropped,
    /// open(2) before it failed.
    NotOpened(Option<Errno>),
    /// It failed.
    Failed(Option<Errno>),
}

/// Whether prediction and outcome are the same; `None`: one of them is missing. EPERM of open(2) is not what a check of
/// the address foretold, though that makes EPERM too.
pub fn agree(predicted: Answer, outcome: &Outcome) -> Option<bool> {
    Some(match (predicted, outcome) {
        (_, Outcome::NotTried(_)) | (Answer::Unknown(_), _) => return None,
        (Answer::Allowed, Outcome::Worked) | (Answer::Dropped(_), Outcome::Dropped) => true,
        (Answer::NotOpened(_, errno), Outcome::NotOpened(other))
        | (Answer::Denied(_, errno), Outcome::Failed(other)) => errno == *other,
        _ => false,
    })
}

/// What explains an outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Explained<'a> {
    /// The first check that makes such an error.
    By(&'a Check),
    /// Those that could not be told, and may make it; none where the outcome is no denial either.
    Perhaps(Vec<&'a Check>),
}

/// The checks that explain `outcome`.
pub fn explains<'a>(checks: &'a [Check], access: Access, outcome: &Outcome) -> Explained<'a> {
    let (wanted, perhaps) = match outcome {
        Outcome::NotOpened(errno) | Outcome::Failed(errno) => {
            (Effect::Fails(*errno), Effect::Unknown(*errno))
        }
        Outcome::Dropped => (Effect::Drops, Effect::Unknown(None)),
        Outcome::Worked | Outcome::NotTried(_) => return Explained::Perhaps(Vec::new()),
    };
    let is_open = matches!(outcome, Outcome::NotOpened(_));
    let with = |wanted| {
        move |check: &&Check| {
            let found = check.effect_on(access);
            found.is_some_and(|(stage, effect)| stage.is_open() == is_open && effect == wanted)
        }
    };
    match checks.iter().find(with(wanted)) {
        Some(check) => Explained::By(check),
        None => Explained::Perhaps(checks.iter().filter(with(perhaps)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Stage;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok(Id::DevmemNode, "", ""),
            Check::unknown(Id::Lockdown, "", "").may_fail(Stage::Open, libc::EPERM),
            Check::denies(Id::BeyondMemory, "", "").fails(Stage::Copy, libc::EFAULT),
            Check::limits(Id::Pat, "", "").fails(Stage::Map, libc::EINVAL),
        ]
    }

    #[test]
    fn the_first_check_on_the_way_decides() {
        let denied = |id, errno| Answer::Denied(id, Some(Errno(errno)));
        assert_eq!(
            predict(&checks(), Access::Read),
            denied(Id::BeyondMemory, libc::EFAULT)
        );
        assert_eq!(
            predict(&checks(), Access::Mmap),
            denied(Id::Pat, libc::EINVAL)
        );
    }

    #[test]
    fn what_cannot_be_told_is_not_called_allowed() {
        let checks = checks();
        assert_eq!(
            predict(&checks[..2], Access::Write),
            Answer::Unknown(Id::Lockdown)
        );
        assert_eq!(predict(&checks[..1], Access::Write), Answer::Allowed);
    }

    #[test]
    fn a_disagreement_is_one_of_fact_and_of_errno() {
        let eperm = Some(Errno(libc::EPERM));
        let denied = Answer::Denied(Id::StrictDevmem, eperm);
        assert_eq!(agree(denied, &Outcome::Failed(eperm)), Some(true));
        assert_eq!(agree(denied, &Outcome::Worked), Some(false));
        assert_eq!(
            agree(denied, &Outcome::Failed(Some(Errno(libc::EFAULT)))),
            Some(false)
        );
        assert_eq!(agree(denied, &Outcome::NotTried(String::new())), None);
        assert_eq!(agree(Answer::Allowed, &Outcome::Dropped), Some(false));
        assert_eq!(agree(denied, &Outcome::NotOpened(eperm)), Some(false));
    }

    #[test]
    fn an_outcome_is_explained_by_a_check_that_makes_it_or_perhaps_by_one_that_was_not_told() {
        let checks = checks();
        let found = |outcome: fn(Option<Errno>) -> Outcome, errno| match explains(
            &checks,
            Access::Read,
            &outcome(Some(Errno(errno))),
        ) {
            Explained::By(check) => (Some(check.id), Vec::new()),
            Explained::Perhaps(found) => (None, found.iter().map(|check| check.id).collect()),
        };
        let sure = (Some(Id::BeyondMemory), vec![]);
        assert_eq!(found(Outcome::Failed, libc::EFAULT), sure);
        let perhaps = (None, vec![Id::Lockdown]);
        assert_eq!(found(Outcome::NotOpened, libc::EPERM), perhaps);
        let nothing = (None, vec![]);
        assert_eq!(found(Outcome::Failed, libc::EPERM), nothing);
        assert_eq!(found(Outcome::NotOpened, libc::EIO), nothing);
        let worked = explains(&checks, Access::Read, &Outcome::Worked);
        assert_eq!(worked, Explained::Perhaps(vec![]));
    }
}
