//! Whether /dev/mem lets us read, write and map a page of our own: each is tried, by the guard's rules.

use std::io;

use anyhow::{Result, bail};
use v2p_common::{Pfn, control::PHYSICAL_BYTES, pagemap::PagemapWord};

use super::{
    Pin,
    devmem::DevMem,
    refusal::of_own_page as refusal,
    source::locked_copy,
    strike::{Shot, Strike, strike},
    undisturbed,
};
use crate::{
    page::{Nonce, OwnPage, PAGE_LEN},
    process::{Pagemap, frame_flags, frame_mapcount},
};

/// What a call did.
#[derive(Debug)]
pub enum Call {
    /// It was not made, and why.
    NotMade(String),
    /// What it was to do.
    Worked,
    /// It said so, but zeros were read, or the bytes are not there.
    Dropped,
    /// open(2) before it failed.
    NotOpened(io::Error),
    /// It failed.
    Failed(io::Error),
}

impl From<io::Result<()>> for Call {
    fn from(result: io::Result<()>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Worked)
    }
}

/// The calls on one page of our own.
#[derive(Debug)]
pub struct Attempt {
    /// open(2) for reading; where that is refused, nothing is read or mapped.
    pub open: io::Result<()>,
    /// pread(2) of random bytes that we had put there.
    pub read: Call,
    /// mmap(2) of the page, which is not touched.
    pub mmap: Call,
    /// pwrite(2) of other random bytes; or open(2) for writing, where that is refused.
    pub write: Call,
}

/// Tries them; the write only where it is asked for. `observe` is called after each call, with its name.
///
/// A write is made only where the page is pinned, so that nothing moves it, the frame's flags call it a mapped user page, the
/// bytes read at the physical address are the page's, and a last look-up, at once before it, names the same frame; by the
/// same code as in [`super::Guard::write`].
///
/// # Errors
/// Where our own page cannot be made or looked up; and where the bytes went somewhere else.
pub fn attempt(to_write: bool, observe: &mut dyn FnMut(&'static str)) -> Result<Attempt> {
    let not_made = |why: &str| Call::NotMade(why.to_owned());
    // First of all: no other file's opening is to be observed with it.
    let (opened, write_refused) = open(to_write, observe);
    let devmem = match opened {
        Ok(devmem) => devmem,
        Err(e) => {
            return Ok(Attempt {
                open: Err(e),
                read: not_made("it did not open"),
                mmap: not_made("it did not open"),
                write: write_refused.unwrap_or_else(|| not_made("it did not open")),
            });
        }
    };
    let page = OwnPage::new()?;
    let nonce = page.put_nonce()?;
    // All that takes memory or time comes before the look-up; and so does the pin, which may move the page.
    let source = locked_copy(&OwnPage::new()?.put_nonce()?.bytes)?;
    let pin = match to_write {
        true => Pin::new(page.va(), PAGE_LEN)
            .map_err(|why| format!("the page cannot be pinned, and might move: {why}")),
        false => Err("it was not asked for".to_owned()),
    };
    let pagemap = Pagemap::of_self()?;
    let Some(pfn) = frame(&pagemap, &page)? else {
        let hidden = "the kernel hides our page's frame";
        return Ok(Attempt {
            open: Ok(()),
            read: not_made(hidden),
            mmap: not_made(hidden),
            write: write_refused.unwrap_or_else(|| not_made(hidden)),
        });
    };
    let read = read(&devmem, pfn, nonce);
    observe("pread");
    let mmap = devmem.try_mmap(pfn.base()).into();
    observe("mmap");
    if let Some(write) = write_refused {
        return Ok(Attempt {
            open: Ok(()),
            read,
            mmap,
            write,
        });
    }
    let why_not = match (&read, &pin) {
        (_, Err(why)) => Some(why.clone()),
        (Call::Worked, _) => refusal(pfn, frame_flags(pfn)?, frame_mapcount(pfn)?),
        // What refuses the read refuses the write before a byte is copied (write_mem, drivers/char/mem.c).
        (Call::Failed(e), _) if e.raw_os_error() == Some(libc::EPERM) => {
            refusal(pfn, frame_flags(pfn)?, frame_mapcount(pfn)?)
        }
        _ => Some("what is there could not be compared".to_owned()),
    };
    let shot = Shot {
        devmem: &devmem,
        pfn,
        offset: nonce.offset,
        bytes: &source,
        dry_run: false,
    };
    let write = match why_not {
        Some(why) => Call::NotMade(why),
        None => write(&shot, &pagemap, &page)?,
    };
    observe("pwrite");
    Ok(Attempt {
        open: Ok(()),
        read,
        mmap,
        write,
    })
}

/// Opens /dev/mem for both, where that is asked for, else for reading; and tells why not for writing. A file mode or a
/// device cgroup may allow the one and not the other.
fn open(
    to_write: bool,
    observe: &mut dyn FnMut(&'static str),
) -> (io::Result<DevMem>, Option<Call>) {
    let mut refused = None;
    if to_write {
        let opened = DevMem::open_for_writing();
        observe("open");
        match opened {
            Ok(devmem) => return (Ok(devmem), None),
            Err(e) => refused = Some(Call::NotOpened(e)),
        }
    }
    let opened = DevMem::open();
    observe("open");
    (opened, refused)
}

fn frame(pagemap: &Pagemap, page: &OwnPage) -> Result<Option<Pfn>> {
    Ok(pagemap.word(page.va())?.and_then(PagemapWord::pfn))
}

fn read(devmem: &DevMem, pfn: Pfn, nonce: Nonce) -> Call {
    let mut bytes = [0; PHYSICAL_BYTES];
    match devmem.read(pfn.at(nonce.offset), &mut bytes) {
        Ok(()) if bytes == nonce.bytes => Call::Worked,
        Ok(()) if bytes.iter().all(|byte| *byte == 0) => Call::Dropped,
        Ok(()) => Call::NotMade("other bytes are there: the page moved".to_owned()),
        Err(e) => Call::Failed(e),
    }
}

fn write(shot: &Shot<'_>, pagemap: &Pagemap, page: &OwnPage) -> Result<Call> {
    let struck = match strike(
        shot,
        || frame(pagemap, page),
        &mut undisturbed,
        || false,
        || true,
    )? {
        Strike::Made(struck) => struck,
        Strike::Moved | Strike::Spared => {
            return Ok(Call::NotMade("the page moved".to_owned()));
        }
    };
    let len = shot.bytes.len();
    match struck.wrote {
        Ok(n) if n == len => {}
        Ok(n) => {
            let what = format!("only {n} of {len} bytes were written");
            return Ok(Call::Failed(io::Error::new(io::ErrorKind::WriteZero, what)));
        }
        Err(e) => return Ok(Call::Failed(e)),
    }
    if page.read(usize::try_from(shot.offset)?, len) == shot.bytes {
        return Ok(Call::Worked);
    }
    if struck.still {
        return Ok(Call::Dropped);
    }
    let pa = shot.pfn.at(shot.offset).0;
    bail!("the page moved while it was written, though it was pinned: {len} bytes went to {pa:#x}")
}
