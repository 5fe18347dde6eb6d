//! How fast a translation is, against bare bulk reads of the same pagemap in the same run.
//!
//! As root: `cargo bench -p v2p --bench translate`, or `cargo xtask bench`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench fails by panicking"
)]

use std::{
    hint::black_box,
    ptr,
    time::{Duration, Instant},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use serde_json::json;
use v2p::{
    common::VirtAddr,
    kernel,
    process::{Pagemap, maps::Mapping},
    translate::{Route, Translator},
};

const PAGE: usize = 4096;
const ROUNDS: usize = 9;

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: it needs root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    println!(
        "Linux {}, medians of {ROUNDS}, ratios to the bare bulk pread of the same run\n",
        kernel::release()
    );
    println!(
        "{:<44} {:>10} {:>10} {:>10} {:>7}",
        "row", "median", "min", "max", "ratio"
    );
    for pages in [1_000, 10_000, 65_536, 262_144, 1_000_000] {
        dense(pages);
    }
    sparse();
}

fn reserve(len: usize) -> *mut u8 {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping touches nothing that exists.
    let start = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            len,
            access,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    };
    let start = start.unwrap();
    // SAFETY: our own mapping.
    let _ = unsafe { madvise(start, len, Advice::LinuxNoHugepage) };
    start.cast()
}

fn mapping(start: *mut u8, len: usize) -> Mapping {
    Mapping {
        start: start as u64,
        end: start as u64 + len as u64,
        name: String::new(),
    }
}

/// `pages` resident pages in one piece.
fn dense(pages: usize) {
    let len = pages * PAGE;
    let start = reserve(len);
    for i in 0..pages {
        // SAFETY: inside our mapping.
        unsafe { start.add(i * PAGE).write_volatile(1) };
    }
    let whole = mapping(start, len);
    let pagemap = Pagemap::of_self().unwrap();
    let mut words = vec![0u64; pages];
    let mut translators: Vec<_> = [Route::Pagemap, Route::Both, Route::Walk]
        .into_iter()
        .map(|route| {
            let mut translator = Translator::new(route).unwrap();
            translator.without_flags();
            (route, translator)
        })
        .collect();
    let mut times = vec![Vec::new(); 1 + translators.len()];
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        assert_eq!(
            pagemap
                .read_words(VirtAddr(start as u64), &mut words)
                .unwrap(),
            pages
        );
        black_box(&words);
        times[0].push(begin.elapsed());
        for (i, (_, translator)) in translators.iter_mut().enumerate() {
            let mut present = 0;
            let begin = Instant::now();
            translator
                .mapping(&pagemap, &whole, &mut |page, n| {
                    present += if page.pfn().is_some() { n } else { 0 };
                    Ok(())
                })
                .unwrap();
            times[i + 1].push(begin.elapsed());
            assert_eq!(present, pages as u64);
        }
    }
    let bare = median(&times[0]);
    row(&format!("{pages} pages: bare bulk pread"), &times[0], bare);
    for ((route, _), times) in translators.iter().zip(&times[1..]) {
        row(
            &format!("{pages} pages: {route:?}").to_lowercase(),
            times,
            bare,
        );
    }
    // SAFETY: our own mapping, not used again.
    let _ = unsafe { rustix::mm::munmap(start.cast(), len) };
}

/// 1,000 resident pages in a TiB.
fn sparse() {
    const LEN: usize = 1 << 40;
    let start = reserve(LEN);
    for i in 0..1000 {
        // SAFETY: inside our mapping.
        unsafe { start.add(i * (LEN / 1000) / PAGE * PAGE).write_volatile(1) };
    }
    let pagemap = Pagemap::of_self().unwrap();
    for route in [Route::Pagemap, Route::Both, Route::Walk] {
        let mut translator = Translator::new(route).unwrap();
        translator.without_flags();
        let times: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let mut present = 0;
                let begin = Instant::now();
                translator
                    .mapping(&pagemap, &mapping(start, LEN), &mut |page, n| {
                        present += if page.pfn().is_some() { n } else { 0 };
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(present, 1000);
                begin.elapsed()
            })
            .collect();
        row(
            &format!("1,000 pages in 1 TiB: {route:?}").to_lowercase(),
            &times,
            Duration::ZERO,
        );
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

fn row(name: &str, times: &[Duration], reference: Duration) {
    let (median, min, max) = (
        median(times),
        times.iter().min().unwrap(),
        times.iter().max().unwrap(),
    );
    let ratio = (!reference.is_zero()).then(|| median.as_secs_f64() / reference.as_secs_f64());
    let shown = ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
    let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap();
    let us = |d: Duration| format!("{:.0} us", d.as_secs_f64() * 1e6);
    println!(
        "{name:<44} {:>10} {:>10} {:>10} {shown:>7}",
        us(median),
        us(*min),
        us(*max)
    );
    eprintln!(
        "{}",
        json!({"row": name, "median_ns": ns(median), "min_ns": ns(*min), "max_ns": ns(*max), "ratio": ratio})
    );
}
