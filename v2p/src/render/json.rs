//! JSON of the records that come by the million, put together by hand: a fault, a move, a run of pages. The same bytes as serde's, which the
//! test holds it to.

use super::digits::HexDigits;
use crate::{
    record::{By, Hex, Move, Record},
    state::{PageState, SwapPlace},
};

/// Appends `record` as one line of JSON. False: it is none of those, and nothing was appended.
pub(super) fn put(line: &mut Vec<u8>, record: &Record) -> bool {
    let mut json = Json(line);
    match record {
        Record::Fault {
            pid,
            seq,
            t_ns,
            tid,
            va,
            pfn,
            major,
            access,
        } => {
            json.text(r#"{"type":"fault""#).process(*pid);
            json.text(r#","seq":"#).number(*seq);
            json.text(r#","t_ns":"#).number(*t_ns);
            json.text(r#","tid":"#).number((*tid).into());
            json.text(r#","va":"#).hex(*va);
            json.text(r#","pfn":"#).number_or_null(*pfn);
            json.text(r#","major":"#);
            json.text(if *major { "true" } else { "false" });
            match access {
                Some(access) => json.text(r#","access":""#).text(access.name()).text("\""),
                None => json.text(r#","access":null"#),
            };
        }
        Record::Move { pid, one, .. } => json.moved(*pid, one),
        Record::Run {
            va,
            pages,
            state,
            pa,
            page_size,
            flags,
            mapped,
            node,
            mapping,
            verdict,
        } => {
            json.text(r#"{"type":"run","va":"#).hex(*va);
            json.text(r#","pages":"#).number(*pages);
            json.text(",").members(*state);
            if let Some(pa) = pa {
                json.text(r#","pa":"#).hex(*pa);
            }
            json.text(r#","page_size":"#).number_or_null(*page_size);
            json.text(r#","flags":["#);
            for (i, flag) in flags.iter().enumerate() {
                json.text(if i > 0 { "," } else { "" }).string(flag);
            }
            json.text("]");
            for (name, number) in [(r#","mapped":"#, mapped), (r#","node":"#, node)] {
                if let Some(number) = number {
                    json.text(name).number((*number).into());
                }
            }
            json.text(r#","mapping":"#).string(mapping);
            json.text(r#","verdict":""#).text(verdict.name()).text("\"");
        }
        _ => return false,
    }
    json.text("}\n");
    true
}

/// JSON, piece by piece.
struct Json<'a>(&'a mut Vec<u8>);

impl Json<'_> {
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: u64) {
        self.text(itoa::Buffer::new().format(number));
    }

    fn number_or_null(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number),
            None => {
                self.text("null");
            }
        }
    }

    fn process(&mut self, pid: Option<u32>) {
        if let Some(pid) = pid {
            self.text(r#","pid":"#).number(pid.into());
        }
    }

    fn hex(&mut self, Hex(number): Hex) {
        self.text("\"")
            .text(HexDigits::of(number).text())
            .text("\"");
    }

    /// A string, which may hold anything.
    fn string(&mut self, text: &str) {
        let plain = |b: &u8| (0x20..0x7f).contains(b) && *b != b'"' && *b != b'\\';
        if text.as_bytes().iter().all(plain) {
            self.text("\"").text(text).text("\"");
        } else if let Ok(escaped) = serde_json::to_string(text) {
            self.text(&escaped);
        }
    }

    fn state(&mut self, state: PageState) {
        self.text("{").members(state);
        self.text("}");
    }

    /// What a state is, without the braces around it.
    fn members(&mut self, state: PageState) {
        self.text(r#""state":""#).text(state.name()).text("\"");
        match state {
            PageState::Present { pfn }
            | PageState::Migrating { pfn }
            | PageState::Device { pfn } => {
                self.text(r#","pfn":"#).number(pfn.0);
            }
            PageState::Swapped { swap: Some(place) } => {
                let SwapPlace { device, offset } = place;
                self.text(r#","swap":{"device":"#).number(device.into());
                self.text(r#","offset":"#).number(offset);
                self.text("}");
            }
            PageState::Swapped { swap: None } => {
                self.text(r#","swap":null"#);
            }
            _ => {}
        }
    }

    fn moved(&mut self, pid: Option<u32>, one: &Move) {
        let Move {
            seq,
            t_ns,
            va,
            pages,
            from,
            to,
            cause,
            reason,
            by,
            proof,
        } = one;
        self.text(r#"{"type":"move""#).process(pid);
        self.text(r#","seq":"#).number_or_null(*seq);
        self.text(r#","t_ns":"#).number(*t_ns);
        self.text(r#","va":"#).hex(*va);
        self.text(r#","pages":"#).number(*pages);
        self.text(r#","from":"#).state(*from);
        self.text(r#","to":"#).state(*to);
        self.text(r#","cause":""#).text(cause.name());
        self.text(r#"","reason":"#);
        match reason {
            Some(reason) => self.string(reason),
            None => {
                self.text("null");
            }
        }
        self.text(r#","by":"#);
        match by {
            Some(By { tid, comm }) => {
                self.text(r#"{"tid":"#).number((*tid).into());
                self.text(r#","comm":"#).string(&comm.text());
                self.text("}");
            }
            None => {
                self.text("null");
            }
        }
        self.text(r#","proof":""#).text(proof.name()).text("\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{Access, Cause, Comm, Proof},
        state::Verdict,
    };
    use v2p_common::{PAGE_SIZE, Pfn};

    fn same(record: &Record) {
        let mut line = Vec::new();
        assert!(put(&mut line, record));
        let wanted = serde_json::to_string(record).unwrap() + "\n";
        assert_eq!(String::from_utf8(line).unwrap(), wanted);
    }

    fn states() -> [PageState; 10] {
        let pfn = Pfn(0x123);
        let swap = Some(SwapPlace {
            device: 255,
            offset: 1 << 49,
        });
        [
            PageState::Absent,
            PageState::Zero,
            PageState::Present { pfn },
            PageState::Migrating { pfn },
            PageState::Device { pfn },
            PageState::Swapped { swap },
            PageState::Swapped { swap: None },
            PageState::Poisoned,
            PageState::Guard,
            PageState::Hidden,
        ]
    }

    #[test]
    fn a_run_is_the_json_of_serde_in_every_state_and_verdict() {
        let verdicts = [
            Verdict::Agree,
            Verdict::Disagree,
            Verdict::Moved,
            Verdict::Single,
        ];
        let flags: [&[&'static str]; 3] = [&[], &["exclusive"], &["file", "lru", "mmap"]];
        let names = ["", "[heap]", "/tmp/a \"b\\\n\u{e9}\u{1b} (deleted)"];
        let mut number = 0usize;
        for state in states() {
            for verdict in verdicts {
                for flags in flags {
                    for name in names {
                        number += 1;
                        let every = |n: usize| number.is_multiple_of(n);
                        same(&Record::Run {
                            va: Hex(u64::MAX >> (number % 64)),
                            pages: number as u64,
                            state,
                            pa: every(2).then_some(Hex(number as u64 * PAGE_SIZE)),
                            page_size: every(3).then_some(PAGE_SIZE),
                            flags: flags.into(),
                            mapped: every(5).then_some(u32::MAX),
                            node: every(7).then_some(1),
                            mapping: name.into(),
                            verdict,
                        });
                    }
                }
            }
        }
    }

    #[test]
    fn a_fault_is_the_json_of_serde() {
        let all = [Access::Read, Access::Write, Access::Exec];
        for (number, pfn, major, access) in [
            (0, None, false, None),
            (9, Some(0), true, Some(all[0])),
            (10, Some(10), false, Some(all[1])),
            (u64::MAX, Some(u64::MAX), true, Some(all[2])),
            (0x7ead_beef_d000, Some(1_158_144), false, None),
        ] {
            same(&Record::Fault {
                pid: pfn.map(|_| u32::MAX),
                seq: number,
                t_ns: number / 3,
                tid: u32::try_from(number >> 32).unwrap(),
                va: Hex(number),
                pfn,
                major,
                access,
            });
        }
    }

    #[test]
    fn a_move_is_the_json_of_serde_in_every_state_cause_and_name() {
        let states = states();
        let names: [&[u8; 16]; 5] = [
            b"kcompactd0\0\0\0\0\0\0",
            b"a \"quoted\\name\0\0",
            b"bell\x07tab\tdel\x7f\0\0\0",
            b"\xff\xfe\xc3\xa4 umlaut\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ];
        let mut number = 0;
        for cause in Cause::ALL {
            for from in states {
                for comm in names {
                    number += 1;
                    let to = states[number % states.len()];
                    same(&Record::Move {
                        pid: (number % 2 > 0).then_some(7),
                        mapping: "not in it".into(),
                        one: Move {
                            seq: (number % 3 > 0).then_some(number as u64),
                            t_ns: 7,
                            va: Hex(0x7f00 << (number % 40)),
                            pages: 512,
                            from,
                            to,
                            cause,
                            reason: [None, Some("compaction")][number % 2],
                            by: (number % 5 > 0).then_some(By {
                                tid: 3,
                                comm: Comm(*comm),
                            }),
                            proof: [Proof::Event, Proof::Reconciled][number % 2],
                        },
                    });
                }
            }
        }
    }

    #[test]
    fn other_records_are_left_to_serde() {
        let mut line = Vec::new();
        assert!(!put(&mut line, &Record::Lost { events: 1 }));
        assert!(line.is_empty());
    }
}
