//! /proc/iomem: what lies where in the physical address space.

use std::{fs, io, ops::Range};

use v2p_common::{PAGE_SIZE, PhysAddr};

/// The path.
pub const PATH: &str = "/proc/iomem";

/// A resource: a line of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// 0 for those at the top; each level is inside the one before.
    pub depth: usize,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Its name, which its driver gave it.
    pub name: String,
}

impl Resource {
    /// As the file has it, with the file's name: evidence.
    pub fn evidence(&self) -> String {
        let Self {
            start, end, name, ..
        } = self;
        format!("{start:08x}-{end:08x} : {name} ({PATH})")
    }

    /// Whether it is memory that the kernel manages.
    pub fn is_ram(&self) -> bool {
        self.name.starts_with("System RAM")
    }
}

/// All resources, in the file's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Iomem(Vec<Resource>);

impl Iomem {
    /// Reads it. `None`: the kernel hides the addresses, as it does from who opens the file without CAP_SYS_ADMIN
    /// (r_show, kernel/resource.c).
    ///
    /// # Errors
    /// Those of the read, and InvalidData where a line is none.
    pub fn read() -> io::Result<Option<Self>> {
        let text = fs::read_to_string(PATH)?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not its form"))
    }

    /// `None`: not its form; `Some(None)`: hidden.
    #[expect(
        clippy::option_option,
        reason = "the outer one is a form that is not known, the inner one an answer"
    )]
    pub(crate) fn parse(text: &str) -> Option<Option<Self>> {
        let resources: Option<Vec<_>> = text.lines().map(resource).collect();
        let resources = resources?;
        let shown = resources.iter().any(|r| r.end != 0);
        Some(shown.then_some(Self(resources)))
    }

    /// One of this text.
    #[cfg(test)]
    pub(crate) fn for_test(text: &str) -> Option<Self> {
        Self::parse(text).flatten()
    }

    /// The resources that hold any byte of the page at `pa`, outermost first.
    pub fn at(&self, pa: PhysAddr) -> Vec<&Resource> {
        let first = pa.0 & !(PAGE_SIZE - 1);
        let last = first | (PAGE_SIZE - 1);
        let mut found: Vec<_> = self
            .0
            .iter()
            .filter(|r| r.start <= last && r.end >= first)
            .collect();
        found.sort_by_key(|r| r.depth);
        found
    }

    /// The frames that lie wholly in RAM: spans, by address.
    pub fn ram(&self) -> Vec<Range<u64>> {
        let mut spans: Vec<_> = self
            .0
            .iter()
            .filter(|r| r.is_ram())
            .map(|r| r.start.div_ceil(PAGE_SIZE)..r.end.saturating_add(1) / PAGE_SIZE)
            .filter(|span| span.start < span.end)
            .collect();
        spans.sort_by_key(|span| span.start);
        spans
    }

    /// The last stretch of RAM.
    pub fn last_ram(&self) -> Option<&Resource> {
        self.0
            .iter()
            .filter(|r| r.is_ram())
            .max_by_key(|resource| resource.end)
    }
}

fn resource(line: &str) -> Option<Resource> {
    let inner = line.trim_start();
    let (range, name) = inner.split_once(" : ")?;
    let (start, end) = range.split_once('-')?;
    Some(Resource {
        depth: (line.len() - inner.len()) / 2,
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a machine with 6.18, shortened.
    const TEXT: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
000f0000-000fffff : System ROM
00100000-bfffffff : System RAM
  01000000-0220bb07 : Kernel code
c0001000-eebfffff : PCI Bus 0000:00
  c0001000-c0001fff : 0000:00:01.0
    c0001000-c0001fff : virtio-pci
fec00000-fec003ff : IOAPIC 0
100000000-63fffffff : System RAM
";

    #[test]
    fn what_lies_at_an_address_is_found_from_the_outside_in() {
        let iomem = Iomem::parse(TEXT).unwrap().unwrap();
        let names = |pa| -> Vec<_> {
            let found = iomem.at(PhysAddr(pa));
            found.into_iter().map(|r| r.name.as_str()).collect()
        };
        assert_eq!(
            names(0xc000_1234),
            ["PCI Bus 0000:00", "0000:00:01.0", "virtio-pci"]
        );
        assert_eq!(names(0xc000_0000), Vec::<&str>::new());
        // A page is what its resources are, though they end inside it.
        assert_eq!(names(0x9_f000), ["System RAM"]);
        assert_eq!(
            iomem.ram(),
            [0x1..0x9f, 0x100..0xc_0000, 0x10_0000..0x64_0000]
        );
        assert_eq!(iomem.last_ram().unwrap().end, 0x6_3fff_ffff);
        assert_eq!(
            iomem.at(PhysAddr(0xfec0_0000))[0].evidence(),
            "fec00000-fec003ff : IOAPIC 0 (/proc/iomem)"
        );
    }

    #[test]
    fn hidden_addresses_are_no_addresses() {
        let hidden = "00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n";
        assert_eq!(Iomem::parse(hidden), Some(None));
        assert_eq!(Iomem::parse("nonsense\n"), None);
    }
}
