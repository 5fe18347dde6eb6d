//! Messages of a trace, by the numbers of Perfetto's schema (protos/perfetto/trace/perfetto_trace.proto, v59). Pure.

use super::wire::Message;

/// One writer, one sequence.
const SEQUENCE: u64 = 1;
/// BUILTIN_CLOCK_MONOTONIC, BUILTIN_CLOCK_BOOTTIME, BUILTIN_CLOCK_REALTIME.
const MONOTONIC: u64 = 3;
const BOOTTIME: u64 = 6;
const REALTIME: u64 = 1;

/// What an event shows beside its name.
pub enum Value<'a> {
    /// A count.
    Number(u64),
    /// An address.
    Address(u64),
    /// Words.
    Text(&'a str),
}

/// A packet's place in the file: a field of `Trace`.
fn packet(body: Message) -> Message {
    Message::new().message(1, &body.number(10, SEQUENCE))
}

/// The first packet: nothing that was before counts (SEQ_INCREMENTAL_STATE_CLEARED), and how the clocks stand to each other, in
/// nanoseconds.
pub fn clocks(monotonic: u64, boottime: u64, realtime: u64) -> Message {
    let clock = |id, t| Message::new().number(1, id).number(2, t);
    let snapshot = Message::new()
        .message(1, &clock(MONOTONIC, monotonic))
        .message(1, &clock(BOOTTIME, boottime))
        .message(1, &clock(REALTIME, realtime));
    packet(Message::new().message(6, &snapshot).number(13, 1))
}

fn track(uuid: u64, parent: Option<u64>, name: Option<&str>) -> Message {
    let mut track = Message::new().number(1, uuid);
    if let Some(parent) = parent {
        track = track.number(5, parent);
    }
    if let Some(name) = name {
        track = track.text(2, name);
    }
    track
}

/// The track of a process.
pub fn process(uuid: u64, pid: u32, name: &str) -> Message {
    let process = Message::new().number(1, u64::from(pid)).text(6, name);
    let track = track(uuid, None, None).message(3, &process);
    packet(Message::new().message(60, &track))
}

/// A track of a name, within another.
pub fn named(uuid: u64, parent: u64, name: &str) -> Message {
    packet(Message::new().message(60, &track(uuid, Some(parent), Some(name))))
}

/// A track of numbers, within another. `unit`: what is counted.
pub fn counter(uuid: u64, parent: u64, name: &str, unit: &str) -> Message {
    let counter = Message::new().text(6, unit);
    let track = track(uuid, Some(parent), Some(name)).message(8, &counter);
    packet(Message::new().message(60, &track))
}

fn at(t_ns: u64, event: &Message) -> Message {
    let packet_ = Message::new()
        .number(8, t_ns)
        .number(58, MONOTONIC)
        .message(11, event);
    packet(packet_)
}

/// Something that happened at a moment (TYPE_INSTANT).
pub fn instant(
    t_ns: u64,
    track: u64,
    category: &str,
    name: &str,
    values: &[(&str, Value<'_>)],
) -> Message {
    let mut event = Message::new()
        .number(9, 3)
        .number(11, track)
        .text(22, category)
        .text(23, name);
    for (name, value) in values {
        let named = Message::new().text(10, name);
        let annotation = match value {
            Value::Number(n) => named.number(3, *n),
            Value::Address(va) => named.number(7, *va),
            Value::Text(text) => named.text(6, text),
        };
        event = event.message(4, &annotation);
    }
    at(t_ns, &event)
}

/// What a counter is from a moment on (TYPE_COUNTER).
pub fn value(t_ns: u64, track: u64, value: u64) -> Message {
    let event = Message::new()
        .number(9, 4)
        .number(11, track)
        .number(30, value);
    at(t_ns, &event)
}
