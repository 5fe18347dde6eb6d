//! What there is to show, and what keys do to it. Pure: time comes as seconds that are over.

use std::{collections::VecDeque, rc::Rc};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    mappings::{Mappings, Sort},
    sample::{Pages, Sampled},
    series::Series,
};
use crate::record::{
    Cause, Move, Record,
    story::{self, Story},
};

/// Moves that are kept.
const LATEST: usize = 200;

/// What is watched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subject {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The kernel's release.
    pub kernel: String,
    /// Live hooks.
    pub hooks: usize,
    /// Hooks that are not.
    pub missing: usize,
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Seconds since the hooks were live.
    pub seconds: u64,
    /// Faults that needed no I/O.
    pub minor: Series,
    /// Those that did.
    pub major: Series,
    /// Pages that moved, by cause and reason, in the order in which they were met.
    pub causes: Vec<(Cause, Option<&'static str>, Series)>,
    /// Pages that moved.
    pub moved: Series,
    /// Lost events.
    pub lost: u64,
    /// The latest moves as stories, the latest last.
    pub latest: VecDeque<Story>,
    /// Mapping by mapping.
    pub mappings: Mappings,
    /// When the first event was, in nanoseconds.
    pub start_ns: Option<u64>,
}

/// What the keys do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Mappings are shown.
    Mappings,
    /// A filter is typed.
    Filter,
    /// The pages of a mapping are shown.
    Pages,
}

/// What a key asks for beyond the view itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Nothing.
    None,
    /// To end.
    Quit,
    /// The pages of the mapping that [`App::opened`] has.
    Pages,
}

/// The mapping whose pages are shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// First address.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
    /// Its name.
    pub name: String,
    /// Its pages.
    pub pages: Pages,
    /// The first line that is shown.
    pub scroll: usize,
}

/// The view's state.
pub struct App {
    /// What is watched.
    pub subject: Subject,
    live: Seen,
    /// What is shown while it is paused.
    frozen: Option<Box<Seen>>,
    /// The order of the mappings.
    pub sort: Sort,
    /// What is in their names.
    pub filter: String,
    /// What the keys do.
    pub mode: Mode,
    /// The chosen mapping, by its place among those that are shown.
    pub chosen: usize,
    /// The mapping whose pages are shown.
    pub opened: Opened,
    /// Something for the person.
    pub message: String,
    /// Whether there are colours.
    pub colour: bool,
}

impl App {
    /// Nothing seen yet.
    pub fn new(subject: Subject, colour: bool) -> Self {
        Self {
            subject,
            live: Seen::default(),
            frozen: None,
            sort: Sort::default(),
            filter: String::new(),
            mode: Mode::Mappings,
            chosen: 0,
            opened: Opened::default(),
            message: String::new(),
            colour,
        }
    }

    /// What is shown.
    pub fn seen(&self) -> &Seen {
        self.frozen.as_deref().unwrap_or(&self.live)
    }

    /// Whether what is shown stands still. What happens is counted all the same.
    pub const fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// Takes a record of the watch.
    pub fn record(&mut self, record: &Record) {
        let live = &mut self.live;
        match record {
            Record::Start { hooks, missing, .. } => {
                self.subject.hooks = hooks.len();
                self.subject.missing = missing.len();
            }
            Record::Fault {
                t_ns, va, major, ..
            } => {
                live.start_ns.get_or_insert(*t_ns);
                match major {
                    true => live.major.add(1),
                    false => live.minor.add(1),
                }
                live.mappings.at(va.0).faults.add(1);
            }
            Record::Move { one, mapping, .. } => {
                live.start_ns.get_or_insert(one.t_ns);
                live.moved.add(one.pages);
                live.mappings.at(one.va.0).moved.add(one.pages);
                let same = |(cause, reason, _): &&mut (Cause, Option<&'static str>, Series)| {
                    *cause == one.cause && *reason == one.reason
                };
                match live.causes.iter_mut().find(same) {
                    Some((_, _, series)) => series.add(one.pages),
                    None => {
                        let mut series = Series::default();
                        series.add(one.pages);
                        live.causes.push((one.cause, one.reason, series));
                    }
                }
                live.later(one, mapping);
            }
            Record::Lost { events } => live.lost += events,
            _ => {}
        }
    }

    /// A second is over.
    pub fn roll(&mut self) {
        let live = &mut self.live;
        live.seconds += 1;
        live.minor.roll();
        live.major.roll();
        live.moved.roll();
        live.causes.iter_mut().for_each(|(_, _, s)| s.roll());
        live.mappings.roll();
    }

    /// Takes what each mapping has.
    pub fn sampled(&mut self, sampled: Vec<Sampled>) {
        self.live.mappings.update(sampled);
        self.chosen = self.chosen.min(self.shown().len().saturating_sub(1));
    }

    /// Takes where the pages of the opened mapping are.
    pub fn pages(&mut self, pages: Pages) {
        if !self.is_paused() || self.opened.pages.runs.is_empty() {
            let last = pages.runs.len().saturating_sub(1);
            self.opened.scroll = self.opened.scroll.min(last);
            self.opened.pages = pages;
        }
    }

    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::None;
        }
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if with_control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Wish::Quit;
        }
        self.message.clear();
        match self.mode {
            Mode::Filter => self.filter_key(key.code),
            Mode::Pages => return self.pages_key(key.code),
            Mode::Mappings => return self.mappings_key(key.code),
        }
        Wish::None
    }

    fn filter_key(&mut self, code: KeyCode) {
        self.chosen = 0;
        match code {
            KeyCode::Enter => self.mode = Mode::Mappings,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Mappings;
            }
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    fn pause(&mut self) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => Some(Box::new(self.live.clone())),
        };
    }

    fn mappings_key(&mut self, code: KeyCode) -> Wish {
        let last = self.shown().len().saturating_sub(1);
        match code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('p' | ' ') => self.pause(),
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.chosen = 0;
            }
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.chosen += 1,
            KeyCode::PageUp => self.chosen = self.chosen.saturating_sub(10),
            KeyCode::PageDown => self.chosen += 10,
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = last,
            KeyCode::Enter => {
                let chosen = self.shown().get(self.chosen).copied();
                let opened = chosen.map(|row| Opened {
                    start: row.start,
                    end: row.end,
                    name: row.name.clone(),
                    ..Opened::default()
                });
                if let Some(opened) = opened {
                    self.opened = opened;
                    self.mode = Mode::Pages;
                    return Wish::Pages;
                }
            }
            _ => {}
        }
        self.chosen = self.chosen.min(last);
        Wish::None
    }

    fn pages_key(&mut self, code: KeyCode) -> Wish {
        let opened = &mut self.opened;
        let last = opened.pages.runs.len().saturating_sub(1);
        match code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('p' | ' ') => self.pause(),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Enter | KeyCode::Left => {
                self.mode = Mode::Mappings;
            }
            KeyCode::Up | KeyCode::Char('k') => opened.scroll = opened.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => opened.scroll = (opened.scroll + 1).min(last),
            KeyCode::PageUp => opened.scroll = opened.scroll.saturating_sub(15),
            KeyCode::PageDown => opened.scroll = (opened.scroll + 15).min(last),
            KeyCode::Home => opened.scroll = 0,
            KeyCode::End => opened.scroll = last,
            _ => {}
        }
        Wish::None
    }

    /// The mappings that are shown, in their order.
    pub fn shown(&self) -> Vec<&super::mappings::Row> {
        self.seen().mappings.shown(self.sort, &self.filter)
    }
}

impl Seen {
    fn later(&mut self, one: &Move, mapping: &Rc<str>) {
        if story::is_continued(&mut self.latest, one, (None, mapping)) {
            return;
        }
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back(Story::of(*one, None, mapping));
    }
}
