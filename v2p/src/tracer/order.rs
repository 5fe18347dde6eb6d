//! Events of the ring and of all lanes, in one order by number. Pure.

use v2p_common::event::Event;

/// Puts them in order, and keeps those for later that an older one may be missing in front of.
///
/// A program takes the number of its event first and publishes it then. Where it is stalled in between, in front of it in the ring nothing is
/// read any more, but the lanes are: so what came before it there is missing too.
#[derive(Default)]
pub(super) struct Order {
    /// Those that were kept.
    kept: Vec<Event>,
    /// The number that is to come.
    next: u64,
    /// Numbers below this were waited for.
    waited: u64,
    /// Numbers that never came, and that as many lost events account for.
    lost: u64,
}

impl Order {
    /// Those that were kept, which what is read now goes to.
    pub(super) fn take_kept(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.kept)
    }

    /// Gives those of `events` that are to be told, oldest first. `upto`: the number that was next before they were read: from that on an older
    /// one may have been left behind. `lost`: events that were lost by the time that they had been read.
    pub(super) fn told(&mut self, mut events: Vec<Event>, upto: u64, lost: u64) -> Vec<Event> {
        // Runs in order, mostly: this sort takes them as they are.
        events.sort_by_key(|event| event.header().seq);
        let read = events.iter().take_while(|event| event.header().seq < upto);
        let told = self.whole(read, upto, lost);
        self.kept = events.split_off(told);
        events
    }

    /// How many come before the first gap that is to be waited for: once, until the next time.
    fn whole<'e>(
        &mut self,
        events: impl Iterator<Item = &'e Event>,
        upto: u64,
        lost: u64,
    ) -> usize {
        let mut told = 0;
        for event in events {
            let seq = event.header().seq;
            match seq.checked_sub(self.next) {
                // It comes too late after all.
                None => self.lost = self.lost.saturating_sub(1),
                Some(gap) if self.lost + gap <= lost => self.lost += gap,
                Some(_) if self.next < self.waited => {}
                Some(_) => {
                    self.waited = upto;
                    break;
                }
            }
            self.next = self.next.max(seq + 1);
            told += 1;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use v2p_common::event::{Header, Number, kind};

    use super::*;

    /// What is told once these numbers were read, besides what was kept.
    fn told(order: &mut Order, read: &[u64], (upto, lost): (u64, u64)) -> Vec<u64> {
        let event = |seq: &u64| {
            let header = Header {
                kind: kind::MARKER,
                seq: *seq,
                ..Header::default()
            };
            Event::Marker(Number { header, number: 0 })
        };
        let mut events = order.take_kept();
        events.extend(read.iter().map(event));
        let told = order.told(events, upto, lost);
        told.iter().map(|event| event.header().seq).collect()
    }

    #[test]
    fn what_has_a_number_since_the_reading_began_waits_for_the_next() {
        let mut order = Order::default();
        assert_eq!(told(&mut order, &[2, 0, 1, 4, 3], (3, 0)), [0, 1, 2]);
        assert_eq!(told(&mut order, &[], (5, 0)), [3, 4]);
    }

    #[test]
    fn what_is_published_late_is_told_in_its_place() {
        let mut order = Order::default();
        assert_eq!(told(&mut order, &[0, 2, 3], (4, 0)), [0]);
        assert_eq!(told(&mut order, &[1, 4], (5, 0)), [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_published_later_still_keeps_nobody_waiting() {
        let mut order = Order::default();
        assert_eq!(told(&mut order, &[0, 2, 4], (5, 0)), [0]);
        // Of two gaps neither is waited for again.
        assert_eq!(told(&mut order, &[], (5, 0)), [2, 4]);
        assert_eq!(told(&mut order, &[1, 3, 5], (6, 0)), [1, 3, 5]);
        // One that comes then is.
        assert!(told(&mut order, &[7], (8, 0)).is_empty());
        assert_eq!(told(&mut order, &[6], (8, 0)), [6, 7]);
    }

    #[test]
    fn what_was_lost_is_not_waited_for() {
        let mut order = Order::default();
        assert_eq!(told(&mut order, &[0, 3], (4, 2)), [0, 3]);
        assert!(told(&mut order, &[6], (7, 3)).is_empty());
        // The account came a moment later.
        assert_eq!(told(&mut order, &[], (7, 4)), [6]);
        assert_eq!(told(&mut order, &[8], (9, 5)), [8]);
    }

    #[test]
    fn a_gap_that_was_taken_for_a_loss_elsewhere_accounts_for_that_later() {
        let mut order = Order::default();
        assert_eq!(told(&mut order, &[1], (2, 1)), [1]);
        assert_eq!(told(&mut order, &[0, 3], (4, 1)), [0, 3]);
    }
}
