//! What `v2p translate --json` said at an earlier moment.

use std::io::{self, BufRead, Read as _};

use serde::Deserialize;
use v2p_common::{PAGE_SHIFT, PAGE_SIZE, Pfn};

/// Pages that were in frames in a row, or in none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The number of the first page.
    pub page: u64,
    /// How many.
    pub pages: u64,
    /// The frame of the first; none: they were not present.
    pub pfn: Option<u64>,
}

/// An earlier translation, by address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Earlier(pub Vec<Piece>);

/// A line, as far as it matters here.
#[derive(Deserialize)]
struct Line<'a> {
    r#type: &'a str,
    va: Option<&'a str>,
    pages: Option<u64>,
    state: Option<&'a str>,
    pfn: Option<u64>,
}

/// Bytes of a line: no line of a translation has so many.
const LONGEST: u64 = 1 << 20;

impl Earlier {
    /// Reads it.
    ///
    /// # Errors
    /// Those of the reading; InvalidData, with the line, where it is not all of a translation, or the frames were hidden.
    pub fn read(mut from: impl BufRead) -> io::Result<Self> {
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut text, mut number, mut ended) = (String::new(), 0, false);
        let mut told = 0u64;
        loop {
            text.clear();
            if (&mut from).take(LONGEST).read_line(&mut text)? == 0 {
                break;
            }
            number += 1;
            let bad = |what: &str| {
                let what = format!("line {number}: {what}");
                io::Error::new(io::ErrorKind::InvalidData, what)
            };
            if ended {
                return Err(bad(
                    "something follows the end: it is more than one translation",
                ));
            }
            let line: Line<'_> = serde_json::from_str(&text)
                .map_err(|_| bad("it is not what `v2p translate --json` writes"))?;
            match line.r#type {
                "run" => {
                    let piece = piece(&line).map_err(bad)?;
                    told = told.saturating_add(piece.pages);
                    match pieces.last_mut() {
                        Some(last) if goes_on(last, &piece) => last.pages += piece.pages,
                        _ => pieces.push(piece),
                    }
                }
                "end" if line.pages != Some(told) => {
                    return Err(bad(
                        "it counts other pages than the runs before it: some are missing",
                    ));
                }
                "end" => ended = true,
                "level" => {}
                _ => return Err(bad("it is not what `v2p translate --json` writes")),
            }
        }
        if !ended {
            let what = "it is cut off: there is no `end` line";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        pieces.sort_by_key(|piece| piece.page);
        // Ranges may have been asked twice, or in part.
        let mut end = 0u64;
        pieces.retain_mut(|piece| {
            let known = end.saturating_sub(piece.page).min(piece.pages);
            piece.page += known;
            piece.pages -= known;
            piece.pfn = piece.pfn.map(|pfn| pfn + known);
            end = end.max(piece.page + piece.pages);
            piece.pages > 0
        });
        Ok(Self(pieces))
    }

    /// The pieces from the one on that holds page number `page`, or comes after it.
    pub fn from(&self, page: u64) -> &[Piece] {
        let before = |piece: &Piece| piece.page + piece.pages <= page;
        self.0
            .get(self.0.partition_point(before)..)
            .unwrap_or_default()
    }
}

fn goes_on(last: &Piece, next: &Piece) -> bool {
    last.page + last.pages == next.page && last.pfn.map(|pfn| pfn + last.pages) == next.pfn
}

fn piece(line: &Line<'_>) -> Result<Piece, &'static str> {
    let digits = line.va.and_then(|va| va.strip_prefix("0x"));
    let va = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let (Some(va), Some(pages), Some(state)) = (va, line.pages, line.state) else {
        return Err("a run without address, pages or state");
    };
    let page = va >> PAGE_SHIFT;
    let all = u64::MAX / PAGE_SIZE;
    if pages == 0 || pages > all - page.min(all) {
        return Err("a run of no possible length");
    }
    let pfn = match (state, line.pfn) {
        ("present", Some(pfn)) if Pfn(pfn.saturating_add(pages)).is_possible() => Some(pfn),
        ("present", _) => return Err("a present run without a frame"),
        ("hidden", _) => return Err("its frames were hidden: it was not made as root"),
        _ => None,
    };
    Ok(Piece { page, pages, pfn })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Piece>, String> {
        Earlier::read(text.as_bytes())
            .map(|earlier| earlier.0)
            .map_err(|e| e.to_string())
    }

    fn end(pages: u64) -> String {
        format!(r#"{{"type":"end","route":"both","pages":{pages}}}"#)
    }

    #[test]
    fn runs_are_read_and_joined() {
        let text = format!(
            "{}\n{}\n{}\n{}\n",
            r#"{"type":"run","va":"0x5000","pages":2,"state":"present","pfn":7,"pa":"0x7000","page_size":4096,"flags":["anon"],"mapping":"[heap]","verdict":"agree"}"#,
            r#"{"type":"run","va":"0x7000","pages":1,"state":"present","pfn":9,"flags":[],"mapping":"a \"b\""}"#,
            r#"{"type":"run","va":"0x1000","pages":3,"state":"swapped","swap":{"device":0,"offset":1}}"#,
            end(6),
        );
        let piece = |page, pages, pfn| Piece { page, pages, pfn };
        assert_eq!(
            read(&text),
            Ok(vec![piece(1, 3, None), piece(5, 3, Some(7))])
        );
    }

    #[test]
    fn ranges_that_overlap_are_known_once() {
        let run = |va: u64, pages: u64, pfn: u64| {
            format!(
                r#"{{"type":"run","va":"{:#x}","pages":{pages},"state":"present","pfn":{pfn}}}"#,
                va * PAGE_SIZE
            )
        };
        // A part first, then the whole; and one inside another.
        let text = [
            run(1, 2, 7),
            run(1, 5, 7),
            run(9, 4, 20),
            run(10, 2, 21),
            end(13),
        ];
        let pieces = read(&(text.join("\n") + "\n")).unwrap();
        let pages: Vec<_> = pieces.iter().map(|p| (p.page, p.pages, p.pfn)).collect();
        let known = [(1, 2, Some(7)), (3, 3, Some(9)), (9, 4, Some(20))];
        assert_eq!(pages, known);
    }

    #[test]
    fn a_line_without_an_end_is_not_read_to_the_end() {
        let text = "0".repeat(3 << 20);
        assert!(read(&text).unwrap_err().contains("line 1"));
    }

    #[test]
    fn what_is_no_translation_says_so() {
        let run = |rest: &str| {
            format!(
                "{{\"type\":\"run\",\"va\":\"0x1000\",{rest}}}\n{}\n",
                end(2)
            )
        };
        for (text, says) in [
            (String::new(), "cut off"),
            ("nonsense\n".to_owned(), "line 1"),
            (
                "{\"type\":\"start\",\"pid\":1}\n".to_owned(),
                "translate --json",
            ),
            (format!("{0}\n{0}\n", end(0)), "more than one"),
            (
                run("\"pages\":1,\"state\":\"absent\""),
                "line 2: it counts other pages",
            ),
            (run("\"pages\":1"), "without"),
            (run("\"pages\":0,\"state\":\"absent\""), "length"),
            (
                run("\"pages\":18446744073709551615,\"state\":\"absent\""),
                "length",
            ),
            (run("\"pages\":1,\"state\":\"present\""), "without a frame"),
            (run("\"pages\":1,\"state\":\"hidden\""), "root"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
