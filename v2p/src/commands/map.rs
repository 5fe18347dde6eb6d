//! `v2p map`: a picture of where the pages of a process lie in physical memory.

use std::{fs::File, io::BufReader, ops::Range as Span, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;
use v2p_common::PAGE_SHIFT;

use crate::{
    cli, doctor,
    exit::{self, Failure},
    kernel::{self, iomem::Iomem, privileges, zones},
    map::{Changes, Earlier, Form, Layout, Survey, changes, draw::Subject},
    process::{
        AddressSpace, Pagemap, Process,
        maps::{self, Mapping},
        select,
    },
    render::{Output, bytes, grouped, printable},
    translate::{Page, Totals, Translator, run::Runs},
    whole_file::{WholeFile, is_stdout, is_stream},
};

/// The command's record.
#[derive(Serialize)]
struct Drawn<'a> {
    r#type: &'static str,
    pid: u32,
    route: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    /// Mappings whose pages the route cannot tell; they are not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
    #[serde(flatten)]
    totals: Totals,
    /// Stretches that are contiguous in both address spaces.
    runs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<changes::Counts>,
}

/// Draws; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process or mapping, 2 where a file cannot be read or written, 3 where the route cannot
/// be taken here.
pub fn run(args: &cli::Map, output: &mut Output) -> Result<u8> {
    map(args, output).context("map")
}

fn map(args: &cli::Map, output: &mut Output) -> Result<u8> {
    // Before any file is opened that the user names.
    privileges::keep_to_looking(true)?;
    // What cannot be written or read is known before the work.
    let form = form(&args.output)?;
    let aside = is_stdout(&args.output);
    if aside && output.is_json() {
        let what = format!("{}: --json says there what is drawn", args.output.display());
        return Err(Failure::failed(what).hint("name a file with -o").into());
    }
    let file = WholeFile::create(&args.output)?;
    let earlier = args.diff.as_deref().map(read_earlier).transpose()?;

    let process = Process::open(args.pid)?;
    let space = AddressSpace::of(&process)?;
    let AddressSpace {
        pagemap, mappings, ..
    } = &space;
    let Some(end) = pagemap.end()? else {
        return Err(AddressSpace::gone(&process).into());
    };
    let mut translator = Translator::new(args.route)?;
    let mut selected = select::select(mappings, &args.asked, end)?;
    let left_out = translator.take_untold(&mut selected, args.asked.is_empty())?;
    let selected = maps::apart(selected);
    let mut taken = Taken::new(earlier)?;
    if !taken.all(&selected, pagemap, &mut translator, output)? || !space.is_of(&process) {
        return Err(AddressSpace::gone(&process).into());
    }
    taken.close(&selected, args.asked.is_empty())?;

    let record = Drawn {
        r#type: "map",
        pid: args.pid,
        route: translator.route().name(),
        why: translator.why(),
        left_out,
        totals: taken.survey.totals,
        runs: taken.survey.runs,
        changes: taken.changes.as_ref().map(|changes| changes.counts),
    };
    let subject = Subject {
        pid: args.pid,
        comm: process.name(),
        kernel: kernel::release(),
        route: record.route,
        why: translator.why().map(str::to_owned),
        asked: asked(&selected, args.asked.is_empty()),
        since: args.diff.as_ref().map(|path| path.display().to_string()),
        ram: std::mem::take(&mut taken.ram),
        numbers: serde_json::to_string(&record)?,
    };
    let bytes = form.write(
        &taken.layout,
        &taken.survey,
        taken.changes.as_ref(),
        &subject,
    )?;
    file.finish(&bytes)?;
    output.json(&record)?;
    match aside {
        true => output.say(&line(args, &record)),
        false => output.text(&line(args, &record))?,
    }
    Ok(code(args, &record.totals))
}

/// One page that was asked for, and is in no frame, is an answer of no.
fn code(args: &cli::Map, totals: &Totals) -> u8 {
    match !args.asked.is_empty() && totals.pages == 1 && totals.present == 0 {
        true => exit::NO,
        false => exit::YES,
    }
}

/// What was found, and where it is drawn.
struct Taken {
    /// Frames that are memory; none: not known.
    ram: Vec<Span<u64>>,
    layout: Layout,
    survey: Survey,
    changes: Option<Changes>,
}

impl Taken {
    /// Nothing yet, on this machine's memory.
    fn new(earlier: Option<Earlier>) -> Result<Self> {
        let zones = zones::read();
        anyhow::ensure!(!zones.is_empty(), "/proc/zoneinfo: it tells of no memory");
        let ram = Iomem::read().ok().flatten();
        let ram = ram.map(|iomem| iomem.ram()).unwrap_or_default();
        Ok(Self {
            layout: Layout::new(zones, &ram),
            ram,
            survey: Survey::default(),
            changes: earlier.map(Changes::since),
        })
    }

    /// Takes the pages of all mappings; false where the process has no memory any more.
    fn all(
        &mut self,
        selected: &[Mapping],
        pagemap: &Pagemap,
        translator: &mut Translator,
        output: &mut Output,
    ) -> Result<bool> {
        output.progress(selected.iter().map(Mapping::pages).sum());
        let mut runs = Runs::default();
        for mapping in selected {
            let group = self.survey.group(&mapping.name);
            let mut take = |run: &_| {
                self.survey.run(&self.layout, run, group);
                if let Some(changes) = &mut self.changes {
                    changes.run(&self.layout, run);
                }
            };
            let alive = translator.mapping(pagemap, mapping, &mut |page: Page, pages| {
                output.advance(pages);
                if let Some(run) = runs.push(page, pages) {
                    take(&run);
                }
                Ok(())
            })?;
            if let Some(run) = runs.finish() {
                take(&run);
            }
            if !alive {
                return Ok(false);
            }
        }
        output.progress(0);
        Ok(true)
    }

    /// All was taken: whether there is anything to draw, and what is in no mapping any more.
    fn close(&mut self, selected: &[Mapping], is_all: bool) -> Result<()> {
        let totals = &self.survey.totals;
        if totals.hidden > 0 && totals.present == 0 {
            doctor::tracing::require_frames()?;
            // No check says why.
            return Err(Failure::unsupported("the kernel withholds the frames").into());
        }
        let spans = selected
            .iter()
            .map(|m| m.start >> PAGE_SHIFT..m.end >> PAGE_SHIFT);
        match &mut self.changes {
            Some(changes) if is_all => changes.unmapped(&self.layout, &spans.collect::<Vec<_>>()),
            Some(changes) => changes.finish_shift(),
            None => {}
        }
        Ok(())
    }
}

/// The form that the file's name asks for.
fn form(path: &Path) -> Result<Form> {
    match path.extension().and_then(|end| end.to_str()) {
        Some("svg") => Ok(Form::Svg),
        Some("png") => Ok(Form::Png),
        None if is_stream(path) => Ok(Form::Svg),
        _ => Err(
            Failure::failed(format!("{}: a map is an .svg or a .png", path.display()))
                .hint("for example: -o map.svg")
                .into(),
        ),
    }
}

fn read_earlier(path: &Path) -> Result<Earlier> {
    let file = File::open(path);
    let earlier = file.and_then(|file| Earlier::read(BufReader::new(file)));
    let explain = |e| {
        Failure::failed(format!("--diff {}: {e}", path.display()))
            .hint("make it by: v2p translate --pid PID --json > OLD.jsonl")
    };
    Ok(earlier.map_err(explain)?)
}

/// What was asked about, in few words; empty: everything.
fn asked(selected: &[Mapping], is_all: bool) -> String {
    match selected {
        [] => String::new(),
        _ if is_all => String::new(),
        [one] => format!("{:#x}-{:#x} {}", one.start, one.end, one.name),
        many => format!("{} ranges", many.len()),
    }
}

fn line(args: &cli::Map, drawn: &Drawn<'_>) -> String {
    let Drawn { totals, runs, .. } = drawn;
    let mut line = format!(
        "{}: {} pages resident ({}) in {} stretches of frames, {} swapped",
        printable(&args.output.to_string_lossy()),
        grouped(totals.present),
        bytes(totals.present * v2p_common::PAGE_SIZE),
        grouped(*runs),
        grouped(totals.swapped),
    );
    if let Some(changes) = &drawn.changes {
        line.push_str(&format!(
            "; since then {} moved, {} stayed, {} came, {} left",
            grouped(changes.moved),
            grouped(changes.stayed),
            grouped(changes.came),
            grouped(changes.left + changes.swapped)
        ));
        if changes.unlisted > 0 {
            line.push_str(&format!(
                "; {} of those that came are where the earlier translation lists nothing",
                grouped(changes.unlisted)
            ));
        }
    }
    if let Some(why) = drawn.why {
        line.push_str(&format!("; not by a walk too: {why}"));
    }
    line
}
