//! What /proc says of a process: thin readers over files.

mod identity;
mod kpage;
pub mod maps;
mod nodes;
mod pagemap;

pub use identity::Process;
pub use kpage::{FlagsFile, FrameFlags, frame_flags, frame_mapcount};
pub use nodes::Nodes;
pub use pagemap::Pagemap;
