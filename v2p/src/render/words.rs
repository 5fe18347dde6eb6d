//! Numbers, amounts and names as people read them, in every view alike. Pure.

use crate::record::Cause;

/// A number with a comma at every thousand.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// So many of a thing, called by its word for one.
pub fn count(n: u64, one: &str) -> String {
    match (n, one.ends_with('s')) {
        (1, _) => format!("1 {one}"),
        (_, true) => format!("{n} {one}es"),
        (_, false) => format!("{n} {one}s"),
    }
}

/// Hooks that are missing, those with the same reason in one line.
pub(super) fn missing<'a>(hooks: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (hook, why) in hooks {
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, hooks)) => hooks.push(hook),
            None => reasons.push((why, vec![hook])),
        }
    }
    let line = |(why, hooks): (&str, Vec<&str>)| format!("missing: {}: {why}", hooks.join(", "));
    reasons.into_iter().map(line).collect()
}

/// An amount of memory with at most three digits before the point.
pub fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    while unit + 1 < units.len() && n >= 1024 << (10 * (unit + 1)) {
        unit += 1;
    }
    let tenths = (u128::from(n) * 10) >> (10 * (unit + 1));
    let name = units.get(unit).copied().unwrap_or_default();
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        rest => format!("{}.{rest} {name}", tenths / 10),
    }
}

/// A cause, with its reason where there is one.
pub fn cause_text(cause: Cause, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{cause}:{reason}"),
        None => cause.to_string(),
    }
}

/// The last part of a path; other names as they are.
pub fn file_name(name: &str) -> &str {
    let last = name
        .strip_prefix('/')
        .and_then(|path| path.rsplit('/').next());
    last.filter(|last| !last.is_empty()).unwrap_or(name)
}

/// What a mapping is called that has this name in /proc/PID/maps.
pub fn mapping_name(name: &str) -> &str {
    match name {
        "" => "(anonymous)",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_people_read_them() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0, 4096, 1 << 20, 3 << 29, 24 << 30, 1 << 44].map(bytes),
            ["0 KiB", "4 KiB", "1 MiB", "1.5 GiB", "24 GiB", "16 TiB"]
        );
    }

    #[test]
    fn one_is_not_many() {
        let pages = [0, 1, 2].map(|n| count(n, "page"));
        assert_eq!(pages, ["0 pages", "1 page", "2 pages"]);
        assert_eq!(count(2, "process"), "2 processes");
    }

    #[test]
    fn what_is_missing_for_the_same_reason_is_one_line() {
        let lines = missing([("a", "refused"), ("b", "absent"), ("c", "refused")]);
        assert_eq!(lines, ["missing: a, c: refused", "missing: b: absent"]);
    }

    #[test]
    fn a_path_is_called_by_its_last_part() {
        assert_eq!(
            ["/usr/bin/x", "[heap]", "/", "", "a/b"].map(file_name),
            ["x", "[heap]", "/", "", "a/b"]
        );
    }
}
