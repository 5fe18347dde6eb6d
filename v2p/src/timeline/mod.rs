//! A watch as a timeline for Perfetto: records -> [`trace`] (which track, which counter) -> [`packet`] (messages of Perfetto's
//! schema) -> [`wire`] (their bytes) -> [`mod@file`].

pub mod file;
pub mod packet;
pub mod trace;
pub mod wire;

pub use file::TraceFile;
pub use trace::Trace;
