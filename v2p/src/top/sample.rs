//! How much each mapping has, and where the pages of one are: by pagemap, which costs least.

use anyhow::Result;

use crate::{
    process::{AddressSpace, Process, maps::Mapping},
    state::PageState,
    translate::{
        Page, Plain, Route, Sink, Translator,
        run::{Run, Runs},
    },
};

/// Stretches of one mapping that are shown, at most.
const MANY: usize = 10_000;

/// What a mapping has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sampled {
    /// First address.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
    /// As /proc/PID/maps has it.
    pub name: String,
    /// Pages in a frame.
    pub present: u64,
    /// Pages on a swap device.
    pub swapped: u64,
}

/// Where the pages of a mapping are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pages {
    /// Stretches that are alike, without those that hold nothing.
    pub runs: Vec<Run>,
    /// Whether there are more.
    pub cut: bool,
}

/// Reads a process's pagemap.
pub struct Sampler {
    process: Process,
    translator: Translator,
}

/// Counts pages.
#[derive(Default)]
struct Counter {
    present: u64,
    swapped: u64,
}

impl Sink for Counter {
    fn page(&mut self, page: Page, pages: u64) -> Result<()> {
        match page.state {
            PageState::Present { .. } => self.present += pages,
            PageState::Swapped { .. } => self.swapped += pages,
            _ => {}
        }
        Ok(())
    }

    fn nothing(&mut self, _: Page, _: u64) -> Result<()> {
        Ok(())
    }

    fn plain(&mut self, pages: &Plain<'_>) -> Result<()> {
        self.present += pages.len() as u64;
        Ok(())
    }
}

impl Sampler {
    /// Of `process`.
    ///
    /// # Errors
    /// Those of [`Translator::new`].
    pub fn new(process: Process) -> Result<Self> {
        let mut translator = Translator::new(Route::Pagemap)?;
        translator.without_flags();
        Ok(Self {
            process,
            translator,
        })
    }

    /// What each mapping has now. None where the process has no memory any more.
    ///
    /// # Errors
    /// Those of the reading.
    pub fn sample(&mut self) -> Result<Option<Vec<Sampled>>> {
        let Ok(AddressSpace {
            pagemap, mappings, ..
        }) = AddressSpace::of(&self.process)
        else {
            return Ok(None);
        };
        let mut sampled = Vec::with_capacity(mappings.len());
        for mapping in mappings {
            if !self.translator.can_tell(&mapping) {
                continue;
            }
            let mut counter = Counter::default();
            if !self.translator.mapping(&pagemap, &mapping, &mut counter)? {
                return Ok(None);
            }
            let Mapping {
                start, end, name, ..
            } = mapping;
            let Counter { present, swapped } = counter;
            sampled.push(Sampled {
                start,
                end,
                name,
                present,
                swapped,
            });
        }
        Ok(Some(sampled))
    }

    /// Where the pages of a mapping are. None where the process has no memory any more.
    ///
    /// # Errors
    /// Those of the reading.
    pub fn pages(&mut self, start: u64, end: u64) -> Result<Option<Pages>> {
        let Ok(AddressSpace { pagemap, .. }) = AddressSpace::of(&self.process) else {
            return Ok(None);
        };
        let (mut runs, mut pages) = (Runs::default(), Pages::default());
        let mapping = Mapping {
            start,
            end,
            writable: false,
            name: String::new(),
        };
        let keep = |pages: &mut Pages, run: Run| {
            if run.first.state == PageState::Absent {
                return;
            }
            match pages.runs.len() < MANY {
                true => pages.runs.push(run),
                false => pages.cut = true,
            }
        };
        let alive = self
            .translator
            .mapping(&pagemap, &mapping, &mut |page: Page, n: u64| {
                if let Some(run) = runs.push(page, n) {
                    keep(&mut pages, run);
                }
                Ok(())
            })?;
        if let Some(run) = runs.finish() {
            keep(&mut pages, run);
        }
        Ok(alive.then_some(pages))
    }
}
