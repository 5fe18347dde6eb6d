//! What the tracer needs, and whether it is here: each thing is tried, none is guessed from a version.

use std::{fs, path::Path};

use anyhow::Result;

use super::{
    address,
    check::{Check, Errno, Id, Status},
    facts::{Facts, User},
    losses::{Lost, losses},
    open::{AS_ROOT, ON_THE_HOST},
};
use crate::{
    bpf::{FaultKind, Kind, Programs, Refusal, Trial, Watched},
    carrier::Carrier,
    direct_map::{self, DirectMap},
    exit::{self, Failure},
    kernel::{
        self,
        config::{Config, Setting},
        layout::Learnt,
        limits::Limits,
        privileges::{Capability, MOUNT_PROC},
        securityfs,
    },
    tracer,
};

/// What was found, and what may go on being used.
pub struct Tracing {
    /// The checks.
    pub checks: Vec<Check>,
    /// What a watch would not see as it happens; none where no hook could be tried.
    pub lost: Option<Vec<Lost>>,
    /// Functions whose answers are watched.
    pub watched: Watched,
    /// Programs with those functions.
    pub programs: Option<Programs>,
    /// Looks through the direct map.
    pub carrier: Option<(Carrier, DirectMap)>,
}

/// What the kernel said to hooks and probes.
struct Tried {
    kinds: Vec<(Kind, Trial)>,
    /// Hooks of a watch that were live.
    hooks: usize,
    lost: Vec<Lost>,
}

impl Tracing {
    /// Tries everything, as for a watch of a process of `threads` threads. Without the privileges most of it is refused,
    /// which is what the checks then say.
    pub fn probe(facts: &Facts, learnt: Result<Learnt>, threads: u64) -> Self {
        let mut found = Self {
            checks: vec![cap_bpf(&facts.user)],
            lost: None,
            watched: Watched::default(),
            programs: None,
            carrier: None,
        };
        found.checks.push(match &learnt {
            Ok(_) => Check::ok(Id::Btf, "the kernel's types", kernel::layout::BTF_PATH),
            Err(e) => failed(Id::Btf, "no types of the kernel", e),
        });
        found.checks.push(tracefs());
        let programs = learnt.map(|learnt| Programs::load(&learnt));
        let limits = Limits::read();
        let without_types = "cannot tell: without the kernel's types no maps are made";
        found.checks.push(match &programs {
            Err(_) => Check::unknown(Id::RingBuffer, without_types, "see btf"),
            Ok(Ok(_)) => limits.judge_ring(),
            // The error names the limit, where it is one.
            Ok(Err(e)) => failed(Id::RingBuffer, "no maps, so nothing is traced", e),
        });
        match programs {
            Ok(Ok(programs)) => found.try_programs(programs, facts, &limits, threads),
            _ => found
                .checks
                .extend([Id::BpfTracepoint, Id::BpfFentry].map(|id| {
                    let what = "cannot tell: there are no maps to load programs with";
                    Check::unknown(id, what, "see ring-buffer")
                })),
        }
        found
    }

    fn try_programs(
        &mut self,
        mut programs: Programs,
        facts: &Facts,
        limits: &Limits,
        threads: u64,
    ) {
        let kinds = programs.try_kinds().to_vec();
        // Of our own process nothing is asked but that it is there.
        let (live, missing) = tracer::try_hooks(&mut programs).unwrap_or_default();
        let tried = Tried {
            kinds,
            hooks: live.len(),
            lost: losses(&live, &missing),
        };
        self.watched = programs.watch_functions();
        let carrier = Carrier::new(&mut programs).and_then(|mut carrier| {
            let direct_map = direct_map::learn(&mut carrier)?;
            Ok((carrier, direct_map))
        });
        let carriers_error = carrier.as_ref().err();
        let events = live.iter().filter(|hook| FaultKind::is_hook(hook));
        let threads = limits.judge_threads(tried.hooks, events.count(), threads);
        self.checks
            .push(tracepoints(&tried, carriers_error, threads));
        self.checks
            .push(fentry(&tried, &self.watched, facts.config.as_ref()));
        self.lost = Some(tried.lost);
        self.carrier = carrier.ok();
        self.programs = Some(programs);
    }
}

/// What following pages needs of us: frames shown, and eBPF programs.
///
/// # Errors
/// Exit code 3, with the check that denies.
pub fn require() -> Result<()> {
    require_frames()?;
    require_programs()
}

/// Frames shown: what pagemap hides from who lacks CAP_SYS_ADMIN.
///
/// # Errors
/// As [`require`].
pub fn require_frames() -> Result<()> {
    passed(&address::sys_admin(&User::read(), true))
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
            .mend(MOUNT_PROC);
    };
    let evidence = privileges.evidence();
    let has = |capability| privileges.has(capability);
    if let Some(ns) = user.inner_namespace() {
        let what = "no eBPF that traces from inside a user namespace";
        return Check::denies(id, what, ns.evidence()).mend(ON_THE_HOST);
    }
    // bpf_capable() and perfmon_capable(), include/linux/capability.h.
    if has(Capability::SysAdmin) || has(Capability::Bpf) && has(Capability::Perfmon) {
        return Check::ok(id, "may load eBPF programs that trace", evidence);
    }
    let what = "neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON: no eBPF programs";
    let mend = match rustix::process::geteuid().is_root() {
        true => ON_THE_HOST,
        false => AS_ROOT,
    };
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

/// In short: the error's name, with what it does not say.
fn shown(refusal: &Refusal) -> String {
    let Some(errno) = refusal.errno else {
        return refusal.why.clone();
    };
    let words = std::io::Error::from_raw_os_error(errno).to_string();
    match refusal.why.strip_prefix(&words) {
        Some(more) => format!("{}{more}", Errno(errno)),
        None => format!("{} ({})", Errno(errno), refusal.why),
    }
}

const MORE_FILES: &str = "ulimit -Hn 1048576, as root";

impl Tried {
    /// Whether descriptors ran out while hooks were attached.
    fn has_no_descriptors(&self) -> bool {
        let emfile = std::io::Error::from_raw_os_error(libc::EMFILE).to_string();
        self.lost.iter().any(|lost| lost.why.contains(&emfile))
    }

    /// What became of a kind of programs, as one word or two.
    fn kind(&self, wanted: Kind) -> Option<String> {
        let (_, trial) = self.kinds.iter().find(|(kind, _)| *kind == wanted)?;
        Some(match trial {
            Trial::Live => "live".to_owned(),
            Trial::NotAsked => "attached, but never asked".to_owned(),
            Trial::Loaded(refusal) => format!("loaded, not attached ({})", shown(refusal)),
            Trial::Refused(refusal) => format!("refused ({})", shown(refusal)),
        })
    }

    /// What is lost, by hooks on functions or by others, in short.
    fn lost(&self, by_function: bool) -> Option<String> {
        let lost = self.lost.iter().filter(|l| l.by_function == by_function);
        let whats: Vec<_> = lost.map(|lost| lost.what.as_str()).collect();
        (!whats.is_empty()).then(|| whats.join(", "))
    }
}

/// All but what goes on functions; `threads`: whether those that are asked about are too many.
fn tracepoints(
    tried: &Tried,
    carrier: Option<&anyhow::Error>,
    (threads, too_many): (String, bool),
) -> Check {
    let id = Id::BpfTracepoint;
    let kinds = tried.kinds.iter().map(|(kind, _)| *kind);
    let kinds = kinds.filter(|kind| *kind != Kind::Lsm);
    let told = kinds.filter_map(|kind| Some(format!("{} {}", kind.name(), tried.kind(kind)?)));
    let told: Vec<_> = told.collect();
    let hooks = tried.hooks;
    let evidence = format!(
        "loaded, attached and taken off: {hooks} hooks of watch; {}; {threads}",
        told.join(", ")
    );
    if let Some(e) = carrier {
        let check = failed(id, "no page-table walk, so no tracing", e);
        return Check {
            evidence: format!("{}; {evidence}", check.evidence),
            ..check
        };
    }
    match tried.lost(false) {
        Some(lost) => {
            let what = format!("watch does not see as they happen: {lost}");
            let check = Check::limits(id, what, evidence);
            if tried.has_no_descriptors() {
                return check.mend(MORE_FILES);
            }
            check.mend(
                "a kernel that has them: CONFIG_MIGRATION, CONFIG_TRANSPARENT_HUGEPAGE, CONFIG_KSM, CONFIG_PERF_EVENTS",
            )
        }
        None if too_many => {
            let what = "watch cannot follow the page faults of so many threads";
            Check::limits(id, what, evidence).mend(MORE_FILES)
        }
        None => Check::ok(id, "tracepoints and perf events take programs", evidence),
    }
}

fn fentry(tried: &Tried, watched: &Watched, config: Option<&Config>) -> Check {
    let id = Id::BpfFentry;
    let lsm = lsm(tried);
    if watched.live.is_empty() {
        let refusal = refusal(watched);
        let evidence = refusal.map_or_else(String::new, |refusal| {
            format!("BPF_PROG_LOAD of a fexit program: {}", shown(refusal))
        });
        let what = "functions take no programs: denials are told from files alone, and watch sees these only afterwards";
        let check = Check::limits(id, what, format!("{evidence}; {lsm}"));
        return mend_functions(check, refusal.and_then(|refusal| refusal.errno), config);
    }
    let evidence = format!("{}; {lsm}", witnesses(watched));
    match tried.lost(true) {
        Some(lost) => {
            let what =
                format!("functions take programs, but watch does not see as they happen: {lost}");
            Check::limits(id, what, evidence).mend(
                "none but another kernel: this one has not those functions, or they have more arguments than a program may have",
            )
        }
        None => {
            let what = "functions take programs: denials are watched, and what watch follows is seen as it happens";
            Check::ok(id, what, evidence)
        }
    }
}

/// Whether security modules may be programs here; v2p has none that it needs.
fn lsm(tried: &Tried) -> String {
    let told = tried.kind(Kind::Lsm).unwrap_or_default();
    let modules = securityfs::modules();
    let modules = modules.unwrap_or_else(|| "the list of security modules is not shown".to_owned());
    format!("lsm {told}, where the modules are {modules}")
}

/// Functions on the way to /dev/mem that are watched, and those that are not.
fn witnesses(Watched { live, missing }: &Watched) -> String {
    // The kernel's refusal has an errno; a function that it lacks has none.
    let names = |is_refused: bool| -> Vec<_> {
        let of = missing
            .iter()
            .filter(|(_, refusal)| refusal.errno.is_some() == is_refused);
        of.map(|(function, _)| function.name()).collect()
    };
    let mut evidence = format!("{} functions on the way to /dev/mem watched", live.len());
    for (what, names) in [
        ("not in this kernel", names(false)),
        ("refused", names(true)),
    ] {
        if !names.is_empty() {
            evidence = format!("{evidence}; {what}: {}", names.join(", "));
        }
    }
    evidence
}

/// The kernel's word, before that a function is not there.
fn refusal(watched: &Watched) -> Option<&Refusal> {
    let mut refusals = watched.missing.iter().map(|(_, refusal)| refusal);
    let own = refusals.clone().find(|refusal| refusal.errno.is_some());
    own.or_else(|| refusals.next())
}

/// What functions need to take programs: what the kernel was built with tells whether something else forbids it.
fn mend_functions(mut check: Check, errno: Option<i32>, config: Option<&Config>) -> Check {
    let option = "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS";
    if let Some(config) = config {
        check.evidence = format!("{}; {}", check.evidence, config.evidence(option));
    }
    let is_built = config.is_some_and(|config| config.setting(option) == Setting::On);
    let forbids = matches!(errno, Some(libc::EPERM | libc::EACCES));
    check.mend(match (is_built, forbids) {
        (true, true) => {
            "the kernel was built for it, and forbids it: a security module does, or a change of the vendor's; use another kernel".to_owned()
        }
        (false, true) if config.is_none() => {
            format!("the kernel forbids it: a security module does, or a change of the vendor's; else it was built without {option}=y, which cannot be read here")
        }
        _ => format!("use a kernel with {option}=y"),
    })
}
