//! What of a process's mappings lies in the kernel's half of the address space: `[vsyscall]`, one page.
//!
//! Pagemap ends below it. With `vsyscall=emulate` the kernel maps a page there, which the walk finds; with `xonly` it maps none
//! and does in the page fault what was called; with `none` the mapping is not there (arch/x86/entry/vsyscall/vsyscall_64.c,
//! 6.1 to 7.3).

use anyhow::Result;
use v2p_common::{PAGE_SIZE, VirtAddr};

use super::{Sink, Translator, settle::walk_alone};
use crate::{
    exit::Failure,
    process::{Pagemap, maps::Mapping},
};

impl Translator {
    /// Whether a route was taken by which the pages of `mapping` can be told.
    pub const fn can_tell(&self, mapping: &Mapping) -> bool {
        !mapping.is_kernels() || self.walks()
    }

    /// Takes those out of `mappings` whose pages cannot be told; gives their names. `is_all`: nobody has asked for them by name or address.
    ///
    /// # Errors
    /// Exit code 3 where one was asked for.
    pub fn take_untold(&self, mappings: &mut Vec<Mapping>, is_all: bool) -> Result<Vec<String>> {
        let untold: Vec<_> = mappings
            .extract_if(.., |mapping| !self.can_tell(mapping))
            .map(|mapping| mapping.name)
            .collect();
        match untold.first() {
            Some(name) if !is_all => Err(self.not_by_pagemap(name).into()),
            _ => Ok(untold),
        }
    }

    /// Why the mapping `name`, of the kernel's half of the addresses, cannot be told.
    fn not_by_pagemap(&self, name: &str) -> Failure {
        let what =
            format!("{name} lies in the kernel's half of the addresses, where pagemap has nothing");
        match self.why() {
            Some(why) => Failure::unsupported(format!("{what}, and there is no walk: {why}")),
            None => Failure::unsupported(what).hint("the page tables tell: --route walk"),
        }
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
