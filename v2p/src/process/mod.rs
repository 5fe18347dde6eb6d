//! What /proc says of a process: thin readers over files.

mod identity;
mod kpage;
mod pagemap;

pub use identity::Process;
pub use kpage::{FrameFlags, frame_flags, frame_mapcount};
pub use pagemap::Pagemap;
