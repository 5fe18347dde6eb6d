//! What can lie behind a page of address space.

use serde::{Serialize, Serializer};
use v2p_common::Pfn;

/// As serde wants it: what is 0 is left out.
pub(crate) const fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn pfn_number<S: Serializer>(pfn: &Pfn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(pfn.0)
}

/// What lies behind a page of address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum PageState {
    /// In this frame.
    Present {
        /// The frame.
        #[serde(serialize_with = "pfn_number")]
        pfn: Pfn,
    },
    /// The shared page of zeros.
    Zero,
    /// On a swap device, or another entry in swap form: type and offset are the kernel's.
    Swapped {
        /// Where; null where the kernel withholds it.
        swap: Option<SwapPlace>,
    },
    /// Being moved at this moment.
    Migrating {
        /// The frame that it leaves.
        #[serde(serialize_with = "pfn_number")]
        pfn: Pfn,
    },
    /// Memory of a device, or mapped by the kernel itself: no page behind it.
    Device {
        /// The frame number of its physical address.
        #[serde(serialize_with = "pfn_number")]
        pfn: Pfn,
    },
    /// Poisoned: touching it is a SIGBUS.
    Poisoned,
    /// A guard region.
    Guard,
    /// Present, but the kernel withholds the frame.
    Hidden,
    /// Nothing.
    Absent,
}

impl PageState {
    /// Its word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present { .. } => "present",
            Self::Zero => "zero",
            Self::Swapped { .. } => "swapped",
            Self::Migrating { .. } => "migrating",
            Self::Device { .. } => "device",
            Self::Poisoned => "poisoned",
            Self::Guard => "guard",
            Self::Hidden => "hidden",
            Self::Absent => "absent",
        }
    }

    /// The state of the page `i` pages further on in one contiguous piece.
    #[must_use]
    pub const fn advanced(self, i: u64) -> Self {
        match self {
            Self::Present { pfn: Pfn(pfn) } => Self::Present { pfn: Pfn(pfn + i) },
            Self::Migrating { pfn: Pfn(pfn) } => Self::Migrating { pfn: Pfn(pfn + i) },
            Self::Device { pfn: Pfn(pfn) } => Self::Device { pfn: Pfn(pfn + i) },
            Self::Swapped {
                swap: Some(SwapPlace { device, offset }),
            } => Self::Swapped {
                swap: Some(SwapPlace {
                    device,
                    offset: offset + i,
                }),
            },
            other => other,
        }
    }
}

/// A swap entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct SwapPlace {
    /// The swap type: the number of the device.
    pub device: u8,
    /// The slot.
    pub offset: u64,
}

/// What two routes say together, or that only one was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Both say the same.
    Agree,
    /// They do not, and go on so when asked again.
    Disagree,
    /// They did not at first: the page changed between the two readings.
    Moved,
    /// One route was asked, or only one can tell.
    Single,
}

impl Verdict {
    /// As the contract has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Disagree => "disagree",
            Self::Moved => "moved",
            Self::Single => "single",
        }
    }
}

/// How many pages there were of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Totals {
    /// All pages.
    pub pages: u64,
    /// In a frame.
    pub present: u64,
    /// On a swap device.
    pub swapped: u64,
    /// Being moved at that moment.
    pub migrating: u64,
    /// The shared zero page.
    pub zero: u64,
    /// A device's, or mapped by the kernel itself.
    pub device: u64,
    /// Guard regions.
    pub guard: u64,
    /// Poisoned.
    pub poisoned: u64,
    /// Nothing there.
    pub absent: u64,
    /// Present, and the frame withheld.
    pub hidden: u64,
    /// The routes differ, and go on so.
    pub disagree: u64,
    /// The routes differed at first.
    pub moved: u64,
    /// One route was asked, or only one can tell.
    pub single: u64,
    /// Of these, the absent ones: pagemap is not read for stretches in which the walk finds no page table.
    #[serde(skip_serializing_if = "is_zero")]
    pub holes: u64,
}
