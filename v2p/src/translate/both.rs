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

/// What two routes say together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Agreement {
    /// Both name this frame.
    Agree(Pfn),
    /// They name different things; `None`: no frame.
    Disagree {
        /// Pagemap's answer.
        pagemap: Option<Pfn>,
        /// The walk's.
        walk: Option<Pfn>,
    },
    /// Both say that there is no frame.
    NoFrame,
}

impl Both {
    /// Asks both routes for `va`. `None`: the address space is gone.
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

    /// The two answers compared.
    pub fn agreement(&self) -> Agreement {
        match (self.pagemap.pfn(), self.walk.pfn(self.va)) {
            (Some(a), Some(b)) if a == b => Agreement::Agree(a),
            (None, None) => Agreement::NoFrame,
            (pagemap, walk) => Agreement::Disagree { pagemap, walk },
        }
    }

    /// The frame that both name.
    pub fn agreed(&self) -> Option<Pfn> {
        match self.agreement() {
            Agreement::Agree(pfn) => Some(pfn),
            _ => None,
        }
    }
}
