//! What the kernel's own functions answered to our calls, and which check that was.

use serde::Serialize;
use v2p_common::witness::{Answers, Function};

use super::check::{Errno, Id};
use crate::{
    bpf::{Programs, Watched},
    record::Hex,
};

/// One function's answer to one of our calls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Said {
    /// Our call: `open`, `pread`, `mmap` or `pwrite`.
    pub call: &'static str,
    /// The kernel's function.
    pub function: &'static str,
    /// Its first argument, where that is a number (an address, a frame, a reason); null where it is an object of the
    /// kernel's.
    pub argument: Option<Hex>,
    /// What it returned.
    pub answer: i64,
    #[serde(skip)]
    of: Function,
}

impl Said {
    /// From what the program saw; `None`: the function was not called, or has nothing to do with that call of ours.
    pub(super) fn new(call: &'static str, of: Function, answers: Answers) -> Option<Self> {
        (answers.calls > 0 && is_on_the_way_of(of, call)).then(|| Self {
            call,
            function: of.name(),
            argument: takes_a_number(of).then_some(Hex(answers.argument)),
            answer: returned(of, answers.value),
            of,
        })
    }

    /// The call and its answer.
    pub fn evidence(&self) -> String {
        let argument = self
            .argument
            .map_or_else(String::new, |argument| argument.to_string());
        format!("{}({argument}) = {}", self.function, self.shown())
    }

    /// The answer as the kernel's sources write it.
    fn shown(&self) -> String {
        match i32::try_from(self.answer.unsigned_abs()) {
            Ok(errno) if self.answer < 0 && (1..4096).contains(&errno) => {
                format!("-{}", Errno(errno))
            }
            _ => self.answer.to_string(),
        }
    }

    /// The check that this answer is, where it denies.
    fn denies(&self) -> Option<Id> {
        use Function as F;
        let fails = self.answer < 0;
        let is = |errno: i32| self.answer == -i64::from(errno);
        match self.of {
            F::DevcgroupCheckPermission | F::SecurityFileOpen => fails.then_some(Id::Container),
            F::SecurityLockedDown => fails.then_some(Id::Lockdown),
            // What locks down is asked after the capability, and comes before it in the list: if it was heard, see `named`.
            F::OpenPort => is(libc::EPERM).then_some(Id::CapSysRawio),
            F::MemoryOpen => is(libc::ENXIO).then_some(Id::ConfigDevmem),
            F::ValidPhysAddrRange | F::ValidMmapPhysAddrRange => is(0).then_some(Id::BeyondMemory),
            // What it says counts where devmem_is_allowed then denies: see `named`.
            F::IomemIsExclusive => None,
            F::DevmemIsAllowed => match self.answer {
                0 => Some(Id::StrictDevmem),
                2 => Some(Id::LowMemory),
                _ => None,
            },
            F::RangeIsAllowed => is(0).then_some(Id::StrictDevmem),
            F::ReadMem | F::WriteMem => is(libc::EFAULT).then_some(Id::NotDirectMapped),
            F::PhysMemAccessProtAllowed => is(0).then_some(Id::Pat),
            F::MmapMem | F::MmapMemPrepare => None,
        }
    }
}

/// Which check denied, by the answers of the kernel's functions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Named<'a> {
    /// This one, as that answer shows.
    Check(Id, &'a Said),
    /// One of the two. The function that would tell them apart was not watched.
    Either {
        /// The check of the function that denied, and that of the one that it may have asked before.
        ids: [Id; 2],
        /// The answer.
        said: &'a Said,
        /// The function that was not heard.
        unheard: Function,
    },
}

impl Named<'_> {
    /// Whether `id` may be the one that is meant.
    pub fn may_be(&self, id: Id) -> bool {
        match self {
            Self::Check(named, _) => *named == id,
            Self::Either { ids, .. } => ids.contains(&id),
        }
    }

    /// The check, where it is one.
    pub const fn id(&self) -> Option<Id> {
        match self {
            Self::Check(id, _) => Some(*id),
            Self::Either { .. } => None,
        }
    }
}

/// What is asked before a check, in a function of its own, and makes the same error: denial by that one is not told from
/// denial by `id` where the function is not heard.
const fn asked_before(id: Id) -> Option<(Id, Function)> {
    match id {
        // open_port, drivers/char/mem.c.
        Id::CapSysRawio => Some((Id::Lockdown, Function::SecurityLockedDown)),
        // devmem_is_allowed, arch/x86/mm/init.c.
        Id::StrictDevmem => Some((Id::IoStrictDevmem, Function::IomemIsExclusive)),
        // read_mem and write_mem, drivers/char/mem.c.
        Id::NotDirectMapped => Some((Id::BeyondMemory, Function::ValidPhysAddrRange)),
        _ => None,
    }
}

/// All that was watched.
#[derive(Clone, Copy, Debug)]
pub struct Testimony<'a> {
    /// What was said.
    pub said: &'a [Said],
    /// Functions that would have been heard.
    pub heard: &'a [Function],
}

impl<'a> Testimony<'a> {
    /// The check that the kernel's functions name for `call`: the first that denies, in the kernel's order.
    pub fn named(&self, call: &str) -> Option<Named<'a>> {
        let mut of_call = self.said.iter().filter(|one| one.call == call);
        // Where STRICT_DEVMEM is not built in, PAT itself asks devmem_is_allowed (range_is_allowed, arch/x86/mm/pat/memtype.c,
        // 6.1 and 6.12); where it is, what that refuses does not come so far.
        let of_pat = |one: &&Said| one.denies() == Some(Id::Pat);
        if let Some(said) = of_call.clone().find(of_pat) {
            return Some(Named::Check(Id::Pat, said));
        }
        let claimed = |one: &&Said| one.of == Function::IomemIsExclusive && one.answer == 1;
        let claim = of_call.clone().find(claimed);
        let (id, said) = of_call.find_map(|one| Some((one.denies()?, one)))?;
        if let (Id::StrictDevmem, Some(claim)) = (id, claim) {
            return Some(Named::Check(Id::IoStrictDevmem, claim));
        }
        // Who was not asked did not deny: only where that would have been heard.
        let is_unheard = |(_, function): &(Id, Function)| !self.heard.contains(function);
        let pat = (Id::Pat, Function::PhysMemAccessProtAllowed);
        let by_pat = (id == Id::StrictDevmem && call == "mmap").then_some(pat);
        let mut rivals = [by_pat, asked_before(id)].into_iter().flatten();
        match rivals.find(is_unheard) {
            Some((other, unheard)) => Some(Named::Either {
                ids: [id, other],
                said,
                unheard,
            }),
            None => Some(Named::Check(id, said)),
        }
    }
}

/// Functions that our calls come by: others of their callers are none of ours.
fn is_on_the_way_of(function: Function, call: &str) -> bool {
    use Function as F;
    match function {
        F::DevcgroupCheckPermission
        | F::SecurityFileOpen
        | F::SecurityLockedDown
        | F::OpenPort
        | F::MemoryOpen => call == "open",
        F::ValidPhysAddrRange => call == "pread" || call == "pwrite",
        F::IomemIsExclusive | F::DevmemIsAllowed | F::RangeIsAllowed => call != "open",
        F::ReadMem => call == "pread",
        F::WriteMem => call == "pwrite",
        F::ValidMmapPhysAddrRange
        | F::PhysMemAccessProtAllowed
        | F::MmapMem
        | F::MmapMemPrepare => call == "mmap",
    }
}

/// Whether the first argument is a number: an address, a frame, or what is asked for.
const fn takes_a_number(function: Function) -> bool {
    use Function as F;
    matches!(
        function,
        F::DevcgroupCheckPermission
            | F::SecurityLockedDown
            | F::ValidPhysAddrRange
            | F::ValidMmapPhysAddrRange
            | F::IomemIsExclusive
            | F::DevmemIsAllowed
            | F::RangeIsAllowed
    )
}

/// The register as the function's type has it: ssize_t, bool or int.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the upper half of the register is not defined for int"
)]
const fn returned(function: Function, register: u64) -> i64 {
    match function {
        Function::ReadMem | Function::WriteMem => register as i64,
        Function::IomemIsExclusive => (register & 0xff) as i64,
        _ => register as u32 as i32 as i64,
    }
}

/// Watches our calls, where functions take programs.
pub struct Witness {
    /// The programs, which the walk is one of, and the functions that are live.
    watched: Option<(Programs, Vec<Function>)>,
    /// All that was said, in our order and the kernel's.
    pub said: Vec<Said>,
}

impl Witness {
    /// With the programs that are live.
    pub fn new(programs: Option<Programs>, watched: Watched) -> Self {
        let mut witness = Self {
            watched: programs.map(|programs| (programs, watched.live)),
            said: Vec::new(),
        };
        witness.forget();
        witness
    }

    /// Whether anything is watched.
    pub fn is_live(&self) -> bool {
        let watched = self.watched.as_ref();
        watched.is_some_and(|(_, live)| !live.is_empty())
    }

    /// What was said, and by which of those that were heard.
    pub fn testimony(&self) -> Testimony<'_> {
        let heard = self.watched.as_ref().map(|(_, live)| live.as_slice());
        Testimony {
            said: &self.said,
            heard: heard.unwrap_or_default(),
        }
    }

    /// Takes down what was answered to `call`, which was just made, and starts anew.
    pub fn note(&mut self, call: &'static str) {
        let Some((programs, live)) = &self.watched else {
            return;
        };
        let answers = live.iter().filter_map(|function| {
            let answers = programs.answers(*function).ok()?;
            Said::new(call, *function, answers)
        });
        for said in answers {
            // The same again is told once: /dev/mem may be opened twice, for writing and for reading.
            if !self.said.contains(&said) {
                self.said.push(said);
            }
        }
        self.forget();
    }

    /// Forgets what was answered to calls that do not count. A map that cannot be written any more ends the watch.
    pub fn forget(&mut self) {
        let failed = self
            .watched
            .as_mut()
            .is_some_and(|(programs, _)| programs.forget_answers().is_err());
        if failed {
            self.watched = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(call: &'static str, of: Function, value: u64) -> Option<Said> {
        let answers = Answers {
            calls: 1,
            argument: 16,
            value,
        };
        Said::new(call, of, answers)
    }

    fn name(said: &[Said], call: &str) -> Option<Id> {
        let heard = &Function::ALL;
        match (Testimony { said, heard }).named(call)? {
            Named::Check(id, _) => Some(id),
            Named::Either { .. } => None,
        }
    }

    /// -EPERM as an int in a register whose upper half is something else.
    const EPERM: u64 = 0xdead_0000_ffff_ffff;

    #[test]
    fn an_int_is_read_without_the_registers_upper_half() {
        let locked = said("open", Function::SecurityLockedDown, EPERM).unwrap();
        assert_eq!((locked.answer, locked.shown()), (-1, "-EPERM".to_owned()));
        let read = said("pread", Function::ReadMem, u64::MAX - 13).unwrap();
        assert_eq!(read.shown(), "-EFAULT");
        let bytes = said("pread", Function::ReadMem, 64).unwrap();
        assert_eq!(bytes.shown(), "64");
    }

    #[test]
    fn lockdown_is_told_from_a_missing_capability_by_who_was_asked() {
        let port = said("open", Function::OpenPort, EPERM);
        let locked = said("open", Function::SecurityLockedDown, EPERM);
        let both: Vec<_> = [locked, port.clone()].into_iter().flatten().collect();
        assert_eq!(name(&both, "open"), Some(Id::Lockdown));
        let port: Vec<_> = port.into_iter().collect();
        assert_eq!(name(&port, "open"), Some(Id::CapSysRawio));
        assert_eq!(name(&port, "pread"), None);
    }

    #[test]
    fn a_refused_port_tells_nothing_more_where_lockdown_could_not_be_heard() {
        let port: Vec<_> = said("open", Function::OpenPort, EPERM)
            .into_iter()
            .collect();
        let testimony = Testimony {
            said: &port,
            heard: &[Function::OpenPort],
        };
        let named = testimony.named("open").unwrap();
        assert_eq!(named.id(), None);
        for id in [Id::CapSysRawio, Id::Lockdown] {
            assert!(named.may_be(id), "{id:?}");
        }
        assert!(!named.may_be(Id::Container));
    }

    #[test]
    fn a_refused_page_is_ram_or_a_claim_where_claims_could_not_be_heard() {
        let said: Vec<_> = said("mmap", Function::DevmemIsAllowed, 0)
            .into_iter()
            .collect();
        let heard = &[
            Function::DevmemIsAllowed,
            Function::PhysMemAccessProtAllowed,
        ];
        let said = &said;
        let named = Testimony { said, heard }.named("mmap").unwrap();
        assert!(named.may_be(Id::StrictDevmem) && named.may_be(Id::IoStrictDevmem));
        // Nor is it told from PAT's refusal where that could not be heard.
        let heard = &[Function::DevmemIsAllowed, Function::IomemIsExclusive];
        let named = Testimony { said, heard }.named("mmap").unwrap();
        assert!(named.may_be(Id::StrictDevmem) && named.may_be(Id::Pat));
    }

    #[test]
    fn a_claimed_device_is_told_from_ram_and_low_memory_from_both() {
        let of = |value, exclusive| -> Vec<_> {
            let said = [
                said("mmap", Function::IomemIsExclusive, exclusive),
                said("mmap", Function::DevmemIsAllowed, value),
            ];
            said.into_iter().flatten().collect()
        };
        assert_eq!(name(&of(0, 1), "mmap"), Some(Id::IoStrictDevmem));
        assert_eq!(name(&of(0, 0), "mmap"), Some(Id::StrictDevmem));
        assert_eq!(name(&of(2, 0), "mmap"), Some(Id::LowMemory));
        assert_eq!(name(&of(1, 0), "mmap"), None);
        // PAT asks for itself, on its way to a refusal of its own.
        let mut asked = of(0, 0);
        asked.extend(said("mmap", Function::PhysMemAccessProtAllowed, 0));
        assert_eq!(name(&asked, "mmap"), Some(Id::Pat));
        // Below 1 MiB a claim does not count.
        assert_eq!(name(&of(1, 1), "mmap"), None);
    }

    #[test]
    fn what_another_call_came_by_does_not_count() {
        assert_eq!(said("pread", Function::SecurityFileOpen, 0), None);
    }
}
