//! Every cause made in facts: the check that is named, and the errno that is predicted.

use v2p_common::PhysAddr;

use super::{
    address::may_be_device,
    check::{Access, Check, Errno, Id, Status},
    checks,
    facts::{Device, Facts, Node, Target, User},
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

fn namespace(link: &str, initial: u32) -> Option<Namespace> {
    Some(Namespace {
        link: link.to_owned(),
        initial: format!("user:[{initial}]"),
    })
}

/// Root on a stock kernel.
pub(super) fn root() -> Facts {
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
        has_mmap_mem: Some(true),
        iomem: Iomem::for_test(IOMEM),
        physical_bits: Some(40),
        has_pat: Some(true),
    }
}

/// Root on a kernel built without STRICT_DEVMEM.
pub(super) fn opened() -> Facts {
    Facts {
        config: Some(Config::for_test("CONFIG_DEVMEM=y\n")),
        ..root()
    }
}

fn own_page() -> Target {
    Target {
        pa: Some(PhysAddr(0x1234_5000)),
        is_page: true,
        is_own: true,
        mapping: None,
        direct_mapped: None,
        own_page_was_read: false,
    }
}

fn address(pa: u64) -> Target {
    Target {
        pa: Some(PhysAddr(pa)),
        is_page: false,
        is_own: false,
        direct_mapped: Some(true),
        ..own_page()
    }
}

fn with_node(change: impl FnOnce(&mut Device)) -> Facts {
    let mut facts = root();
    if let Node::Device(device) = &mut facts.node {
        change(device);
    }
    facts
}

fn denied(id: Id, errno: i32) -> Answer {
    Answer::Denied(id, Some(Errno(errno)))
}

/// What reading, writing and mapping will meet.
fn answers(facts: &Facts, target: &Target) -> [Answer; 3] {
    let checks = checks(facts, target);
    [Access::Read, Access::Write, Access::Mmap].map(|access| predict(&checks, access))
}

/// All three meet the same.
#[track_caller]
fn assert_all(facts: &Facts, target: &Target, answer: Answer) {
    assert_eq!(answers(facts, target), [answer; 3]);
}

fn find(facts: &Facts, target: &Target, id: Id) -> Check {
    let mut checks = checks(facts, target).into_iter();
    checks.find(|check| check.id == id).unwrap()
}

#[test]
fn ram_on_a_stock_kernel_is_strict_devmem() {
    assert_all(&root(), &own_page(), denied(Id::StrictDevmem, libc::EPERM));
}

#[test]
fn an_opened_kernel_reads_and_writes_and_pat_refuses_the_map() {
    let pat = denied(Id::Pat, libc::EINVAL);
    let answers_of = |facts: &Facts| answers(facts, &own_page());
    assert_eq!(
        answers_of(&opened()),
        [Answer::Allowed, Answer::Allowed, pat]
    );
    let nopat = Facts {
        cmdline: "quiet nopat".to_owned(),
        ..opened()
    };
    assert_all(&nopat, &own_page(), Answer::Allowed);
    let newer = Facts {
        has_mmap_mem: Some(false),
        ..opened()
    };
    assert_eq!(answers_of(&newer)[2], Answer::Unknown(Id::Pat));
}

#[test]
fn a_kernel_without_the_driver_is_named_whether_or_not_there_is_a_node() {
    let config = Some(Config::for_test("# CONFIG_DEVMEM is not set\n"));
    let with_node = Facts { config, ..root() };
    assert_all(
        &with_node,
        &own_page(),
        denied(Id::ConfigDevmem, libc::ENXIO),
    );
    let without = Facts {
        node: Node::Absent(Errno(libc::ENOENT)),
        lockdown: Some(Lockdown {
            mode: "integrity".to_owned(),
            evidence: String::new(),
        }),
        ..with_node
    };
    assert_all(
        &without,
        &own_page(),
        denied(Id::ConfigDevmem, libc::ENOENT),
    );
}

#[test]
fn a_node_that_is_missing_or_masked_is_named() {
    let absent = Facts {
        node: Node::Absent(Errno(libc::ENOENT)),
        ..root()
    };
    assert_all(&absent, &own_page(), denied(Id::DevmemNode, libc::ENOENT));
    let masked = Facts {
        node: Node::Other("it is device 1:3, not 1:1".to_owned()),
        ..root()
    };
    assert_all(&masked, &own_page(), Answer::Denied(Id::DevmemNode, None));
    let nodev = with_node(|device| device.nodev = true);
    assert_all(&nodev, &own_page(), denied(Id::DevmemNode, libc::EACCES));
}

#[test]
fn file_mode_device_cgroup_and_not_being_root_are_told_apart() {
    let refused = |n| {
        with_node(|device| {
            device.read = Err(Errno(n));
            device.write = Err(Errno(n));
        })
    };
    let (mode, cgroup) = (refused(libc::EACCES), refused(libc::EPERM));
    assert_all(&mode, &own_page(), denied(Id::DevmemNode, libc::EACCES));
    assert_all(&cgroup, &own_page(), denied(Id::Container, libc::EPERM));
    let user = Facts {
        user: User {
            euid: 1000,
            privileges: Some(Privileges::new(0)),
            ..mode.user
        },
        ..mode
    };
    assert_all(&user, &own_page(), denied(Id::Root, libc::EACCES));
    let group_kmem = with_node(|device| device.write = Err(Errno(libc::EACCES)));
    assert_eq!(
        answers(&group_kmem, &own_page()),
        [
            denied(Id::StrictDevmem, libc::EPERM),
            denied(Id::DevmemNode, libc::EACCES),
            denied(Id::StrictDevmem, libc::EPERM)
        ]
    );
}

#[test]
fn capabilities_are_told_apart() {
    let without = |bit: u32| Facts {
        user: User {
            privileges: Some(Privileges::new(0x1ff_ffff_ffff & !(1 << bit))),
            ..root().user
        },
        ..opened()
    };
    let hidden = Target {
        pa: None,
        ..own_page()
    };
    assert_all(
        &without(17),
        &own_page(),
        denied(Id::CapSysRawio, libc::EPERM),
    );
    // The kernel makes no error of it: it shows no frame.
    let answer = Answer::Denied(Id::CapSysAdmin, None);
    assert_eq!(answers(&without(21), &hidden), [answer; 3]);
}

#[test]
fn a_user_namespace_is_the_cause_and_not_what_follows_from_it() {
    let inside = |facts| Facts {
        user: User {
            euid: 65534,
            namespace: namespace("user:[4026532190]", 4_026_531_837),
            ..root().user
        },
        ..facts
    };
    let unmapped = with_node(|device| {
        device.read = Err(Errno(libc::EACCES));
        device.write = Err(Errno(libc::EACCES));
    });
    let hidden = Target {
        pa: None,
        ..own_page()
    };
    assert_all(
        &inside(unmapped),
        &hidden,
        denied(Id::Container, libc::EACCES),
    );
    assert_all(&inside(root()), &hidden, denied(Id::Container, libc::EPERM));
}

#[test]
fn lockdown_comes_before_anything_of_the_address_and_unknown_is_not_none() {
    let locked = |lockdown| Facts {
        lockdown,
        ..opened()
    };
    for mode in ["integrity", "confidentiality"] {
        let lockdown = Lockdown {
            mode: mode.to_owned(),
            evidence: String::new(),
        };
        let facts = locked(Some(lockdown));
        assert_all(&facts, &own_page(), denied(Id::Lockdown, libc::EPERM));
    }
    let unknown = answers(&locked(None), &own_page());
    assert_eq!(unknown[0], Answer::Unknown(Id::Lockdown));
}

#[test]
fn memory_below_1_mib_is_dropped_where_ram_is_guarded() {
    let low = address(0x1_0000);
    let dropped = Answer::Dropped(Id::LowMemory);
    assert_eq!(answers(&root(), &low), [dropped, dropped, Answer::Allowed]);
    assert_eq!(answers(&opened(), &low)[1], Answer::Allowed);
    // The page that begins at 0x9f000 holds RAM up to 0x9fbff, and the ROM holds none.
    assert_eq!(answers(&root(), &address(0x9_fff0))[0], dropped);
    assert_eq!(answers(&root(), &address(0xf_0000))[0], Answer::Allowed);
}

#[test]
fn beyond_memory_is_efault_and_beyond_the_processor_einval_too() {
    let efault = denied(Id::BeyondMemory, libc::EFAULT);
    let past = answers(&root(), &address(0x5000_0000));
    assert_eq!(past, [efault, efault, Answer::Allowed]);
    let nowhere = answers(&root(), &address(1 << 41));
    assert_eq!(
        nowhere,
        [efault, efault, denied(Id::BeyondMemory, libc::EINVAL)]
    );
}

#[test]
fn a_claimed_device_is_named_with_its_driver() {
    let ahci = address(0xfebd_4000);
    let check = find(&root(), &ahci, Id::IoStrictDevmem);
    assert_eq!(check.what, "claimed by ahci");
    assert_eq!(
        answers(&root(), &ahci)[2],
        denied(Id::IoStrictDevmem, libc::EPERM)
    );
    let relaxed = Facts {
        cmdline: "iomem=relaxed".to_owned(),
        ..root()
    };
    assert_eq!(answers(&relaxed, &ahci)[2], Answer::Allowed);
    let bus = find(&root(), &address(0xc000_0000), Id::IoStrictDevmem);
    assert_eq!(bus.status, Status::Ok);
    let hpet = find(&root(), &address(0xfed0_0000), Id::IoStrictDevmem);
    assert_eq!(hpet.status, Status::Ok);
    let map = |pa| answers(&root(), &address(pa))[2];
    assert_eq!(map(0xfec0_0000), denied(Id::IoStrictDevmem, libc::EPERM));
    // Its name does not say whether it is busy.
    assert_eq!(map(0xfed1_c000), Answer::Unknown(Id::IoStrictDevmem));
}

#[test]
fn only_what_is_surely_no_device_is_read() {
    let may_be = |facts: &Facts, pa| may_be_device(facts, &address(pa));
    assert!(!may_be(&root(), 0x1000_0000));
    assert!(may_be(&root(), 0xfec0_0000));
    // A hole below the end of memory; beyond it the kernel refuses before it looks.
    assert!(may_be(&root(), 0xa_0000));
    assert!(!may_be(&root(), 1 << 41));
    let hidden = Facts {
        iomem: None,
        ..root()
    };
    assert!(may_be(&hidden, 0x1000_0000));
}

#[test]
fn what_iomem_hides_is_unknown() {
    let hidden = Facts {
        iomem: None,
        ..root()
    };
    let answer = answers(&hidden, &address(0x1000_0000))[0];
    assert_eq!(answer, Answer::Unknown(Id::BeyondMemory));
    // A page of a process is RAM all the same.
    assert_all(&hidden, &own_page(), denied(Id::StrictDevmem, libc::EPERM));
}

#[test]
fn a_secret_page_is_not_direct_mapped() {
    let secret = Target {
        is_own: false,
        mapping: Some("/secretmem (deleted)".to_owned()),
        ..own_page()
    };
    let efault = denied(Id::NotDirectMapped, libc::EFAULT);
    assert_eq!(answers(&opened(), &secret)[..2], [efault, efault]);
    let seen = Target {
        mapping: Some("[heap]".to_owned()),
        direct_mapped: Some(false),
        ..secret
    };
    assert_eq!(answers(&opened(), &seen)[0], efault);
}

#[test]
fn what_the_kernel_did_counts_over_what_its_configuration_says() {
    let after = |pa| Target {
        own_page_was_read: true,
        ..address(pa)
    };
    assert_all(&root(), &after(0x1000_0000), Answer::Allowed);
    assert_eq!(answers(&root(), &after(0x1_0000))[0], Answer::Allowed);
}

#[test]
fn a_kernel_whose_configuration_is_nowhere_is_unknown() {
    let facts = Facts {
        config: None,
        ..root()
    };
    assert_all(&facts, &own_page(), Answer::Unknown(Id::StrictDevmem));
    let nothing = Facts {
        has_read_mem: None,
        ..facts
    };
    let answer = Answer::Unknown(Id::ConfigDevmem);
    assert_all(&nothing, &own_page(), answer);
}

#[test]
fn every_denial_has_evidence_and_a_mend() {
    for facts in [root(), opened()] {
        for target in [own_page(), address(1 << 41), address(0xfebd_4000)] {
            for check in checks(&facts, &target) {
                assert!(
                    !check.what.is_empty() && !check.evidence.is_empty(),
                    "{check:?}"
                );
                let stops = !check.effects.is_empty();
                assert!(
                    !stops || check.mend.is_some() || check.status == Status::Unknown,
                    "{check:?}"
                );
                assert_eq!(stops, check.status != Status::Ok, "{check:?}");
            }
        }
    }
}
