//! v2p: where in RAM is this address, is it still there, who moved it, and why
//! can't I write to it?
//!
//! The plan of the house, from the bottom up:
//!
//! - [`printable`] keeps text from steering a terminal; [`exit`] has the exit codes, and errors that know theirs.
//! - [`kernel`] learns the running kernel: member offsets from BTF, its configuration, our privileges; [`whole_file`] writes a
//!   file whole or not at all.
//! - [`process`] reads what /proc says of a process: maps, pagemap, page flags.
//! - [`page`] is a page of our own; [`state`] is what can lie behind one.
//! - [`bpf`] loads and attaches the eBPF programs; [`record`] is what is said.
//! - [`carrier`] asks the programs questions from inside a system call of our own; [`tracer`] reads what they report.
//! - [`direct_map`] finds where the kernel has mapped all memory; [`inject`] moves a page on purpose.
//! - [`doctor`] names the check that denied something.
//! - [`translate`] puts the routes side by side.
//! - [`ledger`] turns events into moves, without I/O.
//! - [`guard`] is the one way to write physical memory.
//! - [`render`] says what is said, for people or as JSON.
//! - [`watch`] feeds the ledger; [`map`] draws where in physical memory a process lies; [`timeline`] writes a watch for Perfetto.
//! - [`cli`] is the command line; [`top`] shows a watch on a terminal.
//! - [`commands`] has a file a subcommand.

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
pub mod printable;
pub mod process;
mod recent;
pub mod record;
pub mod render;
pub mod state;
pub mod timeline;
pub mod top;
pub mod tracer;
pub mod translate;
pub mod watch;
pub mod whole_file;

pub use v2p_common as common;
