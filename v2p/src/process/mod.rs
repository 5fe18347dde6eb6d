//! What /proc says of a process: thin readers over files.

mod identity;
mod kpage;
pub mod maps;
mod merged;
mod nodes;
mod pagemap;
mod space;

pub use identity::Process;
pub use kpage::{FlagsFile, FrameFlags, frame_flags, frame_mapcount};
pub use merged::Merged;
pub use nodes::Nodes;
pub use pagemap::Pagemap;
pub use space::AddressSpace;
