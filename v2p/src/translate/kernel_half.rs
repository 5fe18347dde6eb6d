//! What of a process's mappings lies in the kernel's half of the address space: `[vsyscall]`, one page.
//!
//! Pagemap ends below it. With `vsyscall=emulate` the kernel maps a page there, which the walk finds; with `xonly` it maps none
//! and does in the page fault what was called; with `none` the mapping is not there (arch/x86/entry/vsyscall/vsyscall_64.c,
//! 6.1 to 7.3).

use anyhow::Result;
use v2p_common::{PAGE_SIZE, VirtAddr};

use super::{Sink, Translator, settle::walk_alone};
use crate::process::{Pagemap, maps::Mapping};

impl Translator {
    /// Whether a route was taken by which the pages of `mapping` can be told.
    pub const fn can_tell(&self, mapping: &Mapping) -> bool {
        !mapping.is_kernels() || self.walks()
    }

    /// As [`Self::mapping`], by the walk alone.
    pub(super) fn kernel_half<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        mapping: &Mapping,
        sink: &mut S,
    ) -> Result<bool> {
        let decoder = self.decoder();
        let mut at = mapping.start;
        while at < mapping.end {
            let va = VirtAddr(at);
            match walk_alone(va, self.carrier()?, &decoder, pagemap)? {
                Some(page) => sink.page(page, 1)?,
                None => return Ok(false),
            }
            at += PAGE_SIZE;
        }
        Ok(true)
    }
}
