//! What a harness of tests prints: cargo's own, and libtest-mimic's, which has the same form.

use std::fmt;

/// What a test of cargo's own harness prints where it cannot be done here, with the reason.
const SKIPPED: &str = "skipped: ";
/// How many lines of a failure the closing summary has.
const LINES_A_FAILURE: usize = 12;

/// Passed, failed, skipped.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// What a harness's output says; `None` where its closing line is missing: it crashed. A test of cargo's own harness cannot say that it was skipped,
    /// and passes; it prints so.
    pub(crate) fn of(output: &str) -> Option<Self> {
        let line = output
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix("test result: "))?;
        let number = |what: &str| -> Option<u64> {
            let before = line.split(what).next()?;
            before.split_whitespace().next_back()?.parse().ok()
        };
        let told = output.lines().filter(|line| line.starts_with(SKIPPED));
        let told = told.count() as u64;
        Some(Self {
            passed: number(" passed")?.saturating_sub(told),
            failed: number(" failed")?,
            skipped: number(" ignored")? + told,
        })
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// What cargo's own harness printed; of tests that passed no more than that they were skipped.
pub(crate) fn without_successes(text: &str) -> String {
    let mut passed = false;
    let kept = text.lines().filter(|line| {
        match *line {
            "successes:" => passed = true,
            "failures:" => passed = false,
            line if line.starts_with("test result: ") => passed = false,
            _ => {}
        }
        !passed || line.starts_with(SKIPPED)
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// What failed, each with the first lines of what it said: for the end, where a person looks, and where alone a log that was cut still has it.
/// The last lines of a harness that crashed.
pub(crate) fn failures(output: &str) -> Vec<String> {
    let lines = output.lines().filter(|line| !line.trim().is_empty());
    if Count::of(output).is_none() {
        let last: Vec<_> = lines.rev().take(LINES_A_FAILURE).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        return vec![last.join("\n")];
    }
    let mut failures: Vec<Vec<&str>> = Vec::new();
    let mut inside = false;
    for line in lines {
        if line.starts_with("---- ") && line.ends_with(" ----") {
            inside = true;
            failures.push(vec![line]);
        } else if line == "failures:" {
            inside = false;
        } else if let Some(failure) = failures.last_mut()
            && inside
            && failure.len() <= LINES_A_FAILURE
        {
            failure.push(line);
        }
    }
    failures.iter().map(|lines| lines.join("\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_a_harness_is_counted() {
        let output = "test a ... ok\ntest result: ok. 12 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out\n";
        let count = Count {
            passed: 12,
            failed: 1,
            skipped: 3,
        };
        assert_eq!(Count::of(output), Some(count));
        assert_eq!(count.to_string(), "12 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn what_was_skipped_and_passed_is_counted_as_skipped() {
        let output = "test a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- a stdout ----\nskipped: no root\n\n\nsuccesses:\n    a\n    b\n\n\
                      test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let kept = without_successes(output);
        assert!(
            !kept.contains("stdout") && !kept.contains("    a"),
            "{kept}"
        );
        let count = Count::of(&kept).unwrap();
        assert_eq!(count.to_string(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_harness_that_crashed_has_no_count() {
        assert_eq!(Count::of("running 3 tests\nSegmentation fault\n"), None);
    }

    #[test]
    fn what_failed_is_told_with_its_first_words() {
        let long = "word\n".repeat(30);
        let output = format!(
            "test a ... FAILED\ntest b ... FAILED\n\nfailures:\n\n---- a ----\na went\nwrong\n\n---- b ----\n{long}\n\nfailures:\n    a\n    b\n\n\
             test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n"
        );
        let failures = failures(&output);
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert_eq!(failures[0], "---- a ----\na went\nwrong");
        assert_eq!(failures[1].lines().count(), 1 + LINES_A_FAILURE);
    }

    #[test]
    fn of_a_harness_that_crashed_the_last_words_are_told() {
        assert_eq!(
            failures("running 3 tests\n\nSegmentation fault\n"),
            ["running 3 tests\nSegmentation fault"]
        );
    }
}
