//! What became of a stream. Pure.

use cutover_engine::BootTime;
use std::time::Duration;

/// Every datagram of a stream: when it was sent, and when its answer came, if one did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatagramRecord {
    datagrams: Vec<(BootTime, Option<BootTime>)>,
    /// Answers to what had been answered.
    repeated: usize,
    /// First answers that came after one to a later datagram.
    overtaken: usize,
}

impl DatagramRecord {
    pub(super) fn new(sent: Vec<BootTime>, answered: &[(usize, BootTime)]) -> Self {
        let mut datagrams: Vec<_> = sent.into_iter().map(|at| (at, None)).collect();
        let (mut repeated, mut overtaken, mut highest) = (0, 0, None);
        for (number, at) in answered {
            match datagrams.get_mut(*number) {
                Some((_, first @ None)) => {
                    *first = Some(*at);
                    overtaken += usize::from(highest > Some(*number));
                    highest = highest.max(Some(*number));
                }
                Some(_) => repeated += 1,
                None => {}
            }
        }
        Self { datagrams, repeated, overtaken }
    }

    /// How many were sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.datagrams.len()
    }

    /// When those were sent that were never answered.
    pub fn lost(&self) -> impl Iterator<Item = BootTime> + '_ {
        self.datagrams.iter().filter(|(_, answer)| answer.is_none()).map(|(sent, _)| *sent)
    }

    /// When those were sent that were answered.
    pub fn answered(&self) -> impl Iterator<Item = BootTime> + '_ {
        self.datagrams.iter().filter(|(_, answer)| answer.is_some()).map(|(sent, _)| *sent)
    }

    /// How many of those that were sent at this time or later were never answered.
    #[must_use]
    pub fn lost_since(&self, time: BootTime) -> usize {
        self.lost().filter(|sent| *sent >= time).count()
    }

    /// Whether no answer overtook one to an earlier datagram.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        let answers: Vec<_> = self.datagrams.iter().filter_map(|(_, answer)| *answer).collect();
        answers.is_sorted()
    }

    /// How many answers came to datagrams that had been answered.
    #[must_use]
    pub const fn repeated(&self) -> usize {
        self.repeated
    }

    /// How many first answers came after one to a later datagram, in the order in which the client's process had them.
    #[must_use]
    pub const fn overtaken(&self) -> usize {
        self.overtaken
    }

    /// The runs of lost datagrams, one after the other. All go the same way: a guest that stopped in one place and went on in another
    /// leaves one gap.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        let mut is_open = false;
        for (sent, answer) in &self.datagrams {
            let is_lost = answer.is_none();
            match gaps.last_mut() {
                Some(gap) if is_open && is_lost => (gap.last, gap.count) = (*sent, gap.count + 1),
                _ if is_lost => gaps.push(Gap { first: *sent, last: *sent, count: 1 }),
                _ => {}
            }
            is_open = is_lost;
        }
        gaps
    }

    /// When the first answer came to a datagram that was sent at this time or later.
    #[must_use]
    pub fn first_answer_to_sent_since(&self, time: BootTime) -> Option<BootTime> {
        self.datagrams.iter().filter(|(sent, _)| *sent >= time).filter_map(|(_, answer)| *answer).min()
    }

    /// When the first answer came at this time or later, whenever its question was sent.
    #[must_use]
    pub fn first_answer_since(&self, time: BootTime) -> Option<BootTime> {
        self.answers().filter(|answer| *answer >= time).min()
    }

    /// When the last answer came before this time.
    #[must_use]
    pub fn last_answer_before(&self, time: BootTime) -> Option<BootTime> {
        self.answers().filter(|answer| *answer < time).max()
    }

    /// The longest time without any answer between two answers.
    #[must_use]
    pub fn longest_silence(&self) -> Duration {
        let mut answers: Vec<BootTime> = self.answers().collect();
        answers.sort_unstable();
        answers.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
    }

    fn answers(&self) -> impl Iterator<Item = BootTime> + '_ {
        self.datagrams.iter().filter_map(|(_, answer)| *answer)
    }
}

/// Datagrams that were sent one after the other and never answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// When the first one was sent.
    pub first: BootTime,
    /// When the last one was sent.
    pub last: BootTime,
    /// How many there are.
    pub count: usize,
}

/// What came back on a byte stream that counts in steps of eight.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ByteRecord {
    received: u64,
    partial: Vec<u8>,
    last_at: BootTime,
    longest_silence: Duration,
}

impl ByteRecord {
    pub(super) fn new(connected_at: BootTime) -> Self {
        Self { received: 0, partial: Vec::new(), last_at: connected_at, longest_silence: Duration::ZERO }
    }

    /// # Panics
    /// When these are not the bytes that come next.
    pub(super) fn arrived(&mut self, at: BootTime, bytes: &[u8]) {
        self.longest_silence = self.longest_silence.max(at.since(self.last_at));
        self.last_at = at;
        self.partial.extend_from_slice(bytes);
        let whole = self.partial.len() / 8 * 8;
        for number in self.partial.drain(..whole).collect::<Vec<u8>>().chunks_exact(8) {
            let number = u64::from_be_bytes(number.try_into().expect("eight bytes"));
            assert_eq!(number, self.received, "the stream is out of order");
            self.received += 8;
        }
    }

    /// How many bytes came back.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received + u64::try_from(self.partial.len()).expect("less than eight")
    }

    /// The longest time without anything.
    #[must_use]
    pub fn longest_silence(&self) -> Duration {
        self.longest_silence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> BootTime {
        BootTime(value * 1_000_000)
    }

    #[test]
    fn what_was_not_answered_is_lost_and_counted_by_the_time_it_was_sent() {
        let sent = (0..6).map(ms).collect();
        // 0 and 1 answered, 2 and 3 lost, 4 answered twice, 5 answered; an answer to something unknown.
        let answered = [(0, ms(1)), (1, ms(2)), (4, ms(9)), (4, ms(10)), (5, ms(8)), (99, ms(11))];
        let record = DatagramRecord::new(sent, &answered);
        assert_eq!(record.sent(), 6);
        assert_eq!((record.repeated(), record.overtaken()), (1, 0));
        assert_eq!(record.lost().collect::<Vec<_>>(), [ms(2), ms(3)]);
        assert_eq!(record.answered().collect::<Vec<_>>(), [ms(0), ms(1), ms(4), ms(5)]);
        assert_eq!((record.lost_since(ms(3)), record.lost_since(ms(4))), (1, 0));
        assert_eq!(record.gaps().len(), 1);
        assert_eq!(record.longest_silence(), Duration::from_millis(6));
        assert_eq!(record.last_answer_before(ms(5)), Some(ms(2)));
        assert_eq!(record.first_answer_since(ms(5)), Some(ms(8)));
        assert_eq!(record.first_answer_to_sent_since(ms(4)), Some(ms(8)));
        assert_eq!(record.first_answer_since(ms(50)), None);
    }

    #[test]
    fn an_answer_that_comes_after_a_later_one_is_counted_and_one_that_comes_again_is_not_late() {
        let record = |answered: &[usize]| {
            let answered: Vec<_> = answered.iter().map(|number| (*number, ms(100))).collect();
            let record = DatagramRecord::new((0..6).map(ms).collect(), &answered);
            (record.overtaken(), record.repeated())
        };
        assert_eq!(record(&[0, 1, 2, 5]), (0, 0));
        assert_eq!(record(&[2, 0, 1, 3]), (2, 0));
        assert_eq!(record(&[0, 1, 2, 0, 0, 3]), (0, 2));
        assert_eq!(record(&[3, 3, 1, 1, 4]), (1, 2));
    }

    #[test]
    fn each_run_of_lost_datagrams_is_a_gap() {
        let gaps = |answered: &[usize]| {
            let answered: Vec<_> = answered.iter().map(|number| (*number, ms(100))).collect();
            DatagramRecord::new((0..6).map(ms).collect(), &answered).gaps()
        };
        let gap = |first, last, count| Gap { first: ms(first), last: ms(last), count };
        assert_eq!(gaps(&[0, 1, 2, 3, 4, 5]), []);
        assert_eq!(gaps(&[]), [gap(0, 5, 6)]);
        assert_eq!(gaps(&[2, 3]), [gap(0, 1, 2), gap(4, 5, 2)]);
        assert_eq!(gaps(&[0, 2, 4]), [gap(1, 1, 1), gap(3, 3, 1), gap(5, 5, 1)]);
    }

    #[test]
    fn bytes_count_wherever_they_are_cut() {
        let mut record = ByteRecord::new(ms(0));
        let bytes: Vec<u8> = [0_u64, 8, 16].into_iter().flat_map(u64::to_be_bytes).collect();
        record.arrived(ms(1), &bytes[..3]);
        record.arrived(ms(7), &bytes[3..17]);
        assert_eq!(record.received(), 17);
        record.arrived(ms(8), &bytes[17..]);
        assert_eq!((record.received(), record.longest_silence()), (24, Duration::from_millis(6)));
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn bytes_out_of_order_are_noticed() {
        ByteRecord::new(ms(0)).arrived(ms(1), &8_u64.to_be_bytes());
    }
}
