//! Member offsets from the kernel's own type information
//! (/sys/kernel/btf/vmlinux; format: Documentation/bpf/btf.rst).
//!
//! The blob is bytes from outside: every read is checked, and recursion is bounded.

use anyhow::{Context as _, Result, bail, ensure};

pub mod blob;

const MAGIC: u16 = 0xeb9f;
const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
/// Anonymous structs in structs; the kernel nests a handful.
const MAX_DEPTH: u32 = 16;
/// Members that one search looks at, in all that is nested; the kernel's largest structs have a few hundred. A blob whose
/// structs hold themselves would never end.
const MAX_MEMBERS: u32 = 100_000;

/// A parsed BTF blob.
pub struct Btf<'a> {
    strings: &'a [u8],
    types: &'a [u8],
    /// Byte offset in `types` of type N+1 (type 0 is void and not stored).
    offsets: Vec<u32>,
    /// The structs, one type in ten and what is mostly asked about: how their names begin, and their places in `offsets`.
    structs: Vec<(Beginning, u32)>,
}

/// The first bytes of a name, and zeros after its end: told apart without a look at the strings, which lie all over megabytes.
type Beginning = [u8; 8];

fn beginning(name: &[u8]) -> Beginning {
    let mut bytes = Beginning::default();
    let name = name.iter().take_while(|byte| **byte != 0);
    bytes
        .iter_mut()
        .zip(name)
        .for_each(|(to, from)| *to = *from);
    bytes
}

struct Type<'a> {
    name: u32,
    info: u32,
    /// A size, or the number of another type.
    size_or_type: u32,
    /// Everything after the common part.
    rest: &'a [u8],
}

impl Type<'_> {
    const fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }
    const fn vlen(&self) -> u32 {
        self.info & 0xffff
    }
    const fn kind_flag(&self) -> bool {
        self.info >> 31 != 0
    }
    const fn is_composite(&self) -> bool {
        matches!(self.kind(), KIND_STRUCT | KIND_UNION)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_ne_bytes(bytes.get(at..end)?.try_into().ok()?))
}

/// Bytes that follow the common 12 of a type.
pub(crate) fn extra(kind: u32, vlen: u32) -> Option<usize> {
    let vlen = usize::try_from(vlen).ok()?;
    Some(match kind {
        // INT, VAR, DECL_TAG: one word
        1 | 14 | 17 => 4,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG: nothing
        2 | 7..=12 | 16 | 18 => 0,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64: three words an item
        KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * vlen,
        // Two words an item.
        KIND_ENUM | KIND_FUNC_PROTO => 8 * vlen,
        _ => return None,
    })
}

impl<'a> Btf<'a> {
    /// Parses a blob in the machine's own byte order.
    ///
    /// # Errors
    /// Where it is cut off, of another byte order, or has a kind of type that is not known.
    pub fn parse(blob: &'a [u8]) -> Result<Self> {
        let magic = blob.first_chunk().map(|b| u16::from_ne_bytes(*b));
        ensure!(magic == Some(MAGIC), "not BTF of this machine's byte order");
        let field = |i: usize| -> Result<usize> {
            let word = u32_at(blob, 4 + 4 * i).context("BTF header is cut off")?;
            Ok(usize::try_from(word)?)
        };
        let header_len = field(0)?;
        let section = |offset: usize, len: usize| -> Option<&'a [u8]> {
            let start = header_len.checked_add(offset)?;
            blob.get(start..start.checked_add(len)?)
        };
        let types = section(field(1)?, field(2)?).context("BTF types are cut off")?;
        let strings = section(field(3)?, field(4)?).context("BTF strings are cut off")?;
        let (mut offsets, mut structs) = (Vec::new(), Vec::new());
        let mut at = 0usize;
        while at < types.len() {
            let info = u32_at(types, at.saturating_add(4)).context("a BTF type is cut off")?;
            let (kind, vlen) = ((info >> 24) & 0x1f, info & 0xffff);
            if kind == KIND_STRUCT {
                let name = usize::try_from(u32_at(types, at).context("a BTF type is cut off")?)?;
                let name = strings.get(name..).unwrap_or_default();
                structs.push((beginning(name), u32::try_from(offsets.len())?));
            }
            offsets.push(u32::try_from(at)?);
            let Some(extra) = extra(kind, vlen) else {
                bail!("BTF type kind {kind} is not known");
            };
            at = at.saturating_add(12).saturating_add(extra);
        }
        ensure!(at == types.len(), "the last BTF type is cut off");
        Ok(Self {
            strings,
            types,
            offsets,
            structs,
        })
    }

    fn type_at(&self, index: usize) -> Option<Type<'a>> {
        let at = usize::try_from(*self.offsets.get(index)?).ok()?;
        Some(Type {
            name: u32_at(self.types, at)?,
            info: u32_at(self.types, at + 4)?,
            size_or_type: u32_at(self.types, at + 8)?,
            rest: self.types.get(at + 12..)?,
        })
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| self.strings.get(at..));
        let rest = rest.filter(|s| s.first() == name.as_bytes().first());
        rest.and_then(|s| s.strip_prefix(name.as_bytes()))
            .is_some_and(|s| s.first() == Some(&0))
    }

    /// Bytes from the start of `struct structure` to its member `member`, which may
    /// stand in anonymous structs and unions inside it.
    ///
    /// # Errors
    /// Where there is no such struct or member, where it is a bit field, or where two
    /// structs of that name disagree.
    pub fn member_offset(&self, structure: &str, member: &str) -> Result<u64> {
        let mut found = None;
        let mut left = MAX_MEMBERS;
        for (_, t) in self.structs_named(structure) {
            let Some(bits) = self.find_member(&t, member, MAX_DEPTH, &mut left) else {
                continue;
            };
            ensure!(
                found.is_none_or(|other| other == bits),
                "BTF has several `struct {structure}` with different `{member}`"
            );
            found = Some(bits);
        }
        let bits =
            found.with_context(|| format!("BTF has no `{member}` in `struct {structure}`"))?;
        ensure!(
            bits % 8 == 0,
            "`{member}` of `struct {structure}` is a bit field"
        );
        Ok(bits / 8)
    }

    /// The structs of this name, with their places in `offsets`.
    fn structs_named(&self, name: &str) -> impl Iterator<Item = (u32, Type<'a>)> {
        let wanted = beginning(name.as_bytes());
        let alike = self
            .structs
            .iter()
            .filter(move |(begins, _)| *begins == wanted);
        alike.filter_map(move |(_, place)| {
            let found = self.type_at(usize::try_from(*place).ok()?)?;
            self.name_is(found.name, name).then_some((*place, found))
        })
    }

    /// The type of this kind and name, where there is one.
    fn named(&self, kind: u32, name: &str) -> Option<Type<'a>> {
        self.type_at(self.place(kind, name)?)
    }

    /// Its place in `offsets`.
    fn place(&self, kind: u32, name: &str) -> Option<usize> {
        (0..self.offsets.len()).find(|index| {
            let found = self.type_at(*index);
            found.is_some_and(|t| t.kind() == kind && self.name_is(t.name, name))
        })
    }

    /// The number of the kernel's function `name`; `None`: there is no such function.
    pub fn function(&self, name: &str) -> Option<u32> {
        u32::try_from(self.place(KIND_FUNC, name)? + 1).ok()
    }

    /// The number of the struct `name`; `None`: there is no such struct.
    pub fn structure(&self, name: &str) -> Option<u32> {
        Some(self.structs_named(name).next()?.0 + 1)
    }

    /// The type with this number; 0 is void.
    fn numbered(&self, number: u32) -> Option<Type<'a>> {
        self.type_at(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    /// The same, without `const` and `volatile`.
    fn unqualified(&self, mut number: u32) -> Option<Type<'a>> {
        for _ in 0..MAX_DEPTH {
            let found = self.numbered(number)?;
            if !matches!(found.kind(), KIND_CONST | KIND_VOLATILE) {
                return Some(found);
            }
            number = found.size_or_type;
        }
        None
    }

    /// How many arguments the kernel's function `name` takes; `None`: there is no such function.
    pub fn arguments_of_function(&self, name: &str) -> Option<u64> {
        let function = self.named(KIND_FUNC, name)?;
        let prototype = self.numbered(function.size_or_type)?;
        (prototype.kind() == KIND_FUNC_PROTO).then(|| u64::from(prototype.vlen()))
    }

    /// How many arguments the tracepoint `name` hands to its programs; `None`: there is no such tracepoint.
    pub fn arguments_of_tracepoint(&self, name: &str) -> Option<u64> {
        // include/trace/bpf_probe.h: a pointer to a function with one argument more, in front.
        let alias = self.named(KIND_TYPEDEF, &format!("btf_trace_{name}"))?;
        let pointer = self.numbered(alias.size_or_type)?;
        let prototype = self.numbered(pointer.size_or_type)?;
        let is_it = pointer.kind() == KIND_PTR && prototype.kind() == KIND_FUNC_PROTO;
        is_it
            .then(|| u64::from(prototype.vlen()).checked_sub(1))
            .flatten()
    }

    /// The enumerators of `enum name` with their values; none where there is no such enum.
    pub fn enumerators(&self, name: &str) -> Vec<(&'a str, u32)> {
        let Some(t) = self.named(KIND_ENUM, name) else {
            return Vec::new();
        };
        let items = (0..usize::try_from(t.vlen()).unwrap_or(0)).filter_map(|i| {
            Some((
                self.name_at(u32_at(t.rest, 8 * i)?)?,
                u32_at(t.rest, 8 * i + 4)?,
            ))
        });
        items.collect()
    }

    fn name_at(&self, offset: u32) -> Option<&'a str> {
        let rest = self.strings.get(usize::try_from(offset).ok()?..)?;
        str::from_utf8(rest.split(|b| *b == 0).next()?).ok()
    }

    /// Offset in bits. `left`: members that may still be looked at.
    fn find_member(&self, t: &Type<'_>, member: &str, depth: u32, left: &mut u32) -> Option<u64> {
        let depth = depth.checked_sub(1)?;
        for i in 0..usize::try_from(t.vlen()).ok()? {
            *left = left.checked_sub(1)?;
            let name = u32_at(t.rest, 12 * i)?;
            let type_id = u32_at(t.rest, 12 * i + 4)?;
            let raw = u32_at(t.rest, 12 * i + 8)?;
            // With the kind flag the top byte is the size of a bit field.
            let bits = u64::from(if t.kind_flag() { raw & 0xff_ffff } else { raw });
            if self.name_is(name, member) {
                return Some(bits);
            }
            if name != 0 && !self.name_is(name, "") {
                continue;
            }
            let inner = self.unqualified(type_id).filter(Type::is_composite);
            if let Some(inside) =
                inner.and_then(|inner| self.find_member(&inner, member, depth, left))
            {
                return Some(bits + inside);
            }
        }
        None
    }
}

/// `struct s { int a; struct { int b; int c; }; };`, `int f(int, int)`, a tracepoint `t` of one argument, `enum e { a, b = 7 };`, by hand.
#[cfg(test)]
pub(crate) fn sample() -> Vec<u8> {
    let strings = b"\0int\0s\0a\0b\0c\0f\0e\0btf_trace_t\0";
    let mut types: Vec<u32> = Vec::new();
    types.extend([1, 1 << 24, 4, 32]); // 1: int
    types.extend([0, KIND_STRUCT << 24 | 2, 8]); // 2: anonymous
    types.extend([9, 1, 0, 11, 1, 32]);
    types.extend([5, KIND_STRUCT << 24 | 2, 12]); // 3: s
    types.extend([7, 1, 0, 0, 2, 32]);
    types.extend([0, KIND_FUNC_PROTO << 24 | 2, 1, 7, 1, 9, 1]); // 4: its prototype
    types.extend([13, KIND_FUNC << 24, 4]); // 5: f
    types.extend([0, KIND_PTR << 24, 4]); // 6
    types.extend([17, KIND_TYPEDEF << 24, 6]); // 7: btf_trace_t
    types.extend([15, KIND_ENUM << 24 | 2, 4, 7, 0, 9, 7]); // 8: e
    sample_of(strings, &types)
}

/// A blob of these strings and types.
#[cfg(test)]
pub(crate) fn sample_of(strings: &[u8], types: &[u32]) -> Vec<u8> {
    let type_bytes: Vec<u8> = types.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let mut out = Vec::new();
    out.extend(MAGIC.to_ne_bytes());
    out.extend([1, 0]);
    let (t, s) = (
        u32::try_from(type_bytes.len()).unwrap_or(0),
        u32::try_from(strings.len()).unwrap_or(0),
    );
    for word in [24, 0, t, t, s] {
        out.extend(word.to_ne_bytes());
    }
    out.extend(type_bytes);
    out.extend(strings);
    out
}

#[cfg(test)]
mod tests;
