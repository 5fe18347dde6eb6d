//! The check of an address that is no RAM: whether a driver claims it. Pure.

use super::{
    address::{Kind, LOW, hidden, no_config, setting},
    check::{Check, Id, Stage},
    facts::{Facts, Target},
};
use crate::kernel::{
    config::Setting,
    iomem::{self, Resource},
};

const ID: Id = Id::IoStrictDevmem;
const MEND: &str = "unbind the driver, or boot with iomem=relaxed";

/// What /proc/iomem shows of a claim; it does not show the flag that counts (IORESOURCE_BUSY).
enum Claim<'a> {
    None,
    /// The kernel's own, or a driver's inside its device's range.
    Sure(&'a Resource),
    /// A name that may or may not be a claim.
    Perhaps(&'a Resource),
}

/// resource_is_exclusive (kernel/resource.c): any busy one of those that hold the page.
fn claim<'a>(found: &[&'a Resource]) -> Claim<'a> {
    let mut perhaps = None;
    let mut above: Option<&Resource> = None;
    for resource in found {
        let by_driver = above.is_some_and(is_device) && !is_place(resource);
        if by_driver || is_kernels_claim(resource) {
            return Claim::Sure(resource);
        }
        if !is_place(resource) {
            perhaps = Some(*resource);
        }
        above = Some(resource);
    }
    perhaps.map_or(Claim::None, Claim::Perhaps)
}

/// Claims of the kernel itself, marked busy (6.12: arch/x86/kernel/apic/io_apic.c:2524, apic/apic.c:172, e820.c:1110,
/// arch/x86/pci/mmconfig-shared.c:91). The first four were seen to refuse the map, on 6.1, 6.12 and 7.3 as far as each
/// has them.
fn is_kernels_claim(resource: &Resource) -> bool {
    let names = [
        "IOAPIC ",
        "Local APIC",
        "PCI MMCONFIG ",
        "PCI ECAM ",
        "ACPI Tables",
        "ACPI Non-volatile Storage",
    ];
    names.iter().any(|name| resource.name.starts_with(name))
}

/// Whether the resource is a device's range, named after its place: `0000:00:01.0`.
fn is_device(resource: &Resource) -> bool {
    let parts: Vec<_> = resource.name.split([':', '.']).collect();
    parts.len() == 4
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Names that say where something is, and claim nothing: buses, devices, what firmware reserved (6.12: e820.c:1110), what
/// PnP and ACPI describe (`pnp 00:05`, `PNP0103:00`; drivers/pnp/system.c:43 clears the flag).
fn is_place(resource: &Resource) -> bool {
    let name = resource.name.as_str();
    let is_acpi_id = name.split_once(':').is_some_and(|(id, number)| {
        (7..=8).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
            && number.bytes().all(|b| b.is_ascii_hexdigit())
    });
    let starts = ["PCI Bus", "pnp ", "HPET "];
    is_device(resource)
        || is_acpi_id
        || name == "Reserved"
        || starts.iter().any(|start| name.starts_with(start))
}

/// A driver's claim (devmem_is_allowed, iomem_is_exclusive; IO_STRICT_DEVMEM).
pub(super) fn io_strict_devmem(facts: &Facts, target: &Target, kind: &Kind<'_>) -> Check {
    let found = match kind {
        Kind::Ram => return Check::ok(ID, "RAM, and it is about devices", "see strict-devmem"),
        Kind::Unknown => return hidden(ID).may_fail(Stage::Reach, libc::EPERM),
        Kind::Other(found) => found,
    };
    let claim = claim(found);
    let resource = match claim {
        Claim::Sure(resource) | Claim::Perhaps(resource) => resource,
        Claim::None => return unclaimed(found),
    };
    if target.pa.is_some_and(|pa| pa.0 < LOW) {
        return free(resource, "below 1 MiB that does not count");
    }
    if facts.is_booted_with("iomem=relaxed") {
        return free(resource, "the kernel was booted with iomem=relaxed");
    }
    let Some((strict, _)) = setting(facts, "CONFIG_STRICT_DEVMEM") else {
        return no_config(ID).may_fail(Stage::Reach, libc::EPERM);
    };
    let Some((io, line)) = setting(facts, "CONFIG_IO_STRICT_DEVMEM") else {
        return no_config(ID).may_fail(Stage::Reach, libc::EPERM);
    };
    if strict == Setting::Off {
        return without_strict_devmem(facts, resource);
    }
    let name = &resource.name;
    let evidence = format!("{}; {line}", resource.evidence());
    match claim {
        // resource_is_exclusive, kernel/resource.c, 6.1 to 7.3: a claim with IORESOURCE_EXCLUSIVE counts nevertheless.
        _ if io == Setting::Off => cannot_tell(
            format!(
                "claimed by {name}: this kernel allows it, unless the driver asked for it exclusively, which cannot be told"
            ),
            evidence,
        ),
        _ if target.own_page_was_read => cannot_tell(
            format!(
                "claimed by {name}, but this kernel does not do what its configuration says: cannot tell"
            ),
            format!("a page of our own was read; {evidence}"),
        ),
        Claim::Sure(_) => Check::denies(ID, format!("claimed by {name}"), evidence)
            .mend(MEND)
            .fails(Stage::Reach, libc::EPERM),
        _ => cannot_tell(
            format!("it is {name}: cannot tell whether that is an exclusive claim"),
            evidence,
        ),
    }
}

fn unclaimed(found: &[&Resource]) -> Check {
    let evidence = found.last().map_or_else(
        || format!("no line holds it ({})", iomem::PATH),
        |r| r.evidence(),
    );
    Check::ok(ID, "no driver claims it", evidence)
}

fn free(resource: &Resource, why: &str) -> Check {
    let what = format!("claimed by {}, but {why}", resource.name);
    Check::ok(ID, what, resource.evidence())
}

fn cannot_tell(what: String, evidence: String) -> Check {
    Check::unknown(ID, what, evidence)
        .mend(MEND)
        .may_fail(Stage::Reach, libc::EPERM)
}

/// range_is_allowed, arch/x86/mm/pat/memtype.c, which is there without STRICT_DEVMEM alone (6.1 and 6.12).
fn without_strict_devmem(facts: &Facts, resource: &Resource) -> Check {
    let asks_pat = facts.pat_asks != Some(false)
        && facts.has_pat != Some(false)
        && !facts.is_booted_with("nopat");
    if !asks_pat {
        return free(resource, "this kernel allows it");
    }
    let what = format!(
        "claimed by {}: this kernel allows it, but mmap(2) where the driver asked for it exclusively, which cannot be told",
        resource.name
    );
    let evidence = resource.evidence();
    let evidence = format!("{evidence}; pat (/proc/cpuinfo), no nopat (/proc/cmdline)");
    Check::unknown(ID, what, evidence)
        .mend(MEND)
        .may_fail(Stage::Map, libc::EINVAL)
}
