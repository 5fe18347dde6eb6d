//! Causes at an address.

use super::*;
use crate::doctor::{address::may_be_device, check::Status};

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
        pat_asks: Some(false),
        ..opened()
    };
    assert_eq!(answers_of(&newer)[2], Answer::Unknown(Id::Pat));
}

#[test]
fn memory_below_1_mib_is_dropped_where_ram_is_guarded() {
    let low = address(0x1_0000);
    let dropped = Answer::Dropped(Id::LowMemory);
    assert_eq!(answers(&root(), &low), [dropped, dropped, Answer::Allowed]);
    // devmem_is_allowed answers 2 there, which PAT takes for a yes (arch/x86/mm/pat/memtype.c).
    assert_eq!(answers(&opened(), &low), [Answer::Allowed; 3]);
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
fn memory_of_devices_moves_the_end_of_memory_and_nobody_shows_where_to() {
    let facts = Facts {
        device_pages: 16384,
        ..root()
    };
    let past = address(0x5000_0000);
    assert_eq!(
        answers(&facts, &past)[..2],
        [Answer::Unknown(Id::BeyondMemory); 2]
    );
    // Then it may be reached, so it is not read.
    assert!(may_be_device(&facts, &past) && !may_be_device(&root(), &past));
    let nowhere = find(&facts, &past, Id::BeyondMemory);
    assert!(nowhere.evidence.contains("16384 pages in zones Device"));
}

#[test]
fn a_claim_may_be_exclusive_where_other_claims_are_let_through() {
    let facts = Facts {
        config: Some(Config::for_test(
            "CONFIG_DEVMEM=y\nCONFIG_STRICT_DEVMEM=y\n",
        )),
        ..root()
    };
    let ahci = address(0xfebd_4000);
    assert_eq!(
        answers(&facts, &ahci)[2],
        Answer::Unknown(Id::IoStrictDevmem)
    );
    let check = find(&facts, &ahci, Id::IoStrictDevmem);
    assert!(check.what.contains("exclusively"), "{}", check.what);
    // Without STRICT_DEVMEM only PAT asks for claims, of who maps.
    let asks_pat = Answer::Unknown(Id::IoStrictDevmem);
    assert_eq!(answers(&opened(), &ahci)[2], asks_pat);
    let nopat = Facts {
        cmdline: "nopat".to_owned(),
        ..opened()
    };
    assert_eq!(answers(&nopat, &ahci)[2], Answer::Allowed);
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
    // But what /proc/iomem calls a device is none, though a process maps it.
    let mapped = Target {
        pa: address(0xfebd_4000).pa,
        ..own_page()
    };
    assert!(may_be_device(&root(), &mapped) && !may_be_device(&hidden, &mapped));
}

#[test]
fn a_secret_page_is_not_direct_mapped() {
    let secret = Target {
        is_own: false,
        mapping: Some("/secretmem (deleted)".to_owned()),
        ..own_page()
    };
    let efault = denied(Id::NotDirectMapped, libc::EFAULT);
    // A write would not fail, it would crash the kernel: there is no error to foretell.
    let crash = Answer::Denied(Id::NotDirectMapped, None);
    assert_eq!(answers(&opened(), &secret)[..2], [efault, crash]);
    let seen = Target {
        mapping: Some("[heap]".to_owned()),
        direct_mapped: Some(DirectMapped::No),
        ..secret
    };
    assert_eq!(answers(&opened(), &seen)[0], efault);
}

#[test]
fn what_the_direct_map_has_to_be_read_alone_is_not_written() {
    let text = Target {
        direct_mapped: Some(DirectMapped::ReadOnly),
        ..address(0x1000_0000)
    };
    let crash = Answer::Denied(Id::NotDirectMapped, None);
    assert_eq!(answers(&opened(), &text)[..2], [Answer::Allowed, crash]);
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
