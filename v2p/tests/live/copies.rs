//! Private copies of pages of a device, which lie in mappings that pagemap takes for holes (VM_PFNMAP).

use libtest_mimic::Trial;
use v2p::{
    process::Pagemap,
    translate::{Route, Translator},
};

use crate::{
    Done,
    harness::address,
    target::{PAGE, Target, va},
    translate::{runs, translate},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_private_copy_of_a_device_s_page_is_told_by_the_walk",
            a_private_copy,
        ),
        trial("an_address_that_there_is_not_has_no_page", no_address),
    ]
}

fn a_private_copy() -> Done {
    const AT: u64 = 0x5a00_0000_0000;
    // The BIOS's, which every machine has and the kernel lets root map, whatever its memory.
    const ROM: u64 = 0xf_0000;
    let mut target = Target::start();
    let path = target.scratch_text("/dev/mem");
    let file = target.call(libc::SYS_open, &[path, 2]);
    let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE).unsigned_abs();
    let arguments = [AT, 2 * PAGE, 3, flags.into(), file.cast_unsigned(), ROM];
    let mapped = match file {
        0.. => target.call(libc::SYS_mmap, &arguments),
        error => error,
    };
    if mapped < 0 {
        let error = std::io::Error::from_raw_os_error(i32::try_from(-mapped).unwrap());
        return Done::Skipped(format!("/dev/mem cannot be mapped here: {error}"));
    }
    // The kernel's write into it copies the page.
    assert_eq!(target.must(libc::SYS_getrandom, &[AT, 8, 0]), 8);
    for route in ["walk", "both"] {
        let (records, _) = translate(&target, &["--route", route, &format!("{AT:#x}+8K")]);
        let [copy, device] = runs(&records)[..] else {
            panic!("{records:#?}");
        };
        assert_eq!(
            (&copy["state"], &device["state"]),
            (&"present".into(), &"device".into())
        );
        assert_eq!(address(&device["pa"]), ROM + PAGE);
        assert_ne!(address(&copy["pa"]), ROM);
        assert_eq!(
            (&copy["verdict"], &device["verdict"]),
            (&"single".into(), &"single".into())
        );
        let flags = copy["flags"].as_array().unwrap();
        assert!(
            ["anon", "mmap"]
                .iter()
                .all(|flag| flags.contains(&(*flag).into())),
            "{copy}"
        );
    }
    Done::Passed
}

/// A walk goes by some bits of an address alone.
fn no_address() -> Done {
    let mut target = Target::start();
    let pfn = target.tell("write", 3);
    let pagemap = Pagemap::of(target.pid()).unwrap();
    for route in [Route::Walk, Route::Both, Route::Pagemap] {
        let translator = Translator::new(route).unwrap();
        let page = |va| {
            translator
                .page(&pagemap, v2p::common::VirtAddr(va))
                .unwrap()
        };
        assert_eq!(page(va(3)).unwrap().pfn().unwrap().0, pfn);
        for bit in [57, 60, 63] {
            assert_eq!(page(va(3) | 1 << bit), None, "{route:?}, bit {bit}");
        }
    }
    Done::Passed
}
