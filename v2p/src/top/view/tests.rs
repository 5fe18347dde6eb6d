//! The view as a terminal would show it, line by line.

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use v2p_common::{Pfn, VirtAddr, event::COMM_LEN};

use super::*;
use crate::{
    record::{By, Comm, Hex, Move, Proof, Record},
    state::PageState,
    top::{
        app::{Subject, Wish},
        sample::{Pages, Sampled},
    },
    translate::{Page, Verdict, run::Run},
};

fn subject() -> Subject {
    Subject {
        pid: 1234,
        comm: "redis-server".to_owned(),
        kernel: "6.12.1".to_owned(),
        ..Subject::default()
    }
}

fn start() -> Record {
    Record::Start {
        pid: 1234,
        kernel: "6.12.1".to_owned(),
        hooks: vec![String::new(); 16],
        missing: vec![String::new(); 2],
    }
}

fn fault(va: u64, major: bool) -> Record {
    Record::Fault {
        pid: None,
        seq: 1,
        t_ns: 5_000_000_000,
        tid: 1234,
        va: Hex(va),
        pfn: Some(1),
        major,
        access: None,
    }
}

fn moved(va: u64, pages: u64, ms: u64, cause: Cause, reason: Option<&'static str>) -> Record {
    let mut comm = [0; COMM_LEN];
    comm[..15].copy_from_slice(b"a-name-of-15-ab");
    let from = match cause {
        Cause::FirstTouch => PageState::Absent,
        _ => PageState::Present {
            pfn: Pfn(1_000_000),
        },
    };
    Record::Move {
        pid: None,
        one: Move {
            seq: Some(1),
            t_ns: 5_000_000_000 + ms * 1_000_000,
            va: Hex(va),
            pages,
            from,
            to: PageState::Present {
                pfn: Pfn(2_000_000),
            },
            cause,
            reason,
            by: Some(By {
                tid: 7,
                comm: Comm(comm),
            }),
            proof: Proof::Event,
        },
        mapping: "[heap]".into(),
    }
}

fn sampled(start: u64, pages: u64, name: &str, present: u64, swapped: u64) -> Sampled {
    Sampled {
        start,
        end: start + pages * 4096,
        name: name.to_owned(),
        present,
        swapped,
    }
}

/// Two seconds of a watch.
fn app() -> App {
    let mut app = App::new(subject(), true);
    app.record(&start());
    app.sampled(vec![
        sampled(0x1000, 10, "/usr/bin/redis-server", 7, 0),
        sampled(0x10_0000, 20_000, "[heap]", 12_345, 6),
        sampled(0x7f00_0000_0000, 512, "", 300, 0),
    ]);
    (0..3).for_each(|_| app.record(&fault(0x10_0000, false)));
    app.record(&fault(0x1000, true));
    app.record(&moved(0x10_0000, 1, 0, Cause::FirstTouch, None));
    app.record(&moved(0x10_1000, 2, 1, Cause::FirstTouch, None));
    app.roll();
    let compaction = Some("compaction");
    app.record(&moved(
        0x7f00_0000_0000,
        512,
        1500,
        Cause::Migration,
        compaction,
    ));
    app.record(&moved(0x6000_0000, 1, 1600, Cause::Unmap, None));
    app.roll();
    app
}

fn shown(app: &App, width: u16, height: u16) -> (Vec<String>, Buffer) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let lines = (0..height)
        .map(|y| {
            let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
            line.trim_end().to_owned()
        })
        .collect();
    (lines, buffer)
}

fn press(app: &mut App, codes: &[KeyCode]) -> Wish {
    let mut wish = Wish::None;
    for code in codes {
        wish = app.key(KeyEvent::new(*code, KeyModifiers::NONE));
    }
    wish
}

#[test]
fn in_80_by_24_everything_has_its_place() {
    let expected = [
        " v2p top  1234 redis-server  Linux 6.12.1  16 hooks, 2 missing          0:00:02",
        " resident 12,652 pages (49.4 MiB)  swapped 6  moved 516  lost 0 events",
        " CAUSE                       A SECOND        IN ALL  last 26 s",
        " minor faults                       0             3                          █",
        " major faults                       0             1                          █",
        " migration:compaction             512           512                           █",
        " unmap (+1 more)                    1             1                           █",
        " MAPPING                     RESIDENT▾   SWAPPED     MOVED    FAULTS  moves/s",
        ">[heap]                         12,345         6         3         3          █",
        " 0x7f0000000000 anon               300         0       512         0           █",
        " redis-server                        7         0         0         1",
        " (no mapping now)                    0         0         1         0           █",
        "",
        "",
        "",
        "",
        "TIME (s)        ADDRESS PAGES LATEST MOVES     FRAMES            BY",
        "   1.600     0x60000000     1 unmap            1000000 → 2000000 a-name-of-15-ab",
        "   1.500 0x7f0000000000   512 migr:compaction  1000000 → 2000000 a-name-of-15-ab",
        "   0.000       0x100000     3 first-touch      - → 2000000       a-name-of-15-ab",
        "",
        "",
        "",
        " q quit   p pause   s sort   / filter   ↑↓ choose   Enter its pages",
    ];
    let (lines, _) = shown(&app(), 80, 24);
    assert_eq!(lines, expected);
}

#[test]
fn a_wide_terminal_has_whole_words_and_the_mapping() {
    let (lines, _) = shown(&app(), 120, 24);
    assert_eq!(
        &lines[16..19],
        [
            "TIME (s)        ADDRESS PAGES LATEST MOVES             FRAMES                BY              MAPPING",
            "   1.600     0x60000000     1 unmap                    1000000 → 2000000     a-name-of-15-ab [heap]",
            "   1.500 0x7f0000000000   512 migration:compaction     1000000 → 2000000     a-name-of-15-ab [heap]",
        ]
    );
}

#[test]
fn no_number_of_a_move_is_cut() {
    let mut app = app();
    let mut long = moved(0x1000, 2_097_152, 3_600_000, Cause::Unmap, None);
    if let Record::Move { one, .. } = &mut long {
        let pfn = Pfn(1_000_000_000);
        (one.from, one.to) = (PageState::Present { pfn }, PageState::Zero);
    }
    app.record(&long);
    let (lines, _) = shown(&app, 80, 24);
    assert_eq!(
        lines[17],
        "  3600.0         0x1000 2097K unmap            1000000000 → zero page a-name-of-"
    );
}

#[test]
fn lost_events_are_red() {
    let mut app = app();
    app.record(&Record::Lost { events: 12_000 });
    let (lines, buffer) = shown(&app, 80, 24);
    assert!(
        lines[1].starts_with("  LOST 12,000 EVENTS  resident"),
        "{}",
        lines[1]
    );
    let x = u16::try_from(lines[1].find("LOST").unwrap()).unwrap();
    assert_eq!(buffer[(x, 1)].fg, Color::Red);
    // Without colours it stands out all the same.
    app.colour = false;
    let (_, buffer) = shown(&app, 80, 24);
    assert_eq!(buffer[(x, 1)].fg, Color::Reset);
    assert!(buffer[(x, 1)].modifier.contains(Modifier::REVERSED));
}

#[test]
fn keys_sort_filter_pause_and_open() {
    let mut app = app();
    let first = |app: &App| shown(app, 80, 24).0[8].clone();
    press(&mut app, &[KeyCode::Char('s'), KeyCode::Char('s')]);
    assert!(first(&app).starts_with(">0x7f0000000000 anon"));
    press(
        &mut app,
        &[KeyCode::Char('/'), KeyCode::Char('r'), KeyCode::Char('q')],
    );
    assert!(
        first(&app).contains("none has this"),
        "a q in a filter is a q"
    );
    press(&mut app, &[KeyCode::Backspace, KeyCode::Enter]);
    assert!(first(&app).starts_with(">redis-server"));
    assert!(shown(&app, 80, 24).0[7].contains("MAPPING with \"r\""));
    press(&mut app, &[KeyCode::Esc, KeyCode::Char('p')]);
    app.record(&fault(0x10_0000, false));
    app.roll();
    let paused = shown(&app, 80, 24).0;
    assert!(paused[0].ends_with("PAUSED 0:00:02"), "{}", paused[0]);
    press(&mut app, &[KeyCode::Char('p')]);
    let going_on = shown(&app, 80, 24).0;
    assert!(going_on[0].ends_with(" 0:00:03"), "{}", going_on[0]);
    assert!(
        going_on.join("\n").contains("minor faults"),
        "counted meanwhile"
    );
    assert_eq!(app.seen().minor.total, 4);
    assert_eq!(press(&mut app, &[KeyCode::Char('q')]), Wish::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.key(control_c), Wish::Quit);
}

#[test]
fn enter_shows_the_pages_of_a_mapping_with_their_latest_moves() {
    let mut app = app();
    assert_eq!(
        press(&mut app, &[KeyCode::Down, KeyCode::Enter]),
        Wish::Pages
    );
    assert_eq!(
        (app.opened.start, app.mode),
        (0x7f00_0000_0000, Mode::Pages)
    );
    let run = |va, pages, state| Run {
        first: Page {
            va: VirtAddr(va),
            state,
            page_size: None,
            marks: Default::default(),
            frame: None,
            mapped: None,
            node: None,
            verdict: Verdict::Single,
        },
        pages,
    };
    let pfn = Pfn(2_000_000);
    app.pages(Pages {
        runs: vec![
            run(0x7f00_0000_0000, 300, PageState::Present { pfn }),
            run(0x7f00_0100_0000, 2, PageState::Swapped { swap: None }),
        ],
        cut: false,
    });
    let expected = [
        " 0x7f0000000000-0x7f0000200000 (anonymous)                          2 stretches",
        "          ADDRESS     PAGES  FRAME            LATEST MOVE SEEN IN IT",
        "   0x7f0000000000       300  2000000          migration:compaction at 1.500 s",
        "   0x7f0001000000         2  swap",
    ];
    let (lines, _) = shown(&app, 80, 24);
    assert_eq!(&lines[2..6], expected);
    assert_eq!(lines[23], " q quit   p pause   ↑↓ scroll   Esc back");
    press(&mut app, &[KeyCode::Down]);
    assert!(shown(&app, 80, 24).0[4].contains("swap"));
    press(&mut app, &[KeyCode::Esc]);
    assert_eq!(app.mode, Mode::Mappings);
}

#[test]
fn any_size_is_drawn_without_a_line_too_many() {
    let mut app = app();
    for mode in [Mode::Mappings, Mode::Filter, Mode::Pages] {
        app.mode = mode;
        for (width, height) in [(1, 1), (39, 24), (40, 8), (50, 12), (80, 9), (300, 100)] {
            let lines = lines(&app, width, height);
            assert!(lines.len() <= usize::from(height), "{width}x{height}");
            shown(&app, width, height);
        }
    }
    let (lines, _) = shown(&app, 20, 5);
    assert_eq!(lines[0], "v2p top: the termina");
}

#[test]
fn a_name_cannot_steer_the_terminal() {
    let mut app = app();
    app.subject.comm = "a\u{1b}[2Jb".to_owned();
    app.sampled(vec![sampled(0x1000, 1, "/tmp/x\u{1b}[31m", 1, 0)]);
    let (lines, _) = shown(&app, 80, 24);
    assert!(
        lines[0].contains("a\\u{1b}[2Jb") && lines[8].contains("x\\u{1b}[31m"),
        "{lines:#?}"
    );
}
