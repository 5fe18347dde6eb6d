//! The checks of an address, once /dev/mem is open: pure.
//!
//! read(2) and write(2): valid_phys_addr_range, then devmem_is_allowed a page, then the direct map; mmap(2):
//! valid_mmap_phys_addr_range, devmem_is_allowed, then PAT (drivers/char/mem.c, arch/x86/mm; 6.1 to 7.3).

use v2p_common::{PAGE_SIZE, PhysAddr};

use super::{
    check::{Check, Effect, Id, Stage},
    device,
    facts::{DirectMapped, Facts, Target, User},
    open::has_driver,
    page::is_secret,
};
use crate::kernel::{
    config::Setting,
    iomem::{self, Resource},
    privileges::{Capability, MOUNT_PROC, Privileges},
    zones,
};

/// Below it RAM is neither shown nor written, and devices are free (devmem_is_allowed, arch/x86/mm/init.c).
pub(super) const LOW: u64 = 1 << 20;

/// What lies at the address.
pub(super) enum Kind<'a> {
    Ram,
    /// The resources that hold it, outermost first.
    Other(Vec<&'a Resource>),
    Unknown,
}

/// All of them, in the kernel's order.
pub fn checks(facts: &Facts, target: &Target) -> Vec<Check> {
    let kind = kind(facts, target);
    vec![
        sys_admin(&facts.user, target.is_hidden),
        beyond_memory(facts, target),
        low_memory(facts, target, &kind),
        strict_devmem(facts, target, &kind),
        device::io_strict_devmem(facts, target, &kind),
        not_direct_mapped(target, &kind),
        pat(facts, target, &kind),
    ]
}

/// Whether it is memory that the kernel manages, as far as that is known.
pub fn is_ram(facts: &Facts, target: &Target) -> bool {
    matches!(kind(facts, target), Kind::Ram)
}

/// Whether a device may lie there, whose registers reading would touch: everything that is no RAM, but what lies beyond
/// the end of memory without a name, which read(2) does not reach.
pub fn may_be_device(facts: &Facts, target: &Target) -> bool {
    match kind(facts, target) {
        Kind::Ram => false,
        Kind::Other(found) => {
            !found.is_empty() || facts.device_pages > 0 || !is_beyond(facts, target)
        }
        Kind::Unknown => true,
    }
}

/// Below 1 MiB, where no user page is.
fn is_low(target: &Target) -> bool {
    !target.is_page && target.pa.is_some_and(|pa| pa.0 < LOW)
}

/// valid_phys_addr_range compares with high_memory: the end of the last whole page.
fn is_beyond(facts: &Facts, target: &Target) -> bool {
    let last = facts.iomem.as_ref().and_then(|iomem| iomem.last_ram());
    match (last, target.pa) {
        (Some(last), Some(pa)) => pa.0 >= last.end.saturating_add(1) & !(PAGE_SIZE - 1),
        _ => false,
    }
}

fn kind<'a>(facts: &'a Facts, target: &Target) -> Kind<'a> {
    match (target.pa, &facts.iomem) {
        (Some(pa), Some(iomem)) => {
            let found = iomem.at(pa);
            match found.iter().any(|resource| resource.is_ram()) {
                true => Kind::Ram,
                false => Kind::Other(found),
            }
        }
        // pagemap shows no frames of a device's mapping (VM_PFNMAP; walk_page_test, mm/pagewalk.c, 6.12).
        _ if target.is_page => Kind::Ram,
        _ => Kind::Unknown,
    }
}

pub(super) fn setting(facts: &Facts, option: &str) -> Option<(Setting, String)> {
    let config = facts.config.as_ref()?;
    Some((config.setting(option), config.evidence(option)))
}

pub(super) fn no_config(id: Id) -> Check {
    let what = "cannot tell: the kernel's configuration is nowhere to be read";
    let places = "no /proc/config.gz, no config in /boot nor /usr/lib/modules";
    Check::unknown(id, what, places).mend("install the kernel's config file in /boot")
}

const HIDDEN: &str = "cannot tell: /proc/iomem shows no addresses";

pub(super) fn hidden(id: Id) -> Check {
    let evidence = format!("no addresses are shown ({})", iomem::PATH);
    Check::unknown(id, HIDDEN, evidence).mend("run it with CAP_SYS_ADMIN: sudo v2p doctor ...")
}

/// Whether the kernel shows frames, in pagemap and /proc/iomem. It denies where they are `needed`.
pub(super) fn sys_admin(user: &User, needed: bool) -> Check {
    let id = Id::CapSysAdmin;
    let has = |p: &Privileges| p.has(Capability::SysAdmin);
    let what = match (&user.privileges, user.inner_namespace()) {
        (None, _) => {
            let what = "cannot tell our capabilities, so neither whether frames are shown";
            return Check::unknown(id, what, "no /proc/self/status")
                .mend(MOUNT_PROC)
                .has(Stage::Reach, Effect::Unknown(None));
        }
        (Some(privileges), _) if !has(privileges) => {
            "CAP_SYS_ADMIN is missing: the kernel hides page frame numbers"
        }
        (Some(_), Some(_)) => {
            "CAP_SYS_ADMIN counts only inside this user namespace: the kernel hides page frame numbers"
        }
        (Some(privileges), None) => {
            let what = "CAP_SYS_ADMIN: page frame numbers are shown";
            return Check::ok(id, what, privileges.evidence());
        }
    };
    let evidence = user
        .privileges
        .map(|p| format!("bit 21 of {}", p.evidence()));
    let evidence = evidence.unwrap_or_default();
    let check = match needed {
        true => Check::denies(id, what, evidence).has(Stage::Reach, Effect::Fails(None)),
        false => Check::limits(id, what, evidence),
    };
    check.mend("run it as root, outside containers: sudo v2p ...")
}

fn beyond_memory(facts: &Facts, target: &Target) -> Check {
    let id = Id::BeyondMemory;
    let pa = match target.pa {
        Some(pa) if !target.is_page => pa,
        None if !target.is_hidden => {
            return Check::ok(
                id,
                "nothing beyond the end of memory",
                "the page has no frame",
            );
        }
        _ => return Check::ok(id, "a page of memory", "it is mapped by a process"),
    };
    let no_bits = facts
        .physical_bits
        .filter(|bits| *bits < 64 && pa.0 >> bits != 0);
    let Some(last) = facts.iomem.as_ref().and_then(|iomem| iomem.last_ram()) else {
        return hidden(id).may_fail(Stage::Copy, libc::EFAULT);
    };
    if !is_beyond(facts, target) {
        let what = "below the end of memory";
        return Check::ok(id, what, format!("the last RAM: {}", last.evidence()));
    }
    // What they bring lies above RAM, and high_memory goes up with it (add_pages, arch/x86/mm/init_64.c, 6.1 to 7.3); how
    // far is not shown.
    if facts.device_pages > 0 {
        let what = "cannot tell: beyond the last RAM, but there is memory of devices";
        let evidence = format!(
            "{} pages in zones Device ({}); the last RAM: {}",
            facts.device_pages,
            zones::PATH,
            last.evidence()
        );
        return Check::unknown(id, what, evidence)
            .mend("look at the devices' own files: /sys/bus/nd, /sys/bus/dax")
            .may_fail(Stage::Copy, libc::EFAULT);
    }
    let what = format!("{:#x} lies beyond the end of memory", pa.0);
    let check = Check::denies(id, what, format!("the last RAM: {}", last.evidence()))
        .mend("ask for an address in RAM; devices are mapped with mmap(2), not read")
        .fails(Stage::Copy, libc::EFAULT);
    match no_bits {
        Some(_) => check.fails(Stage::Map, libc::EINVAL),
        None => check,
    }
}

fn low_memory(facts: &Facts, target: &Target, kind: &Kind<'_>) -> Check {
    let id = Id::LowMemory;
    let pa = target.pa.filter(|_| !target.is_page);
    let Some(PhysAddr(pa)) = pa.filter(|pa| pa.0 < LOW) else {
        return Check::ok(id, "not below 1 MiB", "user pages never are, on x86");
    };
    let evidence = format!("{pa:#x} is below 0x100000");
    match (kind, setting(facts, "CONFIG_STRICT_DEVMEM")) {
        (Kind::Other(_), _) => Check::ok(id, "below 1 MiB, but no RAM", evidence),
        (Kind::Unknown, _) => hidden(id).has(Stage::Copy, Effect::Unknown(None)),
        (Kind::Ram, None) => no_config(id).has(Stage::Copy, Effect::Unknown(None)),
        (Kind::Ram, Some((Setting::Off, line))) => {
            Check::ok(id, "RAM below 1 MiB, which this kernel shows", line)
        }
        (Kind::Ram, Some(_)) if target.own_page_was_read => {
            let what = "RAM below 1 MiB: shown, since this kernel shows other RAM too";
            Check::ok(id, what, format!("{evidence}; a page of our own was read"))
        }
        (Kind::Ram, Some((_, line))) => {
            let what = "RAM below 1 MiB: reads give zeros, and writes go nowhere without an error";
            Check::limits(id, what, format!("{evidence}; {line}"))
                .mend("none by read and write; mmap(2) reaches the real memory there")
                .has(Stage::Copy, Effect::Drops)
        }
    }
}

fn strict_devmem(facts: &Facts, target: &Target, kind: &Kind<'_>) -> Check {
    let id = Id::StrictDevmem;
    match (kind, setting(facts, "CONFIG_STRICT_DEVMEM")) {
        (_, Some((Setting::Off, line))) => Check::ok(id, "RAM is not kept away", line),
        (Kind::Other(_), _) => Check::ok(id, "no RAM, which is all that it is about", "see above"),
        (Kind::Ram, _) if is_low(target) => {
            Check::ok(id, "below 1 MiB: see low-memory", "see low-memory")
        }
        (_, Some((_, line))) if target.own_page_was_read => {
            let what = "RAM is not kept away, whatever the configuration says";
            Check::ok(id, what, format!("a page of our own was read; {line}"))
        }
        (Kind::Ram, Some((_, line))) => {
            Check::denies(id, "the kernel keeps /dev/mem away from RAM", line)
                .mend(
                    "use a kernel built with CONFIG_STRICT_DEVMEM=n, or the lab: cargo xtask demo",
                )
                .fails(Stage::Reach, libc::EPERM)
        }
        (Kind::Unknown, Some(_)) => hidden(id).may_fail(Stage::Reach, libc::EPERM),
        (_, None) => no_config(id).may_fail(Stage::Reach, libc::EPERM),
    }
}

fn not_direct_mapped(target: &Target, kind: &Kind<'_>) -> Check {
    let id = Id::NotDirectMapped;
    let denies = |evidence: String| {
        let what = "the kernel's direct map does not hold this page";
        // A read's copy is ended by the fault; a write's goes on to clear what it did not copy, and faults again where nothing
        // is caught (_copy_from_user, lib/usercopy.c and include/linux/uaccess.h, 6.1 to 7.3): an oops, and no error.
        Check::denies(id, what, evidence)
            .mend("no way round it: the page is kept out of the kernel's reach; a read gives EFAULT, and a write would crash the kernel: v2p makes none")
            .has(Stage::Store, Effect::Fails(None))
            .fails(Stage::Copy, libc::EFAULT)
    };
    let mapping = target.mapping.as_deref();
    match (kind, target.direct_mapped, mapping) {
        (Kind::Other(_), ..) => Check::ok(id, "no RAM, so mapped apart", "see above"),
        (_, Some(DirectMapped::No), name) => denies(match name {
            Some(name) => format!("an eBPF program could not read it there; it is of {name}"),
            None => "an eBPF program could not read it there".to_owned(),
        }),
        (_, Some(DirectMapped::ReadOnly), _) => {
            let what = "the kernel's direct map has it read-only";
            Check::denies(id, what, "a walk of the kernel's own page tables")
                .mend("no way round it: it is the kernel's own; a write would crash it, and v2p makes none")
                .has(Stage::Store, Effect::Fails(None))
        }
        (_, Some(DirectMapped::Yes), _) => Check::ok(
            id,
            "the kernel's direct map holds it, and may be written through",
            "an eBPF program read it there, and walked to its entry",
        ),
        (_, None, Some(name)) if is_secret(name) => denies(format!(
            "it is of {name}, that is memfd_secret(2) (/proc/PID/maps)"
        )),
        (_, None, _) if target.is_own => {
            Check::ok(id, "ordinary memory of our own", "mmap(MAP_ANONYMOUS)")
        }
        (_, None, Some(name)) => {
            let what = "nothing says that the direct map does not hold it";
            Check::ok(id, what, format!("a page of {name:?} (/proc/PID/maps)"))
        }
        (_, None, None) => {
            let what = "cannot tell whether the direct map holds it: no eBPF program could look";
            Check::unknown(id, what, "see bpf-tracepoint").may_fail(Stage::Copy, libc::EFAULT)
        }
    }
}

/// phys_mem_access_prot_allowed, arch/x86/mm/pat/memtype.c: without STRICT_DEVMEM and with PAT, 6.1 and 6.12 refuse RAM;
/// later ones were seen to allow it in their source only.
fn pat(facts: &Facts, target: &Target, kind: &Kind<'_>) -> Check {
    let id = Id::Pat;
    let about = "concerns mmap(2) alone, which v2p does not use";
    if let Some((false, evidence)) = has_driver(facts) {
        return Check::ok(id, "there is no /dev/mem to map", evidence);
    }
    if is_low(target) {
        return Check::ok(id, "below 1 MiB mmap(2) of RAM is not refused", about);
    }
    let strict = setting(facts, "CONFIG_STRICT_DEVMEM");
    match (kind, strict, facts.has_pat, facts.pat_asks) {
        (Kind::Other(_), ..) => Check::ok(id, "no RAM, which is all that it is about", about),
        (_, Some((Setting::On, line)), ..) => {
            Check::ok(id, "strict-devmem decides before it", line)
        }
        _ if facts.is_booted_with("nopat") => Check::ok(
            id,
            "off: mmap(2) of RAM is not refused",
            "nopat (/proc/cmdline)",
        ),
        (_, _, Some(false), _) => Check::ok(id, "the processor has none", "flags (/proc/cpuinfo)"),
        (_, Some((Setting::Off, line)), Some(true), Some(true)) => {
            let what = "mmap(2) of RAM is refused, as other tools do it; v2p reads and writes";
            let evidence = format!("pat (/proc/cpuinfo); {line}; no nopat (/proc/cmdline)");
            Check::limits(id, what, evidence)
                .mend("use pread and pwrite, or boot with nopat")
                .fails(Stage::Map, libc::EINVAL)
        }
        _ => Check::unknown(id, "cannot tell whether mmap(2) of RAM is refused", about)
            .may_fail(Stage::Map, libc::EINVAL),
    }
}
