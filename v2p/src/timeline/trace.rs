//! Records of a watch -> packets: which track, which counter. Pure.

use std::collections::HashMap;

use super::{
    packet::{self, Value},
    wire::Message,
};
use crate::{
    record::{Move, Record},
    render::{cause_text, mapping_name, state_text},
};

/// Rates are told for stretches of so many nanoseconds.
const WINDOW: u64 = 100_000_000;
const WINDOWS_A_SECOND: u64 = 1_000_000_000 / WINDOW;

/// Tracks that every trace has.
const PROCESS: u64 = 1;
const MAPPINGS: u64 = 2;
const MOVERS: u64 = 3;
const RATES: u64 = 4;
const LOST: u64 = 5;
/// The first of the others.
const OTHERS: u64 = 16;

/// So many of the others are known at a time, beside those of rates. Names of mappings and numbers of threads come without end.
const MANY: usize = 4096;

/// A track that is made when it is needed.
#[derive(PartialEq, Eq, Hash, Clone)]
enum Track {
    Mapping(String),
    Mover(u32),
    Rate(String),
}

/// One that was made.
struct Made {
    uuid: u64,
    /// Of a thread, its name; `None`: not known, or no thread.
    comm: Option<String>,
    /// The latest time that it was needed, in their order.
    used: u64,
}

/// How many of something there were in the present window, and whether its counter stands at 0.
#[derive(Default)]
struct Rate {
    count: u64,
    told: u64,
}

/// A trace under way.
pub struct Trace {
    tracks: HashMap<Track, Made>,
    /// Tracks that were made, and how often one was needed.
    made: u64,
    used: u64,
    rates: HashMap<u64, Rate>,
    /// The window that is counted, by its number.
    window: u64,
    /// The latest moment that was told.
    latest_ns: u64,
    lost: u64,
    /// Moves in it.
    pub moves: u64,
    /// Faults in it.
    pub faults: u64,
}

impl Trace {
    /// Begins one; gives its first packets. `monotonic` and so on: the clocks at one moment, in nanoseconds.
    pub fn new(
        pid: u32,
        comm: &str,
        monotonic: u64,
        boottime: u64,
        realtime: u64,
    ) -> (Self, Vec<Message>) {
        let packets = vec![
            packet::clocks(monotonic, boottime, realtime),
            packet::process(PROCESS, pid, comm),
            packet::named(MAPPINGS, PROCESS, "moves by mapping"),
            packet::named(MOVERS, PROCESS, "moves and faults by thread"),
            packet::named(RATES, PROCESS, "rates"),
            packet::counter(LOST, PROCESS, "lost events", "events"),
            packet::value(monotonic, LOST, 0),
        ];
        let trace = Self {
            tracks: HashMap::new(),
            made: 0,
            used: 0,
            rates: HashMap::new(),
            window: monotonic / WINDOW,
            latest_ns: monotonic,
            lost: 0,
            moves: 0,
            faults: 0,
        };
        (trace, packets)
    }

    /// Takes a record; gives its packets.
    pub fn record(&mut self, record: &Record) -> Vec<Message> {
        let mut out = Vec::new();
        match record {
            Record::Start { hooks, missing, .. } => {
                let note = format!("watch begins: {} hooks live", hooks.len());
                let missing = missing.join("; ");
                let values = [("missing", Value::Text(&missing))];
                let t_ns = self.latest_ns;
                out.push(packet::instant(t_ns, PROCESS, "watch", &note, &values));
            }
            Record::Fault {
                seq,
                t_ns,
                tid,
                va,
                pfn,
                major,
                access,
                ..
            } => {
                self.faults += 1;
                let name = if *major { "major fault" } else { "minor fault" };
                self.count(*t_ns, &format!("{name}s a second"), 1, &mut out);
                let track = self.mover(*tid, None, &mut out);
                let mut values = vec![("seq", Value::Number(*seq)), ("va", Value::Address(va.0))];
                if let Some(pfn) = pfn {
                    values.push(("pfn", Value::Number(*pfn)));
                }
                if let Some(access) = access {
                    values.push(("access", Value::Text(access.name())));
                }
                out.push(packet::instant(*t_ns, track, "fault", name, &values));
            }
            Record::Move { pid, one, mapping } => self.moved(*pid, one, mapping, &mut out),
            Record::Fork {
                t_ns, pid, parent, ..
            } => {
                let name = format!("process {parent} forks {pid}");
                self.note(*t_ns, &name, &mut out);
            }
            Record::Gone { t_ns, pid, why, .. } => {
                self.note(*t_ns, &format!("process {pid}: {why}"), &mut out);
            }
            Record::Lost { events } => {
                self.lost += events;
                let name = format!("LOST {events} events");
                let t_ns = self.latest_ns;
                out.push(packet::instant(t_ns, PROCESS, "watch", &name, &[]));
                out.push(packet::value(t_ns, LOST, self.lost));
            }
            Record::End { why, .. } => {
                self.tell_rates(&mut out);
                let end = (self.window + 1) * WINDOW;
                self.window += 1;
                self.still(end, &mut out);
                let name = format!("watch ends: {why}");
                let t_ns = self.latest_ns;
                out.push(packet::instant(t_ns, PROCESS, "watch", &name, &[]));
            }
            _ => {}
        }
        out
    }

    fn note(&mut self, t_ns: u64, name: &str, out: &mut Vec<Message>) {
        self.latest_ns = self.latest_ns.max(t_ns);
        out.push(packet::instant(t_ns, PROCESS, "watch", name, &[]));
    }

    fn moved(&mut self, pid: Option<u32>, one: &Move, mapping: &str, out: &mut Vec<Message>) {
        self.moves += 1;
        let name = cause_text(one.cause, one.reason);
        self.count(one.t_ns, "pages moved a second", one.pages, out);
        self.count(one.t_ns, &format!("{} a second", one.cause), one.pages, out);
        let mapping = mapping_name(mapping);
        // Of several processes each has its own.
        let mapping = &pid.map_or_else(|| mapping.to_owned(), |pid| format!("{pid} {mapping}"));
        let by = one.by.map(|by| by.comm.to_string());
        let (from, to) = (state_text(one.from), state_text(one.to));
        let mut values = vec![
            ("va", Value::Address(one.va.0)),
            ("pages", Value::Number(one.pages)),
            ("from", Value::Text(&from)),
            ("to", Value::Text(&to)),
            ("proof", Value::Text(one.proof.name())),
            ("mapping", Value::Text(mapping)),
        ];
        if let Some(seq) = one.seq {
            values.push(("seq", Value::Number(seq)));
        }
        if let Some(by) = &by {
            values.push(("by", Value::Text(by)));
        }
        let track = self.track(
            Track::Mapping(mapping.to_owned()),
            MAPPINGS,
            mapping.to_owned(),
            out,
        );
        out.push(packet::instant(one.t_ns, track, "move", &name, &values));
        if let Some(thread) = one.by {
            let track = self.mover(thread.tid, by.as_deref(), out);
            out.push(packet::instant(one.t_ns, track, "mover", &name, &values));
        }
    }

    /// The track of a thread. Of a fault's only the number is known: that is of whoever had it last. With another name it is another's by now.
    fn mover(&mut self, tid: u32, comm: Option<&str>, out: &mut Vec<Message>) -> u64 {
        let name = match comm {
            Some(comm) => format!("{comm} ({tid})"),
            None => format!("thread {tid}"),
        };
        let key = Track::Mover(tid);
        let known = self.tracks.get(&key).and_then(|made| made.comm.as_deref());
        if comm.is_some() && known.is_some() && comm != known {
            self.tracks.remove(&key);
        }
        let track = self.track(key.clone(), MOVERS, name, out);
        if let (Some(comm), Some(made)) = (comm, self.tracks.get_mut(&key)) {
            made.comm.get_or_insert_with(|| comm.to_owned());
        }
        track
    }

    fn track(&mut self, key: Track, parent: u64, name: String, out: &mut Vec<Message>) -> u64 {
        self.used += 1;
        let used = self.used;
        if let Some(made) = self.tracks.get_mut(&key) {
            made.used = used;
            return made.uuid;
        }
        let uuid = OTHERS + self.made;
        self.made += 1;
        out.push(match key {
            Track::Rate(_) => packet::counter(uuid, parent, &name, "a second"),
            Track::Mapping(_) | Track::Mover(_) => packet::named(uuid, parent, &name),
        });
        if self.tracks.len() >= MANY {
            self.forget();
        }
        let comm = None;
        self.tracks.insert(key, Made { uuid, comm, used });
        uuid
    }

    /// Forgets the older half of what was not needed for long: where it is again, it is told anew. Rates stay: there is one a cause, and its counter
    /// goes on.
    fn forget(&mut self) {
        let mut used: Vec<_> = self.tracks.values().map(|made| made.used).collect();
        let half = used.len() / 2;
        let (_, since, _) = used.select_nth_unstable(half);
        let since = *since;
        self.tracks
            .retain(|key, made| matches!(key, Track::Rate(_)) || made.used >= since);
    }

    /// So many more at a moment. What came before its window is told, with the rates that it had.
    fn count(&mut self, t_ns: u64, name: &str, n: u64, out: &mut Vec<Message>) {
        self.latest_ns = self.latest_ns.max(t_ns);
        let window = t_ns / WINDOW;
        if window > self.window {
            self.tell_rates(out);
            self.window += 1;
            if window > self.window {
                // Nothing happened for a while.
                self.still(self.window * WINDOW, out);
            }
            self.window = window;
        }
        let key = Track::Rate(name.to_owned());
        let track = self.track(key, RATES, name.to_owned(), out);
        self.rates.entry(track).or_default().count += n;
    }

    /// Tells the rates of the present window.
    fn tell_rates(&mut self, out: &mut Vec<Message>) {
        let start = self.window * WINDOW;
        for (track, rate) in &mut self.rates {
            let value = std::mem::take(&mut rate.count) * WINDOWS_A_SECOND;
            if value != rate.told {
                rate.told = value;
                out.push(packet::value(start, *track, value));
            }
        }
    }

    /// Tells that nothing happens from `t_ns` on.
    fn still(&mut self, t_ns: u64, out: &mut Vec<Message>) {
        for (track, rate) in &mut self.rates {
            if rate.told != 0 {
                rate.told = 0;
                out.push(packet::value(t_ns, *track, 0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Hex;

    fn trace() -> Trace {
        Trace::new(1, "a", 0, 0, 0).0
    }

    /// The track of a thread, and how many packets announced it.
    fn mover(trace: &mut Trace, tid: u32, comm: Option<&str>) -> (u64, usize) {
        let mut out = Vec::new();
        let track = trace.mover(tid, comm, &mut out);
        (track, out.len())
    }

    #[test]
    fn a_number_that_another_thread_has_got_is_another_track() {
        let mut trace = trace();
        let (first, announced) = mover(&mut trace, 7, None);
        assert_eq!(announced, 1);
        assert_eq!(mover(&mut trace, 7, Some("one")), (first, 0));
        assert_eq!(mover(&mut trace, 7, None), (first, 0));
        let (second, announced) = mover(&mut trace, 7, Some("other"));
        assert!(second != first && announced == 1);
        assert_eq!(mover(&mut trace, 7, None), (second, 0));
        assert_eq!(mover(&mut trace, 7, Some("other")), (second, 0));
    }

    #[test]
    fn tracks_are_forgotten_the_oldest_first_and_told_anew() {
        let mut trace = trace();
        let fault = |tid| Record::Fault {
            pid: None,
            seq: 0,
            t_ns: 1,
            tid,
            va: Hex(0),
            pfn: None,
            major: false,
            access: None,
        };
        let mut told = 0;
        for tid in 0..20 * u32::try_from(MANY).unwrap() {
            told += trace.record(&fault(tid)).len();
            assert!(trace.tracks.len() <= MANY);
            // One that is needed all the time stays.
            told += trace.record(&fault(0)).len();
        }
        // Each fault, each track once, and that of their rate.
        assert_eq!(told, 3 * 20 * MANY + 1);
        assert_eq!(trace.rates.len(), 1);
        let anew = trace.record(&fault(1));
        assert_eq!(anew.len(), 2);
    }
}
