//! The answers to the last few questions, where the next one is mostly one of those.

/// So many are kept.
const KEPT: usize = 16;

/// Questions with their answers, the last one first.
pub(crate) struct Recent<K, V>(Vec<(K, V)>);

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K, V> Recent<K, V> {
    /// The answer to the question that `is_it` knows; where it was not asked lately, `answer` gives both.
    pub(crate) fn get(
        &mut self,
        is_it: impl Fn(&K) -> bool,
        answer: impl FnOnce() -> (K, V),
    ) -> Option<&V> {
        match self.0.iter().position(|(key, _)| is_it(key)) {
            Some(place) => self.0.swap(0, place),
            None => {
                self.0.truncate(KEPT - 1);
                self.0.insert(0, answer());
            }
        }
        self.0.first().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_lately_is_not_worked_out_again() {
        let mut recent = Recent::default();
        let mut worked = Vec::new();
        let mut ask = |n: usize| {
            let answer = recent.get(
                |known| *known == n,
                || {
                    worked.push(n);
                    (n, n * n)
                },
            );
            assert_eq!(answer, Some(&(n * n)));
        };
        [1, 2, 1, 2].into_iter().for_each(&mut ask);
        (3..3 + KEPT).for_each(&mut ask);
        ask(2);
        assert_eq!(worked.len(), 2 + KEPT + 1);
        assert_eq!(worked.last(), Some(&2));
    }
}
