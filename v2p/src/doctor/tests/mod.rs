//! Every cause made in facts: the check that is named, and the errno that is predicted.

mod address;
mod open;
mod verdict;

use v2p_common::PhysAddr;

use super::{
    check::{Access, Check, Errno, Id},
    checks,
    facts::{Device, DirectMapped, Facts, Node, Target, User},
    predict::{Answer, predict},
};
use crate::kernel::{
    config::Config,
    iomem::Iomem,
    lockdown::Lockdown,
    privileges::{Namespace, Privileges},
};

/// Of a guest of 1 GiB with Debian's 6.12.117, shortened.
const IOMEM: &str = "\
00001000-0009fbff : System RAM
000f0000-000fffff : Reserved
00100000-3ffdcfff : System RAM
  1c800000-1d7fffff : Kernel code
3ffdd000-3fffffff : Reserved
c0000000-febfffff : PCI Bus 0000:00
  febd4000-febd4fff : 0000:00:1f.2
    febd4000-febd4fff : ahci
fec00000-fec003ff : IOAPIC 0
fed00000-fed003ff : HPET 0
  fed00000-fed003ff : PNP0103:00
fed1c000-fed1ffff : something else
";
const STOCK: &str = "CONFIG_DEVMEM=y\nCONFIG_STRICT_DEVMEM=y\nCONFIG_IO_STRICT_DEVMEM=y\n";

pub(in crate::doctor) fn namespace(link: &str, initial: u32) -> Option<Namespace> {
    Some(Namespace {
        link: link.to_owned(),
        initial: format!("user:[{initial}]"),
    })
}

/// Root on a stock kernel.
pub(in crate::doctor) fn root() -> Facts {
    Facts {
        user: User {
            euid: 0,
            privileges: Some(Privileges::new(0x1ff_ffff_ffff)),
            namespace: namespace("user:[4026531837]", 4_026_531_837),
        },
        pid_namespace: None,
        container: Vec::new(),
        config: Some(Config::for_test(STOCK)),
        cmdline: "console=ttyS0 quiet".to_owned(),
        lockdown: Some(Lockdown {
            mode: "none".to_owned(),
            evidence: "[none] integrity confidentiality".to_owned(),
        }),
        node: Node::Device(Device {
            mode: 0o640,
            uid: 0,
            gid: 15,
            nodev: false,
            read: Ok(()),
            write: Ok(()),
        }),
        has_read_mem: Some(true),
        pat_asks: Some(true),
        iomem: Iomem::for_test(IOMEM),
        physical_bits: Some(40),
        has_pat: Some(true),
        device_pages: 0,
    }
}

/// Root on a kernel built without STRICT_DEVMEM.
pub(in crate::doctor) fn opened() -> Facts {
    Facts {
        config: Some(Config::for_test("CONFIG_DEVMEM=y\n")),
        ..root()
    }
}

pub(in crate::doctor) fn own_page() -> Target {
    Target {
        pa: Some(PhysAddr(0x1234_5000)),
        is_hidden: false,
        is_page: true,
        is_own: true,
        mapping: None,
        direct_mapped: None,
        own_page_was_read: false,
    }
}

pub(in crate::doctor) fn address(pa: u64) -> Target {
    Target {
        pa: Some(PhysAddr(pa)),
        is_page: false,
        is_own: false,
        direct_mapped: Some(DirectMapped::Yes),
        ..own_page()
    }
}

pub(in crate::doctor) fn with_node(change: impl FnOnce(&mut Device)) -> Facts {
    let mut facts = root();
    if let Node::Device(device) = &mut facts.node {
        change(device);
    }
    facts
}

pub(in crate::doctor) fn denied(id: Id, errno: i32) -> Answer {
    Answer::Denied(id, Some(Errno(errno)))
}

pub(in crate::doctor) fn not_opened(id: Id, errno: i32) -> Answer {
    Answer::NotOpened(id, Some(Errno(errno)))
}

/// What reading, writing and mapping will meet.
pub(in crate::doctor) fn answers(facts: &Facts, target: &Target) -> [Answer; 3] {
    let checks = checks(facts, target);
    [Access::Read, Access::Write, Access::Mmap].map(|access| predict(&checks, access))
}

/// All three meet the same.
#[track_caller]
pub(in crate::doctor) fn assert_all(facts: &Facts, target: &Target, answer: Answer) {
    assert_eq!(answers(facts, target), [answer; 3]);
}

pub(in crate::doctor) fn find(facts: &Facts, target: &Target, id: Id) -> Check {
    let mut checks = checks(facts, target).into_iter();
    checks.find(|check| check.id == id).unwrap()
}
