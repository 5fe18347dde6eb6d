//! What is said of a fault and of a move.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use v2p_common::event::{self, fault};

use super::Hex;
use crate::state::PageState;

/// Why what lies behind a page changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing was there before.
    FirstTouch,
    /// A write to a shared page got a page of its own.
    Cow,
    /// The zero page was replaced by the first write.
    ZeroFill,
    /// A page went to swap.
    SwapOut,
    /// A page came back from swap.
    SwapIn,
    /// The kernel moved the page.
    Migration,
    /// A huge page took the place of base pages.
    Collapse,
    /// KSM shared the page with its equals.
    KsmMerge,
    /// A page of KSM became one of its own again.
    KsmBreak,
    /// The mapping is gone.
    Unmap,
    /// The contents were thrown away: MADV_DONTNEED and the like, truncation.
    Discard,
    /// The entries went to another address.
    Remap,
    /// A file's page was dropped to free memory.
    Reclaim,
    /// The memory is bad.
    Poison,
    /// The process executed another program.
    Exec,
    /// The process ended.
    Exit,
    /// What was seen does not tell.
    Unknown,
}

impl Cause {
    /// Every one, for tests that want them all.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 17] = [
        Self::FirstTouch,
        Self::Cow,
        Self::ZeroFill,
        Self::SwapOut,
        Self::SwapIn,
        Self::Migration,
        Self::Collapse,
        Self::KsmMerge,
        Self::KsmBreak,
        Self::Unmap,
        Self::Discard,
        Self::Remap,
        Self::Reclaim,
        Self::Poison,
        Self::Exec,
        Self::Exit,
        Self::Unknown,
    ];

    /// Whether it is to be seen among others: the kernel moved the page, its memory is bad, or nobody can tell.
    pub const fn stands_out(self) -> bool {
        matches!(self, Self::Migration | Self::Unknown | Self::Poison)
    }

    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirstTouch => "first-touch",
            Self::Cow => "cow",
            Self::ZeroFill => "zero-fill",
            Self::SwapOut => "swap-out",
            Self::SwapIn => "swap-in",
            Self::Migration => "migration",
            Self::Collapse => "collapse",
            Self::KsmMerge => "ksm-merge",
            Self::KsmBreak => "ksm-break",
            Self::Unmap => "unmap",
            Self::Discard => "discard",
            Self::Remap => "remap",
            Self::Reclaim => "reclaim",
            Self::Poison => "poison",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Cause {
    /// As in JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What the CPU wanted of a page when it faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// To read it.
    Read,
    /// To write to it.
    Write,
    /// To fetch an instruction from it.
    Exec,
}

impl Access {
    /// As the flags of a fault have it; `None`: they do not tell.
    pub const fn of(flags: u32) -> Option<Self> {
        match flags & (fault::READ | fault::WRITE | fault::EXECUTE) {
            fault::READ => Some(Self::Read),
            fault::WRITE => Some(Self::Write),
            fault::EXECUTE => Some(Self::Exec),
            _ => None,
        }
    }

    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
        }
    }
}

/// How a move is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// A kernel event shows it.
    Event,
    /// Found by comparing the page tables; no event was seen.
    Reconciled,
}

impl Proof {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Reconciled => "reconciled",
        }
    }
}

/// A task's name as the kernel has it: bytes up to the first NUL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comm(pub [u8; event::COMM_LEN]);

impl Comm {
    /// As text.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        let name = self.0.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name)
    }
}

impl std::fmt::Display for Comm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.text())
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The task that did it, in the initial PID namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct By {
    /// Thread.
    pub tid: u32,
    /// Its name.
    pub comm: Comm,
}

/// A run of neighbouring pages that got other frames for the same cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Move {
    /// The event's number; none where it was reconciled.
    pub seq: Option<u64>,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub t_ns: u64,
    /// The first page's address.
    pub va: Hex,
    /// Base pages.
    pub pages: u64,
    /// What lay behind the first page before.
    pub from: PageState,
    /// What does now.
    pub to: PageState,
    /// Why.
    pub cause: Cause,
    /// The kernel's reason for a migration; null where no event told it.
    pub reason: Option<&'static str>,
    /// Who; null where that was not seen.
    pub by: Option<By>,
    /// How it is known.
    pub proof: Proof,
}
