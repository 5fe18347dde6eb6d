//! What a check says, and what it stops: types.

use std::{fmt, io};

use serde::{Serialize, Serializer};

/// A check, as the command-line contract names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each is the check of that name")]
pub enum Id {
    Root,
    CapSysAdmin,
    CapSysRawio,
    CapBpf,
    DevmemNode,
    ConfigDevmem,
    Lockdown,
    StrictDevmem,
    IoStrictDevmem,
    LowMemory,
    BeyondMemory,
    NotDirectMapped,
    Pat,
    Container,
    Btf,
    Tracefs,
    BpfTracepoint,
    BpfFentry,
    RingBuffer,
    Kcore,
    Movable,
}

impl Id {
    /// As the contract has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::CapSysAdmin => "cap-sys-admin",
            Self::CapSysRawio => "cap-sys-rawio",
            Self::CapBpf => "cap-bpf",
            Self::DevmemNode => "devmem-node",
            Self::ConfigDevmem => "config-devmem",
            Self::Lockdown => "lockdown",
            Self::StrictDevmem => "strict-devmem",
            Self::IoStrictDevmem => "io-strict-devmem",
            Self::LowMemory => "low-memory",
            Self::BeyondMemory => "beyond-memory",
            Self::NotDirectMapped => "not-direct-mapped",
            Self::Pat => "pat",
            Self::Container => "container",
            Self::Btf => "btf",
            Self::Tracefs => "tracefs",
            Self::BpfTracepoint => "bpf-tracepoint",
            Self::BpfFentry => "bpf-fentry",
            Self::RingBuffer => "ring-buffer",
            Self::Kcore => "kcore",
            Self::Movable => "movable",
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// An error number of a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// That of `error`, where it is the kernel's.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.raw_os_error().map(Self)
    }

    /// Its name; `None`: none of those that /dev/mem gives.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            libc::EPERM => "EPERM",
            libc::EACCES => "EACCES",
            libc::ENOENT => "ENOENT",
            libc::ENOTDIR => "ENOTDIR",
            libc::ELOOP => "ELOOP",
            libc::ENXIO => "ENXIO",
            libc::ENODEV => "ENODEV",
            libc::EFAULT => "EFAULT",
            libc::EINVAL => "EINVAL",
            libc::EAGAIN => "EAGAIN",
            libc::EIO => "EIO",
            libc::EROFS => "EROFS",
            libc::EBUSY => "EBUSY",
            libc::EMFILE => "EMFILE",
            libc::ENOMEM => "ENOMEM",
            libc::ENOSPC => "ENOSPC",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::ENOSYS => "ENOSYS",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl Serialize for Errno {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing in the way.
    Ok,
    /// It denies.
    Denies,
    /// It takes something away, but not what was asked.
    Limits,
    /// It cannot be told.
    Unknown,
}

/// A way to reach physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// read(2).
    Read,
    /// write(2).
    Write,
    /// mmap(2).
    Mmap,
}

/// Where on the way a check stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// open(2), whatever for.
    Open,
    /// open(2) for writing.
    OpenForWriting,
    /// Every access to the address.
    Reach,
    /// read(2) and write(2).
    Copy,
    /// write(2) alone.
    Store,
    /// mmap(2).
    Map,
}

impl Stage {
    /// Whether it is open(2)'s, before there is any address.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::OpenForWriting)
    }

    /// Whether an access of that kind comes by.
    pub const fn is_on_the_way_of(self, access: Access) -> bool {
        match self {
            Self::Open | Self::Reach => true,
            Self::OpenForWriting | Self::Store => matches!(access, Access::Write),
            Self::Copy => !matches!(access, Access::Mmap),
            Self::Map => matches!(access, Access::Mmap),
        }
    }
}

/// What a check does to those who come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The call fails. `None`: without an error of the kernel's.
    Fails(Option<Errno>),
    /// Reads give zeros, writes go nowhere, and both say that all went well.
    Drops,
    /// It cannot be told. The error that it would make; none where it would drop.
    Unknown(Option<Errno>),
}

/// A check with its finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// Which.
    pub id: Id,
    /// What it found.
    pub status: Status,
    /// In words.
    pub what: String,
    /// The file and line, or the call and its error, that show it.
    pub evidence: String,
    /// What to do about it; null where nothing is to be done.
    pub mend: Option<String>,
    /// What it does to accesses of /dev/mem, and where.
    #[serde(skip)]
    pub effects: Vec<(Stage, Effect)>,
}

impl Check {
    fn new(id: Id, status: Status, what: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self {
            id,
            status,
            what: what.into(),
            evidence: evidence.into(),
            mend: None,
            effects: Vec::new(),
        }
    }

    /// Nothing in the way.
    pub fn ok(id: Id, what: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, Status::Ok, what, evidence)
    }

    /// It takes something away.
    pub fn limits(id: Id, what: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, Status::Limits, what, evidence)
    }

    /// It denies; what exactly, [`Self::fails`] tells.
    pub fn denies(id: Id, what: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, Status::Denies, what, evidence)
    }

    /// It cannot be told whether it denies.
    pub fn unknown(id: Id, what: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, Status::Unknown, what, evidence)
    }

    /// With what to do about it.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// With the error that it makes.
    #[must_use]
    pub fn fails(self, stage: Stage, errno: i32) -> Self {
        self.has(stage, Effect::Fails(Some(Errno(errno))))
    }

    /// With the error that it may make.
    #[must_use]
    pub fn may_fail(self, stage: Stage, errno: i32) -> Self {
        self.has(stage, Effect::Unknown(Some(Errno(errno))))
    }

    /// With its effect.
    #[must_use]
    pub fn has(mut self, stage: Stage, effect: Effect) -> Self {
        self.effects.push((stage, effect));
        self
    }

    /// What it does to open(2) for writing alone.
    pub fn effect_on_opening_for_writing(&self) -> Option<Effect> {
        let of_writing = |(stage, _): &&(Stage, Effect)| *stage == Stage::OpenForWriting;
        let found = self.effects.iter().find(of_writing);
        found.map(|(_, effect)| *effect)
    }

    /// What it does to `access`, and where.
    pub fn effect_on(&self, access: Access) -> Option<(Stage, Effect)> {
        let on_the_way = |(stage, _): &&(Stage, Effect)| stage.is_on_the_way_of(access);
        self.effects.iter().find(on_the_way).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_the_json_of_the_contract() {
        let check = Check::denies(Id::StrictDevmem, "what", "evidence")
            .mend("mend")
            .fails(Stage::Reach, libc::EPERM);
        assert_eq!(
            serde_json::to_string(&check).unwrap(),
            r#"{"id":"strict-devmem","status":"denies","what":"what","evidence":"evidence","mend":"mend"}"#
        );
    }
}
