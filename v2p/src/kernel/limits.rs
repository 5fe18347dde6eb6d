//! What is allowed to us of memory and descriptors: limits that a tracer may meet, read, and named where one was met.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::exit::Failure;

/// What a watch wants beside the ring, for the pages that it knows of: a process that is close to its limit is killed
/// rather than refused.
pub const ROOM: u64 = 64 << 20;

/// What is allowed to us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// RLIMIT_MEMLOCK, bytes; none: no limit.
    pub locked: Option<u64>,
    /// The memory cgroup that has least room for us.
    pub memory: Option<Group>,
    /// RLIMIT_NOFILE, as far as it may be raised; none: no limit.
    pub files: Option<u64>,
    /// Descriptors that are open now.
    pub open_files: u64,
}

/// A limit that was met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Short {
    /// Which, how much it allows, and what sets it.
    pub evidence: String,
    /// How to have more.
    pub mend: String,
}

/// A memory cgroup with a limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The file that sets it.
    pub file: String,
    /// Bytes.
    pub limit: u64,
    /// Bytes used; `None`: that is not told.
    pub used: Option<u64>,
}

impl Group {
    /// Bytes that it lets us have still, at most.
    pub fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used.unwrap_or(0))
    }

    /// The limit, and the file that sets it.
    pub fn evidence(&self) -> String {
        let Self { file, limit, used } = self;
        match used {
            Some(_) => format!("{limit} bytes, {} of them free ({file})", self.room()),
            None => format!("{limit} bytes, nobody knows how many of them free ({file})"),
        }
    }

    /// What gives us more.
    pub fn raise(&self) -> String {
        format!("give it {} MiB more: {}", ROOM >> 20, self.file)
    }
}

/// Raises RLIMIT_NOFILE as far as it may be: each thread of a target takes a descriptor a kind of fault event, two or three. Where the limit cannot be raised, attaching says so.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// Descriptors that any command takes, and some more (each thread that is watched takes two or three beside): a watch of one thread had 60 open on 6.18.44, where few hooks are on functions.
const DESCRIPTORS: u64 = 128;

/// That there is room for the descriptors that any command takes: where there is not, whatever meets the limit first would look like what is missing.
///
/// # Errors
/// Exit code 3.
pub fn require_descriptors() -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    let enough = |files: Option<u64>| files.is_none_or(|files| files >= DESCRIPTORS);
    if enough(limit.current) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(DESCRIPTORS),
        ..limit
    };
    if enough(limit.maximum) && setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    let files = limit.maximum.or(limit.current).unwrap_or_default();
    let what = format!(
        "too few files may be open at once: {files} (RLIMIT_NOFILE), and v2p wants {DESCRIPTORS}"
    );
    Err(Failure::unsupported(what).hint("raise the limit: ulimit -n 1024"))
}

/// Has a write beyond RLIMIT_FSIZE be an error (EFBIG), which is told, and not our death without a word (SIGXFSZ).
pub fn have_file_size_told() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeros is a valid value: no handler, no flags, nothing blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: fills the place, and changes nothing.
    let known = unsafe { libc::sigaction(libc::SIGXFSZ, std::ptr::null(), &raw mut action) } == 0;
    if known && action.sa_sigaction == libc::SIG_DFL {
        // A program that we start gets the default back, which it would not from SIG_IGN.
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing.
        unsafe { libc::sigaction(libc::SIGXFSZ, &raw const action, std::ptr::null_mut()) };
    }
}

impl Limits {
    /// Reads them; what cannot be read is none.
    pub fn read() -> Self {
        let own = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        let group = memory_group(&own("cgroup"), &own("mountinfo"));
        Self {
            locked: getrlimit(Resource::Memlock).current,
            memory: group.and_then(|(folder, root)| tightest(&folder, &root)),
            files: getrlimit(Resource::Nofile).maximum,
            open_files: fs::read_dir("/proc/self/fd").map_or(0, |found| found.count() as u64),
        }
    }

    /// Which limit it is, where the kernel made no maps, with that error. `None`: none of these.
    pub fn met(&self, errno: i32) -> Option<Short> {
        let group = self.memory.as_ref();
        let group = group.filter(|group| errno == libc::ENOMEM && group.room() < ROOM)?;
        Some(Short {
            evidence: format!("memory cgroup: {}", group.evidence()),
            mend: group.raise(),
        })
    }
}

/// The folder of our memory cgroup, and that of the topmost one that we see; from /proc/self/cgroup and mountinfo.
pub(crate) fn memory_group(cgroup: &str, mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    let of_controller = |wanted: &str| {
        cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|c| c == wanted).then_some(path)
        })
    };
    // v1 where the controller is there, else v2.
    let (path, kind) = match of_controller("memory") {
        Some(path) => (path, "cgroup"),
        None => (of_controller("")?, "cgroup2"),
    };
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let words: Vec<_> = before.split(' ').collect();
        let (root, place) = (*words.get(3)?, *words.get(4)?);
        let mut after = after.split(' ');
        let options = (after.next()? == kind).then(|| after.nth(1))??;
        if kind == "cgroup" && !options.split(',').any(|option| option == "memory") {
            return None;
        }
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some((Path::new(place).join(below), PathBuf::from(place)))
    })
}

/// Of the groups from `folder` up to `root`, the one with a limit and the least room.
fn tightest(folder: &Path, root: &Path) -> Option<Group> {
    let groups = folder
        .ancestors()
        .take_while(|place| place.starts_with(root));
    groups.filter_map(limit_of).min_by_key(Group::room)
}

fn limit_of(folder: &Path) -> Option<Group> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let names = [
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ];
    names.into_iter().find_map(|(name, used)| {
        // v1 writes "no limit" as the largest number of whole pages (PAGE_COUNTER_MAX, mm/memcontrol-v1.c).
        let limit = number(name).filter(|limit| *limit < u64::MAX >> 2)?;
        Some(Group {
            file: folder.join(name).display().to_string(),
            limit,
            used: number(used),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_was_met_is_named_with_what_raises_it() {
        let limits = |locked, memory: Option<(u64, u64)>| Limits {
            locked,
            memory: memory.map(|(limit, used)| Group {
                file: "/sys/fs/cgroup/a/memory.max".to_owned(),
                limit,
                used: Some(used),
            }),
            files: None,
            open_files: 0,
        };
        let both = limits(Some(8 << 20), Some((20 << 20, 10 << 20)));
        let group = both.met(libc::ENOMEM).unwrap();
        assert!(group.evidence.starts_with("memory cgroup: 20971520"));
        assert!(group.mend.contains("memory.max"));
        // No kernel that has what v2p needs counts maps by RLIMIT_MEMLOCK (5.11).
        assert_eq!(both.met(libc::EPERM), None);
        assert_eq!(both.met(libc::EINVAL), None);
        let roomy = limits(None, Some((1 << 30, 0)));
        assert_eq!(roomy.met(libc::ENOMEM), None);
    }

    #[test]
    fn the_memory_cgroup_is_found_where_it_is_mounted() {
        let mounts = "\
30 20 0:26 / /sys/fs/cgroup/cpu rw - cgroup none rw,cpu
31 20 0:27 /job /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup none rw,memory
32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 none rw
";
        let found = |cgroup| memory_group(cgroup, mounts);
        let of = |folder: &str, root: &str| Some((PathBuf::from(folder), PathBuf::from(root)));
        let v1 = "5:memory:/job/task\n1:cpu:/\n0::/other\n";
        let memory = "/sys/fs/cgroup/memory";
        assert_eq!(found(v1), of(&format!("{memory}/task"), memory));
        let unified = "/sys/fs/cgroup/unified";
        assert_eq!(found("0::/a/b\n"), of(&format!("{unified}/a/b"), unified));
        assert_eq!(found("5:memory:/elsewhere\n"), None);
        assert_eq!(found(""), None);
    }
}
