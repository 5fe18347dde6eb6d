//! One file a subcommand, each to be read like a table of contents.

pub mod demo;
pub mod doctor;
pub mod map;
pub mod top;
pub mod translate;
pub mod watch;
pub mod who;
pub mod write;
