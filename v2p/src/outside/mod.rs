//! Every byte that comes from outside, made up: whatever it is, it is an answer or an error, never a panic or a hang, and an
//! answer that can be checked is right.
//!
//! Each target runs for V2P_FUZZ_SECONDS (half a second where that is not set; `cargo xtask fuzz` sets it). A case that failed is kept in
//! proptest-regressions/outside/mod.txt and tried first from then on. What only `translate` sees is tried in its own `made_up`.

mod files;

use std::{
    fmt::Debug,
    path::Path,
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    sample::Index,
    test_runner::{Config, TestCaseError, TestCaseResult, TestRunner},
};
use proptest::{prop_assert, prop_assert_eq};
use v2p_common::{
    Pfn, VirtAddr,
    event::{COMM_LEN, Event, Header},
    lane::Slot,
    pagemap::PagemapWord,
    pte::{Entry, EntryState, Level, Paging, WalkEnd},
};

use crate::{
    cli, page::ZeroFrames, process::select::Asked, state::PageState, translate::page::Decoder,
};

/// Tries `test` on values of `strategy` until the time is over.
pub(crate) fn hold<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> TestCaseResult)
where
    S::Value: Debug,
{
    let seconds = std::env::var("V2P_FUZZ_SECONDS").ok();
    let seconds = seconds.map_or(0.5, |s| s.parse().expect("V2P_FUZZ_SECONDS is a number"));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    // Kept cases are tried in every round, or what fails in a later one would not be kept.
    let config = Config {
        source_file: Some(file!()),
        ..Config::default()
    };
    loop {
        let mut runner = TestRunner::new(config.clone());
        if let Err(e) = runner.run(&strategy, &test) {
            panic!("{e}");
        }
        if Instant::now() > end {
            return;
        }
    }
}

/// A change of bytes that were right.
#[derive(Clone, Debug)]
enum Edit {
    Cut(Index),
    Byte(Index, u8),
    Word(Index, u32),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let word = prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(0x7fff_ffff),
        0u32..64,
        any::<u32>()
    ];
    let place = any::<Index>;
    prop_oneof![
        place().prop_map(Edit::Cut),
        (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Byte(at, byte)),
        (place(), word).prop_map(|(at, word)| Edit::Word(at, word)),
        (place(), vec(any::<u8>(), 0..40)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (place(), place()).prop_map(|(from, to)| Edit::Repeat(from, to)),
    ]
}

/// `right`, changed in a few places; or anything at all.
fn spoilt(right: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edited = vec(edit(), 0..6).prop_map(move |edits| {
        let mut bytes = right.clone();
        for edit in edits {
            let len = bytes.len().max(1);
            match edit {
                Edit::Cut(at) => bytes.truncate(at.index(len)),
                Edit::Byte(at, byte) => {
                    if let Some(place) = bytes.get_mut(at.index(len)) {
                        *place = byte;
                    }
                }
                Edit::Word(at, word) => {
                    let at = at.index(len) & !3;
                    if let Some(place) = bytes.get_mut(at..at + 4) {
                        place.copy_from_slice(&word.to_ne_bytes());
                    }
                }
                Edit::Insert(at, more) => {
                    let at = at.index(len).min(bytes.len());
                    bytes.splice(at..at, more);
                }
                Edit::Repeat(from, to) => {
                    let (from, to) = (from.index(len), to.index(len));
                    let part = bytes.get(from.min(to)..from.max(to)).unwrap_or_default();
                    let part = part.to_vec();
                    bytes.extend(part);
                }
            }
        }
        bytes
    });
    prop_oneof![8 => edited, 1 => vec(any::<u8>(), 0..512)]
}

fn spoilt_text(right: &str) -> impl Strategy<Value = String> + use<> {
    spoilt(right.as_bytes().to_vec()).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn level() -> impl Strategy<Value = Level> {
    (0u32..5).prop_map(|n| Level::from_u32(n).expect("five levels"))
}

fn paging() -> impl Strategy<Value = Paging> {
    // What the CPU may have: CPUID's physical address bits.
    (4u64..=5, 36u32..=52).prop_map(|(levels, bits)| Paging {
        levels,
        physical_mask: (1 << bits) - 1,
    })
}

#[test]
fn a_pagemap_word_has_a_frame_only_where_it_is_present_and_shown() {
    hold((any::<u64>(), paging()), |(bits, paging)| {
        let word = PagemapWord(bits);
        let shown = bits >> 63 == 1 && bits & ((1 << 55) - 1) != 0;
        prop_assert_eq!(word.pfn().is_some(), shown);
        let decoder = Decoder {
            paging: Some(paging),
            zero: ZeroFrames::UNKNOWN,
        };
        let present = matches!(decoder.word(word), PageState::Present { .. });
        prop_assert_eq!(present, shown);
        Ok(())
    });
}

#[test]
fn an_entry_names_no_frame_that_the_cpu_cannot_have() {
    hold(
        (any::<u64>(), level(), paging(), 0u64..1 << 56),
        |(bits, level, paging, va)| {
            let beyond = (paging.physical_mask >> 12) + 1;
            if let EntryState::Leaf(pfn) | EntryState::Table(pfn) =
                Entry(bits).state(level, paging.physical_mask)
            {
                prop_assert!(pfn.0 < beyond, "{pfn:?}");
            }
            let decoder = Decoder {
                paging: Some(paging),
                zero: ZeroFrames {
                    page: Some(Pfn(7)),
                    huge: None,
                },
            };
            match decoder.entry(level, Entry(bits), VirtAddr(va)) {
                (PageState::Present { pfn } | PageState::Device { pfn }, size) => {
                    prop_assert!(pfn.0 < beyond && pfn != Pfn(7), "{pfn:?}");
                    prop_assert!(size.is_some());
                }
                (PageState::Hidden, _) => {
                    return Err(TestCaseError::fail("an entry hides nothing"));
                }
                _ => {}
            }
            Ok(())
        },
    );
}

#[test]
fn an_event_is_decoded_or_refused() {
    // A header of every kind with the length that any of them may have.
    let records = (0u32..40, 0usize..40).prop_flat_map(|(kind, words)| {
        let len = size_of::<Header>() + 4 * words;
        let mut right = kind.to_ne_bytes().to_vec();
        right.extend(u32::try_from(len).unwrap_or(0).to_ne_bytes());
        right.resize(len, 0);
        spoilt(right)
    });
    hold(records, |bytes| {
        if let Ok(event) = Event::from_bytes(&bytes) {
            prop_assert_eq!(event.header().len as usize, bytes.len());
        }
        Ok(())
    });
}

/// What a lane holds is memory that both sides see: whatever is in a slot, it is a fault with its own fields.
#[test]
fn a_slot_of_a_lane_is_a_fault() {
    let comm = any::<[u8; COMM_LEN]>();
    let who = (any::<u32>(), any::<u32>(), 0..6u32, 0..256u32);
    hold(
        (comm, any::<[u64; 5]>(), who, paging()),
        |(comm, words, (tid, tgid, level, flags), paging)| {
            let [seq, t_ns, va, entry, mm] = words;
            // As wide as they can be (PID_MAX_LIMIT).
            let (tid, tgid) = (tid & 0x3f_ffff, tgid & 0x3f_ffff);
            let level = if level == 5 { u32::MAX } else { level };
            let (halves, _) = comm.as_chunks::<8>();
            let slot = Slot {
                seq,
                t_ns,
                task: Slot::pack(tid, tgid, level, flags),
                comm: [halves[0], halves[1]].map(u64::from_le_bytes),
                va,
                entry,
                mm,
            };
            let fault = slot.fault();
            let header = fault.header;
            prop_assert_eq!((header.tid, header.tgid, header.mm), (tid, tgid, mm));
            prop_assert_eq!((header.seq, header.t_ns), (seq, t_ns));
            let name =
                |comm: [u8; COMM_LEN]| comm.split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
            prop_assert_eq!(name(header.comm), name(comm));
            prop_assert_eq!(
                (fault.va, fault.entry, fault.level, fault.flags),
                (va, entry, level, flags)
            );
            if let Some(level) = Level::from_u32(level) {
                let entry = Entry(entry);
                let state = entry.state(level, paging.physical_mask);
                let end = WalkEnd {
                    level,
                    entry,
                    state,
                };
                let beyond = (paging.physical_mask >> 12) + 1;
                prop_assert!(end.pfn(VirtAddr(va)).is_none_or(|pfn| pfn.0 < beyond));
            }
            Ok(())
        },
    );
}

#[test]
fn bytes_in_hex_are_those_or_refused() {
    use clap::Parser as _;
    let written = |hex: &str| {
        let words = ["v2p", "write", "--pid", "1", "0x1000"];
        let hex = format!("--hex={hex}");
        let parsed = cli::Cli::try_parse_from(words.into_iter().chain([hex.as_str()]));
        parsed.ok().and_then(|cli| match cli.command {
            cli::Command::Write(write) => Some(write.hex?.0),
            _ => None,
        })
    };
    hold(vec(any::<u8>(), 1..40), |bytes| {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        prop_assert_eq!(written(&hex), Some(bytes.clone()));
        prop_assert_eq!(written(&format!("0x{}", hex.to_uppercase())), Some(bytes));
        Ok(())
    });
    hold(
        prop_oneof![any::<String>(), spoilt_text("0x00ff7a")],
        |text| {
            if let Some(bytes) = written(&text) {
                prop_assert!(2 * bytes.len() <= text.len());
            }
            Ok(())
        },
    );
}

#[test]
fn a_range_is_whole_pages_or_refused() {
    hold(
        prop_oneof![
            any::<String>(),
            spoilt_text("0x7f0000000000+16K"),
            spoilt_text("0x1000..0x2000"),
        ],
        |text| {
            if let Ok(Asked::Range(range) | Asked::Either(_, Ok(range))) = cli::asked(&text) {
                prop_assert!(range.start < range.end, "{range:?}");
                prop_assert!(
                    range.start % 4096 == 0 && range.end % 4096 == 0,
                    "{range:?}"
                );
            }
            let _ = cli::frame(&text);
            let _ = cli::user_address(&text);
            let _ = cli::seconds(&text);
            Ok(())
        },
    );
    hold((any::<u64>(), 1u64..1 << 40), |(start, len)| {
        let text = format!("{start:#x}+{len}");
        match (cli::asked(&text), start.checked_add(len)) {
            (Ok(Asked::Range(range) | Asked::Either(_, Ok(range))), Some(end)) => {
                prop_assert!(range.start <= start && start - range.start < 4096);
                prop_assert!(range.end >= end && range.end - end < 4096);
            }
            (Err(_), None) => {}
            // The last page: its end is no address.
            (Err(_), Some(end)) => prop_assert!(end > u64::MAX - 4096),
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
        Ok(())
    });
}

#[test]
fn kept_cases_are_where_they_are_looked_for() {
    // proptest keeps them by the path of this file: those of a moved one would be dropped without a word.
    assert!(file!().ends_with("src/outside/mod.rs"), "{}", file!());
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("proptest-regressions");
    if kept.exists() {
        let inside = |folder: &Path| -> Vec<_> {
            let found = std::fs::read_dir(folder).unwrap();
            found.map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(inside(&kept), ["outside"]);
        assert_eq!(inside(&kept.join("outside")), ["mod.txt"]);
    }
}
