//! v2p: where in RAM is this address, is it still there, who moved it, and why
//! can't I write to it?
//!
//! The plan of the house, from the bottom up:
//!
//! - [`process`] reads what /proc says of a process: maps, pagemap, page flags.
//! - [`kernel`] learns the running kernel: member offsets from BTF, the direct map, its configuration.
//! - [`bpf`] loads and attaches the eBPF programs; [`carrier`] asks them questions from inside a
//!   system call of our own; [`tracer`] reads what they report.
//! - [`state`] is what can lie behind a page; [`translate`] puts the routes side by side.
//! - [`ledger`] turns events into moves, without I/O; [`watch`] feeds it.
//! - [`guard`] is the one way to write physical memory, which [`devmem`], a part of it, also reads for others.
//! - [`doctor`] names the check that denied something.
//! - [`map`] draws where in physical memory a process lies.
//! - [`top`] shows a watch on a terminal, [`timeline`] writes it for Perfetto.
//! - [`record`] is what is said, [`render`] how; [`commands`] has a file a subcommand.

pub mod bpf;
pub mod carrier;
pub mod cli;
pub mod commands;
pub mod direct_map;
pub mod doctor;
pub mod exit;
pub mod guard;
pub mod inject;
pub mod kernel;
pub mod ledger;
pub mod map;
#[cfg(test)]
mod outside;
pub mod page;
pub mod process;
pub mod record;
pub mod render;
pub mod state;
pub mod timeline;
pub mod top;
pub mod tracer;
pub mod translate;
pub mod watch;
pub mod whole_file;

pub use guard::devmem;
pub use v2p_common as common;
