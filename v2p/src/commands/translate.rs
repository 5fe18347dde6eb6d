//! `v2p translate`: where the pages of a process are.

use std::rc::Rc;

use anyhow::{Context as _, Result};
use v2p_common::{
    PAGE_SIZE, VirtAddr,
    pte::{Entry, EntryState, Level, SAVED_DIRTY},
};

use crate::{
    carrier::Carrier,
    cli,
    exit::{self, Failure},
    kernel::privileges::{self, Capability, Privileges},
    page::OwnPage,
    process::{
        AddressSpace, FrameFlags, Pagemap, Process,
        maps::Mapping,
        select::{self, Asked},
    },
    recent::Recent,
    record::{Hex, Record},
    render::Output,
    state::PageState,
    translate::{
        Page, Route, Totals, Translator,
        page::Marks,
        run::{Run, Runs},
    },
};

/// Translates; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process or mapping, 3 where the route cannot be taken here.
pub fn run(args: &cli::Translate, output: &mut Output) -> Result<u8> {
    privileges::keep_to_looking(true)?;
    translate(args, output).context("translate")
}

fn translate(args: &cli::Translate, output: &mut Output) -> Result<u8> {
    let process = Process::open(args.pid)?;
    let space = AddressSpace::of(&process)?;
    let AddressSpace {
        pagemap, mappings, ..
    } = &space;
    let Some(end) = pagemap.end()? else {
        return Err(AddressSpace::gone(&process).into());
    };
    let mut selected = select::select(mappings, &args.asked, end)?;
    // Levels are those of a walk: where there is none, its own error says why.
    let route = match (args.levels, args.route) {
        (true, Route::Auto) => Route::Both,
        (_, route) => route,
    };
    let mut translator = Translator::new(route)?;
    if args.each {
        translator.with_counts();
        translator.with_all_flags();
    }
    if args.levels {
        let va = one_address(&args.asked)?;
        if !levels(&mut translator, pagemap, va, output)? {
            return Err(AddressSpace::gone(&process).into());
        }
    }
    let left_out = translator.take_untold(&mut selected, args.asked.is_empty())?;
    let pages = selected.iter().map(Mapping::pages).sum();
    let mut said = Said {
        runs: Runs {
            current: None,
            each: args.each,
        },
        totals: Totals::default(),
        heading: None,
        name: Rc::default(),
        names: Names::default(),
        mapping: &[],
        last: None,
    };
    output.progress(pages);
    for mapping in &selected {
        said.mapping = std::slice::from_ref(mapping);
        let alive = translator.mapping(pagemap, mapping, &mut |page: Page, pages| {
            said.page(page, pages, output)
        })?;
        said.close(output)?;
        if !alive {
            output.flush()?;
            return Err(AddressSpace::gone(&process).into());
        }
    }
    if !space.is_of(&process) {
        output.flush()?;
        return Err(AddressSpace::gone(&process).into());
    }
    // What is hidden has no flags anyway, and what is not there needs none.
    let wants_flags = said.totals.hidden == 0 && said.totals.present + said.totals.migrating > 0;
    if let (Some(why), true) = (translator.flags_missing(), wants_flags) {
        let zero = match translator.decoder().zero.huge {
            Some(_) => "",
            None => ", and the huge zero page as present",
        };
        output.say(&format!(
            "v2p: {why}: a poisoned page is told as migrating here{zero}"
        ));
    }
    output.record(&Record::Translated {
        route: translator.route().name(),
        why: translator.why().map(str::to_owned),
        left_out,
        totals: said.totals,
    })?;
    let one = said.last.filter(|_| said.totals.pages == 1);
    if let Some(PageState::Present { pfn } | PageState::Device { pfn }) = one {
        let va = selected.first().map_or(0, |mapping| mapping.start);
        output.text(&format!(
            "{va:#x} is at physical address {:#x}",
            pfn.base().0
        ))?;
    }
    if translator.route() == Route::Both
        && said.totals.told_by_one() > 0
        && !Privileges::read()?.has(Capability::SysAdmin)
    {
        output.say("v2p: translate: pagemap withholds frames from who has not CAP_SYS_ADMIN: the walk alone tells them");
    }
    let code = one.map_or(exit::YES, code_of);
    if code == exit::UNSUPPORTED {
        output.say("v2p: translate: pagemap withholds the frame from who has not CAP_SYS_ADMIN");
        output.say("hint: run it as root, with CAP_SYS_ADMIN");
    }
    Ok(code)
}

/// The exit code where one page was asked about.
const fn code_of(state: PageState) -> u8 {
    match state {
        PageState::Present { .. } => exit::YES,
        PageState::Hidden => exit::UNSUPPORTED,
        _ => exit::NO,
    }
}

/// What is said of the runs, and what of them was counted.
struct Said<'a> {
    runs: Runs,
    totals: Totals,
    /// Start and end of the mapping that was told last, and its name.
    heading: Option<(u64, u64)>,
    name: Rc<str>,
    names: Names,
    /// The mapping that the pages are of.
    mapping: &'a [Mapping],
    last: Option<PageState>,
}

impl Said<'_> {
    fn page(&mut self, page: Page, pages: u64, output: &mut Output) -> Result<()> {
        output.advance(pages);
        match self.runs.push(page, pages) {
            Some(run) => self.run(&run, output),
            None => Ok(()),
        }
    }

    fn close(&mut self, output: &mut Output) -> Result<()> {
        match self.runs.finish() {
            Some(run) => self.run(&run, output),
            None => Ok(()),
        }
    }

    fn run(&mut self, run: &Run, output: &mut Output) -> Result<()> {
        self.totals.add(run);
        self.last = Some(run.first.state);
        let Some(mapping) = self.mapping.first() else {
            return Ok(());
        };
        let Mapping {
            start, end, name, ..
        } = mapping;
        if self.heading != Some((*start, *end)) {
            let heading = format!("{start:#x}-{end:#x} {name}");
            output.heading(heading.strip_suffix(' ').unwrap_or(&heading))?;
            self.name = name.as_str().into();
            self.heading = Some((*start, *end));
        }
        let names = self.names.of(&run.first);
        output.record(&record(run, names, Rc::clone(&self.name)))
    }
}

/// The names of a page's flags, kept for the next pages, which mostly have the same.
#[derive(Default)]
struct Names(Recent<(Marks, Option<FrameFlags>), Rc<[&'static str]>>);

impl Names {
    fn of(&mut self, page: &Page) -> Rc<[&'static str]> {
        let of = (page.marks, page.frame);
        let names = self.0.get(
            |known| *known == of,
            || {
                let frame = page.frame.iter().flat_map(|frame| frame.names());
                (of, page.marks.names().chain(frame).collect())
            },
        );
        names.cloned().unwrap_or_default()
    }
}

fn record(run: &Run, flags: Rc<[&'static str]>, mapping: Rc<str>) -> Record {
    let Run { first, pages } = run;
    Record::Run {
        va: Hex(first.va.0),
        pages: *pages,
        state: first.state,
        pa: first.any_frame().map(|pfn| Hex(pfn.base().0)),
        page_size: first.page_size,
        flags,
        mapped: first.mapped,
        node: first.node,
        mapping,
        verdict: first.verdict,
    }
}

fn one_address(asked: &[Asked]) -> Result<VirtAddr> {
    let wants = || {
        Failure::failed("--levels wants one address")
            .hint("for example: v2p translate --pid self 0x7f0000001234 --levels")
    };
    let [one] = asked else {
        return Err(wants().into());
    };
    let range = one.addresses().ok_or_else(wants)??;
    anyhow::ensure!(range.end - range.start == PAGE_SIZE, wants());
    Ok(VirtAddr(range.start))
}

/// How often a walk is tried that ends at a table that cannot be read.
const WALKS: u32 = 4;

/// Says the walk for `va`, from the top table down to where it ends. False: the address space is gone.
fn levels(
    translator: &mut Translator,
    pagemap: &Pagemap,
    va: VirtAddr,
    output: &mut Output,
) -> Result<bool> {
    let decoder = translator.decoder();
    let mut tries = 0;
    let walk = loop {
        tries += 1;
        match translator.carrier()?.walk(pagemap, va)? {
            None => return Ok(false),
            // A table was freed under it.
            Some(walk) if walk.end.is_none() && tries < WALKS => {}
            Some(walk) => break walk,
        }
    };
    let saves_dirty = saves_dirty(translator.carrier()?)?;
    let paging = decoder.paging.context("there is no walk")?;
    let top = if paging.levels == 5 {
        Level::Pgd
    } else {
        Level::P4d
    };
    let end = walk
        .end
        .context("a page table could not be read: it changed under the walk")?;
    for level in [Level::Pgd, Level::P4d, Level::Pud, Level::Pmd, Level::Pte] {
        if level > top || level < end.level {
            continue;
        }
        let entry = walk
            .entries
            .get(level as usize)
            .copied()
            .unwrap_or_default();
        let pa = match entry.state(level, paging.physical_mask) {
            EntryState::Table(pfn) | EntryState::Leaf(pfn) => Some(Hex(pfn.base().0)),
            EntryState::Empty | EntryState::SwapEntry { .. } => None,
        };
        output.record(&Record::Level {
            level: level_name(level, paging.levels),
            index: level.index(va),
            entry: Hex(entry.0),
            pa,
            flags: flags_of(entry, level, saves_dirty),
        })?;
    }
    Ok(true)
}

/// With four levels the top table is the kernel's pgd, though it is indexed as a p4d.
const fn level_name(level: Level, levels: u64) -> &'static str {
    match level {
        Level::Pgd => "pgd",
        Level::P4d if levels == 4 => "pgd",
        Level::P4d => "p4d",
        Level::Pud => "pud",
        Level::Pmd => "pmd",
        Level::Pte => "pte",
    }
}

/// Whether this kernel keeps in an entry's bit of its own that the page was written to, once nobody may write any more ([`SAVED_DIRTY`]): before 6.6
/// the bit means another thing. A page of our own shows it.
fn saves_dirty(carrier: &mut Carrier) -> Result<bool> {
    let page = OwnPage::new()?;
    page.protect()?;
    let end = carrier.walk_own(page.va())?.end;
    Ok(end.is_some_and(|end| end.entry.0 & SAVED_DIRTY != 0))
}

/// The flags of an entry, as arch/x86/include/asm/pgtable_types.h names its bits.
fn flags_of(entry: Entry, level: Level, saves_dirty: bool) -> Vec<&'static str> {
    const HUGE: u64 = 1 << 7;
    const PROTNONE: u64 = 1 << 8;
    let present = entry.0 & 1 != 0;
    // No entry in swap form has that bit.
    let maps = present || entry.0 & PROTNONE != 0;
    let above = matches!(level, Level::Pmd | Level::Pud);
    let huge = maps && above && entry.0 & HUGE != 0;
    let leaf = maps && level == Level::Pte || huge;
    [
        (0, "present", true),
        (1, "rw", maps),
        (2, "user", maps),
        (3, "pwt", maps),
        (4, "pcd", maps),
        (5, "accessed", maps),
        (6, "dirty", maps),
        (7, "huge", huge),
        (7, "pat", maps && level == Level::Pte),
        (8, "global", present),
        (8, "protnone", !present),
        (9, "special", leaf),
        (10, "uffd-wp", leaf),
        (11, "soft-dirty", leaf),
        (12, "pat", huge),
        (58, if saves_dirty { "saved-dirty" } else { "devmap" }, leaf),
        (63, "nx", maps),
    ]
    .into_iter()
    .filter(|(bit, _, counts)| *counts && entry.0 >> bit & 1 != 0)
    .map(|(_, name, _)| name)
    .collect()
}
