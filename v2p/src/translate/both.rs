//! One address by both routes.

use anyhow::Result;
use v2p_common::{Pfn, VirtAddr, pagemap::PagemapWord};

use crate::{
    carrier::{Carrier, Walk},
    process::Pagemap,
};

/// One address, asked by both routes in one system call.
#[derive(Clone, Debug)]
pub struct Both {
    /// What pagemap says.
    pub pagemap: PagemapWord,
    /// What the tables say.
    pub walk: Walk,
    va: VirtAddr,
}

impl Both {
    /// Asks both routes for `va`. `None`: the address space is gone, or ends before.
    ///
    /// # Errors
    /// Those of [`Carrier::both`].
    pub fn ask(carrier: &mut Carrier, pagemap: &Pagemap, va: VirtAddr) -> Result<Option<Self>> {
        Ok(carrier.both(pagemap, va)?.map(|(word, walk)| Self {
            pagemap: word,
            walk,
            va,
        }))
    }

    /// The frame that both name.
    pub fn agreed(&self) -> Option<Pfn> {
        let walked = self.walk.pfn(self.va);
        walked.filter(|pfn| self.pagemap.pfn() == Some(*pfn))
    }
}
