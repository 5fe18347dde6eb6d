//! What both sides of the kernel border must agree on: addresses, page-table
//! and pagemap words, events, and the blocks of memory that they share.
//!
//! No dependencies, no allocation, no I/O: integers and bytes in, types out.
#![no_std]

pub mod address;
pub mod call;
pub mod control;
pub mod event;
pub mod lane;
pub mod layout;
pub mod pagemap;
pub mod pte;
pub mod witness;

pub use address::{PAGE_SHIFT, PAGE_SIZE, PHYSICAL_BITS, PageSize, Pfn, PhysAddr, VirtAddr};
