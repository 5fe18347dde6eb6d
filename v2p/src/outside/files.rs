//! What files of the kernel, or files that a user names, may hold.

use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    prop_assert, prop_assert_eq, prop_oneof,
    sample::Index,
    test_runner::{TestCaseError, TestCaseResult},
};
use v2p_common::{Pfn, PhysAddr};

use super::{hold, spoilt, spoilt_text};
use crate::{
    doctor::{facts, movable},
    inject,
    kernel::{
        btf::{self, Btf},
        clock::Offsets,
        config,
        iomem::Iomem,
        limits,
        lockdown::Lockdown,
        zones,
    },
    map::{Earlier, Layout},
    process::{Nodes, maps},
};

/// What is asked of any BTF: it ends, whatever the blob is.
fn ask_btf(blob: &[u8]) -> TestCaseResult {
    let Ok(btf) = Btf::parse(blob) else {
        return Ok(());
    };
    for (structure, member) in [("s", "a"), ("s", "b"), ("s", "nothing"), ("", "")] {
        let _ = btf.member_offset(structure, member);
    }
    for name in ["s", "int", "f", "t", "e", ""] {
        let _ = btf.arguments_of_function(name);
        let arguments = btf.arguments_of_tracepoint(name);
        prop_assert!(arguments.is_none_or(|n| n < 1 << 16));
        let _ = btf.enumerators(name);
    }
    Ok(())
}

#[test]
fn btf_is_parsed_or_refused() {
    let right = btf::sample();
    let whole = Btf::parse(&right).expect("the sample is right");
    assert_eq!(whole.arguments_of_function("f"), Some(2));
    assert_eq!(whole.arguments_of_tracepoint("t"), Some(1));
    assert_eq!(whole.enumerators("e"), [("a", 0), ("b", 7)]);
    drop(whole);
    hold(spoilt(right), |blob| ask_btf(&blob));
}

/// Types of every kind that there is and some that there are not, which name each other at will, themselves too; cut off anywhere.
#[test]
fn btf_whose_types_name_each_other_in_circles_ends() {
    let one = (1u32..22, 0u32..5, vec(0u32..16, 16), any::<bool>());
    let types = vec(one, 1..16).prop_map(|types| {
        let mut words = Vec::new();
        for (kind, items, numbers, flag) in types {
            let next = |i: usize| numbers.get(i % numbers.len()).copied().unwrap_or(0);
            words.extend([next(0), u32::from(flag) << 31 | kind << 24 | items, next(1)]);
            let extra = btf::extra(kind, items).unwrap_or(8) / 4;
            words.extend((0..extra).map(|i| next(i + 2)));
        }
        btf::sample_of(b"\0s\0a\0b\0f\0t\0e\0btf_trace_t\0", &words)
    });
    hold(
        (types, any::<Index>(), any::<bool>()),
        |(mut blob, at, cut)| {
            if cut {
                blob.truncate(at.index(blob.len()));
            }
            ask_btf(&blob)
        },
    );
}

#[test]
fn a_status_is_parsed_or_refused() {
    use procfs::FromRead as _;
    // As the kernel writes our own, of which CapEff counts.
    let right = std::fs::read("/proc/self/status").expect("/proc/self/status");
    procfs::process::Status::from_read(right.as_slice()).expect("our own is right");
    hold(spoilt(right), |bytes| {
        let _ = procfs::process::Status::from_read(bytes.as_slice());
        Ok(())
    });
}

#[test]
fn a_stat_is_what_the_kernel_meant_or_refused() {
    use crate::process::stat::parse;
    // As the kernel writes our own, of which the start, the faults and the flags count. A name may hold what ends it.
    let right = std::fs::read("/proc/self/stat").expect("/proc/self/stat");
    let ours = parse(&right).expect("our own is right");
    let begin = right.iter().position(|byte| *byte == b'(');
    let end = right.iter().rposition(|byte| *byte == b')');
    let (Some(begin), Some(end)) = (begin, end) else {
        panic!("our own has a name in parentheses");
    };
    let (before, after) = (right.get(..=begin), right.get(end..));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    hold(vec(1u8.., 0..16), |name| {
        let line = [before, &name, after].concat();
        let stat = parse(&line).ok_or_else(|| TestCaseError::fail("it was refused"))?;
        let counts =
            |stat: &procfs::process::Stat| (stat.starttime, stat.minflt, stat.majflt, stat.flags);
        prop_assert_eq!(counts(&stat), counts(&ours));
        Ok(())
    });
    hold(spoilt(right), |bytes| {
        let _ = parse(&bytes);
        Ok(())
    });
}

#[test]
fn a_line_of_maps_is_what_the_kernel_meant_or_refused() {
    let line = (
        0u64..1 << 47,
        0u64..1 << 20,
        "[ -~\u{e4}\u{1f980}]{0,40}",
        any::<bool>(),
    );
    hold(line, |(start, pages, name, padded)| {
        let end = start + pages * 4096;
        let pad = if padded { "                 " } else { " " };
        let text = format!("{start:08x}-{end:08x} rw-p 00000000 00:00 0 {pad}{name}\n");
        let parsed = maps::parse(text.trim_end_matches('\n').as_bytes());
        let mapping = parsed.ok_or_else(|| TestCaseError::fail("it was refused"))?;
        prop_assert_eq!((mapping.start, mapping.end), (start, end));
        prop_assert_eq!(mapping.name.as_str(), name.trim_start_matches(' '));
        Ok(())
    });
    let line = "7f0c5a000000-7f0c5a021000 rw-p 00001000 fe:01 4711     /usr/lib/a b (deleted)";
    hold(spoilt(line.into()), |bytes| {
        let _ = maps::parse(&bytes).map(|mapping| mapping.pages());
        Ok(())
    });
}

#[test]
fn iomem_is_parsed_or_refused() {
    let text = "00001000-0009fbff : System RAM\nc0001000-eebfffff : PCI Bus 0000:00\n  c0001000-c0001fff : 0000:00:01.0\n";
    hold(
        (spoilt_text(text), any::<u64>()),
        |(text, pa)| match Iomem::parse(&text) {
            None | Some(None) => Ok(()),
            Some(Some(iomem)) => {
                for resource in iomem.at(PhysAddr(pa)) {
                    prop_assert!(resource.start <= pa | 0xfff && resource.end >= pa & !0xfff);
                }
                let _ = iomem.last_ram();
                Ok(())
            }
        },
    );
}

#[test]
fn zoneinfo_is_parsed_as_far_as_it_goes() {
    let text = "Node 0, zone   Normal\n        spanned  1048576\n  start_pfn:           256\nNode 1, zone Normal\n spanned 99\n  start_pfn: 2000000\n";
    hold((spoilt_text(text), any::<u64>()), |(text, pfn)| {
        let _ = Nodes::parse(&text).of(Pfn(pfn));
        let layout = Layout::new(zones::parse(&text), &[]);
        let cell = layout.cell_of(pfn);
        prop_assert_eq!(cell.is_some(), layout.panel_of(pfn).is_some());
        prop_assert!(cell.is_none_or(|cell| layout.place(cell, 0).is_some()));
        Ok(())
    });
}

#[test]
fn an_earlier_translation_is_read_or_refused() {
    let text = "{\"type\":\"run\",\"va\":\"0x1000\",\"pages\":2,\"state\":\"present\",\"pfn\":7}\n\
                {\"type\":\"run\",\"va\":\"0x3000\",\"pages\":9,\"state\":\"absent\"}\n{\"type\":\"end\",\"route\":\"both\"}\n";
    hold(spoilt(text.into()), |bytes| {
        if let Ok(earlier) = Earlier::read(bytes.as_slice()) {
            for pair in earlier.0.windows(2) {
                prop_assert!(pair[0].page + pair[0].pages <= pair[1].page);
            }
        }
        Ok(())
    });
}

#[test]
fn a_kernel_configuration_says_yes_only_where_a_line_does() {
    let text = "# Linux/x86 6.12\nCONFIG_DEVMEM=y\n# CONFIG_STRICT_DEVMEM is not set\n";
    hold(spoilt(text.into()), |bytes| {
        let plain = config::Config::of_bytes("config".to_owned(), bytes.clone());
        let on = |config: &config::Config| config.setting("CONFIG_DEVMEM") == config::Setting::On;
        if let Some(config) = &plain {
            let text = String::from_utf8_lossy(&bytes);
            prop_assert!(!on(config) || text.contains("CONFIG_DEVMEM="));
        }
        let packed = config::Config::of_bytes("config.gz".to_owned(), gzip(&bytes));
        prop_assert_eq!(packed.as_ref().map(on), plain.as_ref().map(on));
        Ok(())
    });
    // Packed first, and spoilt then.
    hold(spoilt(gzip(text.as_bytes())), |bytes| {
        if let Some(config) = config::Config::of_bytes("config.gz".to_owned(), bytes) {
            let _ = config.setting("CONFIG_DEVMEM");
        }
        Ok(())
    });
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packer, bytes).expect("into memory");
    packer.finish().expect("into memory")
}

#[test]
fn what_a_time_namespace_adds_is_parsed_or_not_known() {
    let text = "monotonic      100000         5\nboottime           -2 500000000\n";
    hold(spoilt_text(text), |text| {
        if let Some(offsets) = Offsets::parse(&text) {
            // What a line says in whole seconds, whichever way it is spelled.
            let says = |ns: i64| {
                let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
                numbers.any(|seconds: i64| seconds == ns.div_euclid(1_000_000_000))
            };
            prop_assert!(
                says(offsets.monotonic) && says(offsets.boottime),
                "{offsets:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn lockdown_is_parsed_or_not_known() {
    hold(spoilt_text("none [integrity] confidentiality\n"), |text| {
        if let Some(lockdown) = Lockdown::parse(&text, "a test") {
            let named = format!("[{}]", lockdown.mode);
            prop_assert!(text.contains(&named));
        }
        Ok(())
    });
}

#[test]
fn a_memory_cgroup_lies_where_one_is_mounted_or_nowhere() {
    let cgroup = "5:memory:/job/task\n1:cpu:/\n0::/a/b\n";
    let mounts = "31 20 0:27 /job /sys/fs/cgroup/memory rw shared:5 - cgroup none rw,memory\n\
                  32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
    let texts = (spoilt_text(cgroup), spoilt_text(mounts));
    hold(texts, |(cgroup, mounts)| {
        if let Some((_, root)) = limits::memory_group(&cgroup, &mounts) {
            let root = root.to_str().unwrap_or_default();
            prop_assert!(mounts.split([' ', '\n']).any(|word| word == root), "{root}");
        }
        Ok(())
    });
}

#[test]
fn what_the_processor_has_is_parsed_or_not_known() {
    let text = "processor\t: 0\nflags\t\t: fpu pat pse36\naddress sizes\t: 46 bits physical, 48 bits virtual\n";
    hold(spoilt_text(text), |text| {
        if let Some(bits) = facts::physical_bits(&text) {
            prop_assert!(text.contains(&bits.to_string()), "{bits}");
        }
        prop_assert!(facts::has_pat(&text) != Some(true) || text.contains("pat"));
        Ok(())
    });
}

#[test]
fn pages_of_devices_are_counted_only_where_a_zone_has_them() {
    let text = "Node 0, zone   Normal\n        spanned  100\nNode 0, zone   Device\n  pages free     0\n        spanned  16384\n\
                Node 1, zone   Device\n        spanned  18446744073709551615\n";
    hold(spoilt_text(text), |text| {
        prop_assert!(facts::device_pages(&text) == 0 || text.contains("Device"));
        Ok(())
    });
}

#[test]
fn what_a_switch_says_is_judged_and_shown_in_one_line() {
    // Each has its own words, and gets those of the others too.
    let text = "always [madvise] never\nCmaTotal:       65536 kB\n/dev/sda2 partition 1 0 -2\n";
    let texts = prop_oneof![spoilt_text(text), spoilt_text("1"), spoilt_text("true")];
    hold((any::<Index>(), texts), |(which, text)| {
        let mover = which.get(&movable::SWITCHES).judge(Ok(&text));
        prop_assert!(!mover.evidence.contains('\n'), "{}", mover.evidence);
        Ok(())
    });
}

#[test]
fn a_list_of_nodes_is_no_longer_than_one_can_be() {
    hold(spoilt_text("0-1,3,1000-1023"), |list| {
        let nodes = inject::parse_list(&list);
        prop_assert!(nodes.len() <= 1024 && nodes.iter().all(|node| *node >= 0));
        Ok(())
    });
}

#[test]
fn what_is_available_is_whole_kilobytes_or_not_known() {
    let text = "MemTotal:       16 kB\nMemAvailable:    4 kB\nCmaTotal:       65536 kB\n";
    hold(spoilt_text(text), |text| {
        if let Some(bytes) = inject::available_of(&text) {
            prop_assert!(bytes % 1024 == 0 || bytes == usize::MAX, "{bytes}");
        }
        Ok(())
    });
}
