//! The kernel's types as aya wants them: read on the side, and when they are needed.

use std::{
    error::Error,
    thread::{self, JoinHandle},
};

use aya::{Btf, BtfError};

/// The kernel's types.
pub(super) enum Types {
    /// Not asked for yet.
    Unread,
    Coming(JoinHandle<Result<Btf, BtfError>>),
    Here(Btf),
    /// Could not be read; said once.
    Lost,
}

impl Types {
    /// Begins to read them.
    pub(super) fn coming() -> Self {
        let reader = thread::Builder::new().spawn(Btf::from_sys_fs);
        // Without a thread they are read when they are needed.
        reader.map_or(Self::Unread, Self::Coming)
    }

    pub(super) fn get(&mut self) -> Result<&Btf, Box<dyn Error + Send + Sync>> {
        *self = match std::mem::replace(self, Self::Lost) {
            Self::Unread => Self::Here(Btf::from_sys_fs()?),
            Self::Coming(reader) => {
                Self::Here(reader.join().map_err(|_| "the reader of BTF died")??)
            }
            read => read,
        };
        match self {
            Self::Here(btf) => Ok(btf),
            _ => Err("the kernel's BTF could not be read".into()),
        }
    }
}
