//! What became of the writes of one row of the storm's table.

use std::time::Duration;

use v2p::record::Verdict;

/// What became of the writes of one row.
#[derive(Default, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) writes: u64,
    /// By verdict: landed, moved, strayed, unproven, refused.
    pub(super) said: [u64; 5],
    /// The bytes are not in the process's page, and it was not thrown away since.
    pub(super) strays: u64,
    /// Of those: called strayed; called landed, or by nobody.
    pub(super) flagged: u64,
    pub(super) missed: u64,
    /// Called strayed, and the bytes are there: the page took them along.
    pub(super) along: u64,
    /// Called moved, and the bytes are there all the same.
    pub(super) wrote_after_all: u64,
    /// The bytes are not there, and the page was thrown away while it was written to, or since: nobody can say more.
    pub(super) thrown: u64,
    /// Called unproven, though that was not so, and no events were lost.
    pub(super) unexplained: u64,
    /// Called unproven since events were lost, which 7.x may skip.
    pub(super) lost: u64,
    /// What the storm did.
    pub(super) deeds: [u64; 4],
    pub(super) took: Duration,
    pub(super) windows: Vec<u64>,
    pub(super) events: u64,
}

impl Row {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    pub(super) fn count(&mut self, verdict: Option<Verdict>, is_there: bool, was_wiped: bool) {
        self.writes += 1;
        let place = match verdict {
            None | Some(Verdict::Landed) => 0,
            Some(Verdict::Moved) => 1,
            Some(Verdict::Strayed) => 2,
            Some(Verdict::Unproven) => 3,
            _ => 4,
        };
        self.said[place] += 1;
        let strayed = !is_there && !was_wiped;
        let written = !matches!(verdict, Some(Verdict::Moved | Verdict::Refused));
        self.thrown += u64::from(written && !is_there && was_wiped);
        match verdict {
            None | Some(Verdict::Landed) if strayed => {
                self.strays += 1;
                self.missed += 1;
            }
            Some(Verdict::Strayed) if strayed => {
                self.strays += 1;
                self.flagged += 1;
            }
            Some(Verdict::Unproven) if strayed => self.strays += 1,
            Some(Verdict::Strayed) if is_there => self.along += 1,
            Some(Verdict::Moved) if is_there => self.wrote_after_all += 1,
            _ => {}
        }
    }

    pub(super) fn print_header() {
        println!(
            "storm: {:<32} {:>7} {:>7} {:>6} {:>7} {:>8} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} {:>9} {:>6} {:>6}",
            "row",
            "writes",
            "landed",
            "moved",
            "strayed",
            "unproven",
            "refused",
            "strays",
            "flagged",
            "missed",
            "along",
            "thrown",
            "window us",
            "us",
            "events"
        );
    }

    pub(super) fn print(&mut self) {
        let Self {
            name,
            writes,
            said: [landed, moved, strayed, unproven, refused],
            strays,
            flagged,
            missed,
            along,
            thrown,
            took,
            events,
            deeds: [moves, discards, page_outs, compactions],
            ..
        } = self;
        let each = took.as_micros() / u128::from((*writes).max(1));
        let per = *events as f64 / (*writes).max(1) as f64;
        self.windows.sort_unstable();
        let window = self.windows.get(self.windows.len() / 2);
        let window = window.map_or_else(|| "-".to_owned(), |ns| format!("{:.1}", *ns as f64 / 1e3));
        println!(
            "storm: {name:<32} {writes:>7} {landed:>7} {moved:>6} {strayed:>7} {unproven:>8} {refused:>7} {strays:>7} {flagged:>7} {missed:>6} {along:>6} {thrown:>6} {window:>9} {each:>6} {per:>6.1}"
        );
        println!(
            "storm: {:<32} {moves} moves of all, {discards} discards, {page_outs} page-outs, {compactions} compactions",
            ""
        );
    }
}
