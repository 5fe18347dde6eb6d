//! The library: no process is started, /proc/kpageflags is not read, and the sink counts.

use std::{cell::RefCell, hint::black_box, time::Duration};

use procfs::process::Process;
use v2p::{
    common::{Pfn, VirtAddr, pagemap::PagemapWord},
    process::{Pagemap, maps},
    state::PageState,
    translate::{
        Finder, Page, Plain, Route, Sink, Translator, Verdict, Wanted,
        parts::{Part, Scanner},
    },
};

use crate::{
    report::{Bar, Case, Report},
    space::{PAGE, Space},
};

const TIB: usize = 1 << 40;
/// Words in a bare read of a size that fits the first cache.
const PART: usize = 8192;

/// Counts pages that are present, and adds up their frames, so that each is had.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Count {
    present: u64,
    frames: u64,
    disagree: u64,
    /// Told by one route alone.
    single: u64,
}

impl Sink for Count {
    fn page(&mut self, page: Page, pages: u64) -> anyhow::Result<()> {
        if let Some(pfn) = page.pfn() {
            self.present += pages;
            self.frames = self.frames.wrapping_add(pfn.0);
        }
        match page.verdict {
            Verdict::Disagree => self.disagree += pages,
            Verdict::Single if page.state != PageState::Absent => self.single += pages,
            _ => {}
        }
        Ok(())
    }

    fn nothing(&mut self, _: Page, _: u64) -> anyhow::Result<()> {
        Ok(())
    }

    fn plain(&mut self, pages: &Plain<'_>) -> anyhow::Result<()> {
        self.present += pages.len() as u64;
        if !pages.are_compared() {
            self.single += pages.len() as u64;
        }
        self.frames = pages.fold_frames(self.frames, |sum, pfn| sum.wrapping_add(pfn.0));
        Ok(())
    }
}

fn translator(route: Route) -> Translator {
    let mut translator = Translator::new(route).unwrap();
    translator.without_flags();
    translator
}

/// The count that `route` must come to: with both, no page is left uncompared.
fn by(route: Route, count: Count) -> Count {
    let single = match route {
        Route::Both => 0,
        _ => count.present,
    };
    Count { single, ..count }
}

fn option(route: Route) -> String {
    format!("--route {route:?}").to_lowercase()
}

/// A case that translates all of `space` and finds `expected`.
fn translation<'a>(
    route: Route,
    bar: Bar,
    pagemap: &'a Pagemap,
    space: &'a Space,
    expected: Count,
) -> Case<'a> {
    let mut translator = translator(route);
    let mapping = space.mapping();
    Case::new(option(route), bar, move || {
        let mut count = Count::default();
        let alive = translator.mapping(pagemap, &mapping, &mut count).unwrap();
        assert!(alive);
        let expected = by(route, expected);
        assert_eq!(count, expected);
    })
}

/// Resident pages in one piece, each number of them against bare reads of their words.
pub(crate) fn dense(report: &mut Report) {
    for pages in [1_000, 10_000, 65_536, 100_000, 262_144, 1_000_000] {
        let space = Space::reserve(pages * PAGE);
        (0..pages).for_each(|n| space.touch(n));
        let start = VirtAddr(space.mapping().start);
        let pagemap = Pagemap::of_self().unwrap();
        let mut words = vec![0u64; pages];
        assert_eq!(pagemap.read_words(start, &mut words).unwrap(), pages);
        let frames = words.iter().map(|word| PagemapWord(*word).pfn().unwrap().0);
        let expected = Count {
            present: pages as u64,
            frames: frames.fold(0, u64::wrapping_add),
            ..Count::default()
        };
        let bar = |route| match (route, pages) {
            (Route::Pagemap, 65_536) => Bar::Ratio(1.15),
            (Route::Both, 262_144) => Bar::Ratio(1.25),
            (Route::Walk, 65_536 | 262_144) => Bar::Ratio(0.35),
            _ => Bar::None,
        };
        let mut by_procfs = Process::myself().unwrap().pagemap().unwrap();
        let first = usize::try_from(start.page_number()).unwrap();
        let (words, pagemap) = (RefCell::new(words), &pagemap);
        let mut cases = vec![
            Case::new("bare bulk pread, one", Bar::None, || {
                let mut words = words.borrow_mut();
                assert_eq!(pagemap.read_words(start, &mut words).unwrap(), pages);
                black_box(&words);
            }),
            Case::new("bare bulk preads, 64 KiB each", Bar::None, || {
                let mut words = words.borrow_mut();
                let mut at = start;
                for part in (0..pages).step_by(PART).map(|n| PART.min(pages - n)) {
                    let words = &mut words[..part];
                    assert_eq!(pagemap.read_words(at, words).unwrap(), part);
                    black_box(&words);
                    at = VirtAddr(at.0 + (part * PAGE) as u64);
                }
            }),
        ];
        for route in [Route::Pagemap, Route::Both, Route::Walk] {
            cases.push(translation(route, bar(route), pagemap, &space, expected));
        }
        cases.push(Case::new("the procfs crate's range", Bar::None, || {
            let range = by_procfs.get_range_info(first..first + pages).unwrap();
            assert_eq!(black_box(range).len(), pages);
        }));
        report.group(&format!("{pages} resident pages, library"), 2, cases);
    }
}

/// A TiB that is reserved: what it costs follows the pages that are there.
pub(crate) fn sparse(report: &mut Report) {
    const PLACES: usize = 1_000;
    for pages in [1_000, 10_000, 100_000, 1_000_000] {
        let space = Space::reserve(TIB);
        for place in 0..PLACES {
            let first = place * (TIB / PAGE / PLACES);
            (0..pages / PLACES).for_each(|n| space.touch(first + n));
        }
        let pagemap = Pagemap::of_self().unwrap();
        let mut count = Count::default();
        let mut reference = translator(Route::Pagemap);
        reference
            .mapping(&pagemap, &space.mapping(), &mut count)
            .unwrap();
        assert_eq!(count.present, pages as u64);
        let bar = match pages {
            1_000 => Bar::Time(Duration::from_millis(10)),
            _ => Bar::None,
        };
        let mut scanner = Scanner::default();
        let mut words = vec![0; pages];
        // What the kernel takes, whoever asks. Before 6.7 nothing can be asked for.
        let mapping = space.mapping();
        let (start, end) = (VirtAddr(mapping.start), VirtAddr(mapping.end));
        let mut bare = || {
            let mut parts = Vec::new();
            let can = scanner.scan(&pagemap, start, end, |part| {
                parts.push(part);
                Ok(())
            });
            for Part { start, end } in parts {
                let some = usize::try_from(end - start).unwrap() / PAGE;
                let words = &mut words[..some];
                assert_eq!(pagemap.read_words(VirtAddr(start), words).unwrap(), some);
            }
            can.unwrap()
        };
        let references = usize::from(bare());
        let mut cases = Vec::new();
        if references > 0 {
            let name = "bare PAGEMAP_SCAN, and preads of what it finds";
            cases.push(Case::new(name, Bar::None, || assert!(bare())));
        }
        let routes = [Route::Pagemap, Route::Both, Route::Walk];
        cases.extend(routes.map(|route| translation(route, bar, &pagemap, &space, count)));
        let title = format!("1 TiB, {pages} pages in 1000 places, library");
        report.group(&title, references, cases);
    }
}

/// Every process of this machine: a search for a frame, against walks alone.
pub(crate) fn every_process(report: &mut Report) {
    let pids: Vec<u32> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut frames_alone = translator(Route::Walk);
    frames_alone.frames_alone();
    let walk = RefCell::new(frames_alone);
    let wanted = Wanted::new(&[Pfn(1 << 40)]);
    let cases = vec![
        Case::new("sum of --route walk", Bar::None, || {
            let mut count = Count::default();
            all(&pids, &mut walk.borrow_mut(), &mut count);
            black_box(count);
        }),
        Case::new("who", Bar::Ratio(1.0), || {
            let mut finder = Finder::new(&wanted, |page: &Page, _| {
                anyhow::bail!("no machine has that frame: {page:?}")
            });
            all(&pids, &mut walk.borrow_mut(), &mut finder);
            assert!(finder.pages > 0);
        }),
    ];
    let title = "every process, library";
    report.group(title, 1, cases);
}

fn all<S: Sink>(pids: &[u32], translator: &mut Translator, sink: &mut S) {
    for pid in pids {
        let (Ok(pagemap), Ok(mappings)) = (Pagemap::of(*pid), maps::mappings(*pid)) else {
            continue;
        };
        for mapping in &mappings {
            translator.mapping(&pagemap, mapping, sink).unwrap();
        }
    }
}
