//! Memory and pages by hand, for the tests of this folder.

use v2p_common::VirtAddr;

use super::layout::Layout;
use crate::{
    kernel::zones::Zone,
    state::PageState,
    translate::{Page, Verdict, run::Run},
};

/// A GiB in one zone.
pub(super) fn layout() -> Layout {
    let zone = Zone {
        node: 0,
        name: "Normal".to_owned(),
        start: 0,
        end: 1 << 18,
    };
    Layout::new(vec![zone], &[])
}

/// So many pages that are alike.
pub(super) fn run(page: u64, state: PageState, pages: u64, page_size: u64) -> Run {
    let first = Page {
        va: VirtAddr(page << 12),
        state,
        page_size: Some(page_size),
        marks: Default::default(),
        frame: None,
        mapped: None,
        node: None,
        verdict: Verdict::Agree,
    };
    Run { first, pages }
}
