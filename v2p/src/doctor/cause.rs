//! Which check made it so, where a trial met what was not foretold: pure.

use v2p_common::witness::Function;

use super::{
    check::{Access, Check, Errno, Id, Status},
    explain::{NOT_OURS, unexplained},
    predict::{Explained, Outcome, explains},
    verdict::Way,
    witness::{Named, Said, Testimony},
};

/// The check that denies `way`: what the kernel's functions said counts over what was predicted, unless that agrees
/// ([`Way::agrees`], which has heard them). Its status is unknown where no single one can be named.
pub(super) fn denial(
    checks: &[Check],
    way: &Way,
    outcome: &Outcome,
    testimony: Testimony<'_>,
) -> Option<Check> {
    if way.agrees == Some(true) || way.met.is_none() {
        return way.check.and_then(|id| of(checks, id)).cloned();
    }
    let call = call(way.access, outcome);
    match testimony.named(call) {
        Some(Named::Check(id, said)) => return Some(watched(checks, id, said)),
        Some(Named::Either { ids, said, unheard }) => {
            return Some(either(checks, ids, said, unheard));
        }
        None => {}
    }
    let met = way.met_errno.map_or_else(
        || "no error of the kernel's".to_owned(),
        |errno| format!("{call}(/dev/mem): {errno}"),
    );
    Some(by_elimination(checks, way.access, outcome, &met))
}

/// The call that had that outcome.
pub(super) const fn call(access: Access, outcome: &Outcome) -> &'static str {
    match (outcome, access) {
        (Outcome::NotOpened(_), _) => "open",
        (_, Access::Read) => "pread",
        (_, Access::Write) => "pwrite",
        (_, Access::Mmap) => "mmap",
    }
}

fn of(checks: &[Check], id: Id) -> Option<&Check> {
    checks.iter().find(|check| check.id == id)
}

fn watched(checks: &[Check], id: Id, said: &Said) -> Check {
    let what = format!("the kernel's own {} denied it", said.function);
    let check = Check::denies(id, what, format!("watched: {}", said.evidence()));
    let mend = of(checks, id).and_then(|check| check.mend.clone());
    check.mend(mend.unwrap_or_else(|| NOT_OURS.to_owned()))
}

/// The function that denied may have asked another, and which of the two refused was not heard: named is the one that is
/// left where the other is known to let us through.
fn either(checks: &[Check], ids: [Id; 2], said: &Said, unheard: Function) -> Check {
    let heard = format!("watched: {}", said.evidence());
    let unheard = format!("{} cannot be watched here", unheard.name());
    let passes = |id| of(checks, id).filter(|check| check.status == Status::Ok);
    let named = |id, other: &Check| {
        let what = format!(
            "the kernel's own {} denied it, and of what that asks {} lets us through",
            said.function,
            other.id.name()
        );
        let evidence = format!("{heard}; {}; {unheard}", other.evidence);
        let mend = of(checks, id).and_then(|check| check.mend.clone());
        Check::denies(id, what, evidence).mend(mend.unwrap_or_else(|| NOT_OURS.to_owned()))
    };
    let [first, second] = ids;
    match (passes(first), passes(second)) {
        (Some(other), None) => named(second, other),
        (None, Some(other)) => named(first, other),
        _ => {
            let what = format!(
                "the kernel's own {} denied it: by {}, or by {}; cannot tell which",
                said.function,
                first.name(),
                second.name()
            );
            Check::unknown(first, what, format!("{heard}; {unheard}")).mend(NOT_OURS)
        }
    }
}

/// The check that makes such an outcome; `met` is the call and its error. Where none is known to, the one that could
/// not be told and may; where there are several such, they are all told, as unknown.
pub(super) fn by_elimination(
    checks: &[Check],
    access: Access,
    outcome: &Outcome,
    met: &str,
) -> Check {
    let perhaps = match explains(checks, access, outcome) {
        Explained::By(check) => return check.clone(),
        Explained::Perhaps(perhaps) => perhaps,
    };
    match perhaps.as_slice() {
        [] => match outcome {
            // Seen on 6.1, 6.12, 7.2 and 7.3: remap_pfn_range's errors come out as EAGAIN (mmap_mem, drivers/char/mem.c, 6.12).
            Outcome::Failed(Some(Errno(libc::EAGAIN))) if access == Access::Mmap => {
                let what = "the page is mapped with another memory type, or could not be mapped";
                Check::denies(Id::Pat, what, met).mend("look at x86/pat_memtype_list in debugfs")
            }
            _ => unexplained(met),
        },
        [one] => {
            let what =
                "it denies, by elimination: every other check that makes such an error passes";
            let check = Check::denies(one.id, what, format!("{met}; {}", one.evidence));
            check.mend(one.mend.clone().unwrap_or_else(|| NOT_OURS.to_owned()))
        }
        [first, ..] => {
            let names: Vec<_> = perhaps.iter().map(|check| check.id.name()).collect();
            let what = format!("cannot tell which denies it: {}", names.join(", or "));
            let evidence: Vec<_> = perhaps.iter().map(|c| c.evidence.as_str()).collect();
            let check = Check::unknown(first.id, what, format!("{met}; {}", evidence.join("; ")));
            check.mend(first.mend.clone().unwrap_or_else(|| NOT_OURS.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use v2p_common::witness::Answers;

    use super::*;
    use crate::doctor::check::Stage;

    fn port(capability: Check, lockdown: Check) -> Check {
        let answers = Answers {
            calls: 1,
            argument: 0,
            value: u64::from(u32::MAX),
        };
        let said = Said::new("open", Function::OpenPort, answers).unwrap();
        let ids = [Id::CapSysRawio, Id::Lockdown];
        let unheard = Function::SecurityLockedDown;
        either(&[capability, lockdown], ids, &said, unheard)
    }

    fn told(check: &Check) -> (Id, Status) {
        (check.id, check.status)
    }

    #[test]
    fn a_refused_port_is_what_is_left_of_the_two() {
        let has = Check::ok(Id::CapSysRawio, "", "CapEff");
        let lacks = Check::denies(Id::CapSysRawio, "", "");
        let open = Check::ok(Id::Lockdown, "", "[none]");
        let hidden = || Check::unknown(Id::Lockdown, "", "");
        let check = port(has.clone(), hidden());
        assert_eq!(told(&check), (Id::Lockdown, Status::Denies));
        assert!(check.evidence.contains("CapEff"), "{}", check.evidence);
        let check = port(lacks.clone(), open.clone());
        assert_eq!(told(&check), (Id::CapSysRawio, Status::Denies));
        // Neither is known to pass, or both are.
        for check in [port(lacks, hidden()), port(has, open)] {
            assert_eq!(check.status, Status::Unknown);
            assert!(check.what.contains("cannot tell which"), "{}", check.what);
        }
    }

    fn eliminated(checks: &[Check]) -> Check {
        let outcome = Outcome::NotOpened(Some(Errno(libc::EPERM)));
        by_elimination(checks, Access::Read, &outcome, "open(/dev/mem): EPERM")
    }

    fn unknown(id: Id) -> Check {
        Check::unknown(id, "what", "unread").may_fail(Stage::Open, libc::EPERM)
    }

    #[test]
    fn one_check_that_could_not_be_told_is_named_and_two_are_not() {
        let check = eliminated(&[unknown(Id::Lockdown)]);
        assert_eq!(told(&check), (Id::Lockdown, Status::Denies));
        assert!(check.what.contains("by elimination") && check.mend.is_some());
        assert_eq!(check.evidence, "open(/dev/mem): EPERM; unread");
        let check = eliminated(&[unknown(Id::CapSysRawio), unknown(Id::Lockdown)]);
        assert_eq!(check.status, Status::Unknown);
        assert!(check.what.ends_with("cap-sys-rawio, or lockdown"));
        assert_eq!(told(&eliminated(&[])), (Id::Container, Status::Denies));
    }
}
