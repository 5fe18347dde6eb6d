//! What of an address space a fork copies.

use std::{fs, ops::Range as Span};

use v2p_common::{PAGE_SHIFT, VirtAddr};

use super::{Pagemap, maps};

/// Pages of process `pid` whose entries a fork copies, by number, in order and apart: those of private mappings that have
/// memory of their own (an `anon_vma`: vma_needs_copy, mm/memory.c, 6.1 to 7.3). A private mapping of a file has some
/// once something was written to it, which `pagemap` tells. `None`: it has no mappings any more.
pub fn copied_by_fork(pid: u32, pagemap: &Pagemap) -> Option<Vec<Span<u64>>> {
    let lines = fs::read(format!("/proc/{pid}/maps")).ok()?;
    let mut copied: Vec<Span<u64>> = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(mapping) = maps::parse(line) else {
            continue;
        };
        let pages = mapping.start >> PAGE_SHIFT..mapping.end >> PAGE_SHIFT;
        let is_copied = match kind(line) {
            // The kernel's own pages are a special mapping, without memory of its own.
            Kind::Anonymous => !mapping.name.starts_with("[vdso"),
            Kind::File => has_anonymous(pagemap, &pages),
            Kind::Shared => false,
        };
        if is_copied && !mapping.is_kernels() {
            match copied.last_mut() {
                // The file is read in pieces, between which mappings may have grown.
                Some(last) if last.end >= pages.start => last.end = last.end.max(pages.end),
                _ => copied.push(pages),
            }
        }
    }
    (!copied.is_empty()).then_some(copied)
}

#[derive(PartialEq, Eq, Debug)]
enum Kind {
    Anonymous,
    File,
    Shared,
}

/// By the permissions and the inode: `START-END PERMS OFFSET DEV INODE NAME` (show_map_vma, fs/proc/task_mmu.c).
fn kind(line: &[u8]) -> Kind {
    let mut words = line.split(|byte| *byte == b' ');
    let is_private = words
        .nth(1)
        .is_some_and(|perms| perms.get(3) == Some(&b'p'));
    match (is_private, words.nth(2)) {
        (false, _) => Kind::Shared,
        (true, Some(b"0")) => Kind::Anonymous,
        (true, _) => Kind::File,
    }
}

fn has_anonymous(pagemap: &Pagemap, pages: &Span<u64>) -> bool {
    let mut has = false;
    let address = |page: u64| VirtAddr(page << PAGE_SHIFT);
    let each = |_, word: v2p_common::pagemap::PagemapWord| has |= word.is_anonymous();
    // What cannot be read has ended, and then the first reading of the child will tell.
    let read = pagemap.words(address(pages.start), address(pages.end), each);
    read.is_ok() && has
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::OwnPage;

    #[test]
    fn a_mapping_is_private_or_shared_and_of_a_file_or_not() {
        for (line, wanted) in [
            ("7f00-7f01 rw-p 00000000 00:00 0 ", Kind::Anonymous),
            ("7f00-7f01 rw-p 00000000 00:00 0   [heap]", Kind::Anonymous),
            ("7f00-7f01 r-xp 00002000 fe:01 1234   /bin/a b", Kind::File),
            (
                "7f00-7f01 rw-s 00000000 00:01 2048   /dev/zero (deleted)",
                Kind::Shared,
            ),
            ("", Kind::Shared),
        ] {
            assert_eq!(kind(line.as_bytes()), wanted, "{line}");
        }
    }

    #[test]
    fn a_fork_would_copy_our_stack_and_not_our_code() {
        let pagemap = Pagemap::of_self().unwrap();
        let page = OwnPage::new().unwrap();
        let copied = copied_by_fork(std::process::id(), &pagemap).unwrap();
        let has = |va: u64| copied.iter().any(|span| span.contains(&(va >> PAGE_SHIFT)));
        assert!(has(page.va().0));
        assert!(has(std::ptr::from_ref(&page) as u64));
        assert!(!has(kind as *const () as u64));
        assert!(copied.is_sorted_by(|a, b| a.end < b.start));
    }
}
