//! What the tracer needs, and whether it is here: each thing is tried, none is guessed from a version.

use std::{fs, path::Path};

use anyhow::Result;
use rustix::process::{Resource, getrlimit};

use super::{
    address,
    check::{Check, Errno, Id, Status},
    facts::{Facts, User},
};
use crate::{
    bpf::{Kind, Programs, RING_BYTES, Refusal, Watched},
    carrier::Carrier,
    exit::{self, Failure},
    kernel::{self, privileges::Capability},
};

/// What was found, and what may go on being used.
pub struct Tracing {
    /// The checks.
    pub checks: Vec<Check>,
    /// Functions whose answers are watched.
    pub watched: Watched,
    /// Programs with those functions.
    pub programs: Option<Programs>,
    /// Looks through the direct map.
    pub carrier: Option<Carrier>,
}

/// What `watch` cannot see as it happens without function hooks.
const WITHOUT_FENTRY: &str = "copy-on-write, swap-out and unmapping are not seen as they happen, only by comparing the page tables";

impl Tracing {
    /// Tries everything. Without the privileges most of it is refused, which is what the checks then say.
    pub fn probe(facts: &Facts) -> Self {
        let mut found = Self {
            checks: vec![cap_bpf(&facts.user)],
            watched: Watched::default(),
            programs: None,
            carrier: None,
        };
        let layout = kernel::layout::learn();
        found.checks.push(match &layout {
            Ok(_) => Check::ok(Id::Btf, "the kernel's types", kernel::layout::BTF_PATH),
            Err(e) => failed(Id::Btf, "no types of the kernel", e),
        });
        found.checks.push(tracefs());
        let memory = format!(
            "RLIMIT_MEMLOCK {}",
            getrlimit(Resource::Memlock)
                .current
                .map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes"))
        );
        let programs = layout.map(|layout| Programs::load(|| Ok(layout)));
        let ring = format!("a ring of {} MiB was made; {memory}", RING_BYTES >> 20);
        let without_types = "cannot tell: without the kernel's types no maps are made";
        found.checks.push(match &programs {
            Err(_) => Check::unknown(Id::RingBuffer, without_types, "see btf"),
            Ok(Ok(_)) => Check::ok(Id::RingBuffer, "the maps are there", ring),
            Ok(Err(e)) => failed(Id::RingBuffer, "no maps, so nothing is traced", e),
        });
        match programs {
            Ok(Ok(programs)) => found.try_programs(programs),
            _ => found
                .checks
                .extend([Id::BpfTracepoint, Id::BpfFentry].map(|id| {
                    let what = "cannot tell: there are no maps to load programs with";
                    Check::unknown(id, what, "see ring-buffer")
                })),
        }
        found
    }

    fn try_programs(&mut self, mut programs: Programs) {
        self.watched = programs.watch_functions();
        let carrier = Carrier::new(&mut programs).and_then(|mut carrier| {
            kernel::direct_map::learn(&mut carrier)?;
            Ok(carrier)
        });
        let kinds = programs.load_kinds();
        self.checks
            .push(tracepoints(&kinds, carrier.as_ref().err()));
        self.checks.push(fentry(&self.watched));
        self.carrier = carrier.ok();
        self.programs = Some(programs);
    }
}

/// What following pages needs of us: frames shown, and eBPF programs.
///
/// # Errors
/// Exit code 3, with the check that denies.
pub fn require() -> Result<()> {
    let user = User::read();
    passed(&address::sys_admin(&user, true))?;
    passed(&cap_bpf(&user))
}

/// What a page-table walk needs of us: eBPF programs.
///
/// # Errors
/// As [`require`].
pub fn require_programs() -> Result<()> {
    passed(&cap_bpf(&User::read()))
}

fn passed(check: &Check) -> Result<()> {
    if matches!(check.status, Status::Ok | Status::Limits) {
        return Ok(());
    }
    let failure = Failure::unsupported(format!("{}: {}", check.what, check.evidence));
    Err(failure.hint(check.mend.clone().unwrap_or_default()).into())
}

/// A check that failed with an error of its own, which knows its hint.
fn failed(id: Id, what: &str, error: &anyhow::Error) -> Check {
    let (cause, hint) = exit::cause_and_hint(error);
    let check = Check::denies(id, what, cause);
    match hint {
        Some(hint) => check.mend(hint),
        None => check,
    }
}

fn cap_bpf(user: &User) -> Check {
    let id = Id::CapBpf;
    let Some(privileges) = user.privileges else {
        return Check::unknown(id, "cannot tell our capabilities", "no /proc/self/status")
            .mend("mount -t proc proc /proc");
    };
    let mend = "run it as root: sudo v2p ...";
    let evidence = privileges.evidence();
    let has = |capability| privileges.has(capability);
    if let Some(ns) = user.inner_namespace() {
        let what = "no eBPF that traces from inside a user namespace";
        return Check::denies(id, what, ns.evidence()).mend(mend);
    }
    // bpf_capable() and perfmon_capable(), include/linux/capability.h.
    if has(Capability::SysAdmin) || has(Capability::Bpf) && has(Capability::Perfmon) {
        return Check::ok(id, "may load eBPF programs that trace", evidence);
    }
    let what = "neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON: no eBPF programs";
    Check::denies(id, what, format!("bits 21, 38, 39 of {evidence}")).mend(mend)
}

fn tracefs() -> Check {
    let id = Id::Tracefs;
    let places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    if let Some(place) = places
        .iter()
        .find(|place| Path::new(place).join("events").exists())
    {
        return Check::ok(id, "mounted, though v2p does not need it", *place);
    }
    // The folder is root's alone, mounted or not.
    let hidden = fs::read_dir("/sys/kernel/tracing")
        .is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied);
    let what = match hidden {
        true => "cannot tell whether it is mounted",
        false => "not mounted; v2p does not need it, other tracers do",
    };
    let check = match hidden {
        true => Check::unknown(id, what, places.join(", ")),
        false => Check::limits(id, what, format!("no events in {}", places.join(", "))),
    };
    check.mend("mount -t tracefs nodev /sys/kernel/tracing")
}

fn tracepoints(kinds: &[(Kind, Result<(), Refusal>)], carrier: Option<&anyhow::Error>) -> Check {
    let id = Id::BpfTracepoint;
    let loaded: Vec<_> = kinds.iter().filter(|(_, loaded)| loaded.is_ok()).collect();
    let names: Vec<_> = loaded.iter().map(|(kind, _)| kind.name()).collect();
    let refused: Vec<_> = kinds
        .iter()
        .filter_map(|(kind, loaded)| Some((*kind, loaded.as_ref().err()?)))
        .collect();
    let told: Vec<_> = refused
        .iter()
        .map(|(kind, refusal)| format!("{} ({})", kind.name(), refusal.why))
        .collect();
    let mut evidence = format!("loaded: {}", or_none(&names));
    if !told.is_empty() {
        evidence = format!("{evidence}; refused: {}", told.join(", "));
    }
    if let Some(e) = carrier {
        let check = failed(id, "no page-table walk, so no tracing", e);
        return Check {
            evidence: format!("{}; {evidence}", check.evidence),
            ..check
        };
    }
    let needed = [Kind::RawTracepoint, Kind::PerfEvent];
    match refused.iter().any(|(kind, _)| needed.contains(kind)) {
        true => Check::limits(id, "some hooks of watch cannot be live", evidence),
        false => Check::ok(id, "tracepoints and perf events take programs", evidence),
    }
}

fn or_none<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

fn fentry(watched: &Watched) -> Check {
    let id = Id::BpfFentry;
    let Watched { live, missing } = watched;
    if !live.is_empty() {
        // The kernel's refusal has an errno; a function that it lacks has none.
        let names = |is_refused: bool| -> Vec<_> {
            let of = missing
                .iter()
                .filter(|(_, refusal)| refusal.errno.is_some() == is_refused);
            of.map(|(function, _)| function.name()).collect()
        };
        let what = "functions take programs: denials are watched, not only read from files";
        let mut evidence = format!("{} functions on the way to /dev/mem watched", live.len());
        for (what, names) in [
            ("not in this kernel", names(false)),
            ("refused", names(true)),
        ] {
            if !names.is_empty() {
                evidence = format!("{evidence}; {what}: {}", names.join(", "));
            }
        }
        return Check::ok(id, what, evidence);
    }
    // A function that the kernel lacks has no errno; the kernel's own refusal has.
    let refusal = missing
        .iter()
        .map(|(_, refusal)| refusal)
        .find(|refusal| refusal.errno.is_some())
        .or_else(|| missing.first().map(|(_, refusal)| refusal));
    let evidence = refusal.map_or_else(String::new, |refusal| match refusal.errno {
        Some(n) => format!(
            "BPF_PROG_LOAD of a fexit program: {} ({})",
            Errno(n),
            refusal.why
        ),
        None => refusal.why.clone(),
    });
    let what = format!("functions take no programs: {WITHOUT_FENTRY}");
    Check::limits(id, what, evidence).mend(
        "a kernel with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, and no module that forbids it",
    )
}
