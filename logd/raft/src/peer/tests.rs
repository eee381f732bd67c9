use super::*;

fn some_id(index: u64) -> Option<LogId> {
    Some(LogId { term: 3, leader_node: None, index })
}

fn some_entry(index: u64, payload: &'static [u8]) -> Entry {
    let payload = Bytes::from_static(payload);
    Entry { index, term: 2, leader_node: None, kind: EntryKind::Normal, payload }
}

fn questions() -> Vec<Question> {
    let vote = Vote { term: 7, voted_for: Some(2), committed: true };
    let last = LogId { term: 3, leader_node: None, index: 9 };
    let bytes = Bytes::from_static(b"chunk");
    vec![
        Question::Append { vote, previous: None, committed: None, entries: Vec::new() },
        Question::Append {
            vote,
            previous: some_id(4),
            committed: some_id(3),
            entries: vec![some_entry(5, b"five"), some_entry(6, b"")],
        },
        Question::Elect { vote, last: some_id(8), handed_over: true },
        Question::WouldElect { vote, last: None },
        Question::Begin { transfer: 1, vote, last, meta: bytes.clone(), state_bytes: 11 },
        Question::State { transfer: 1, at: 0, bytes: bytes.clone() },
        Question::Live { transfer: 1, at: 5, bytes },
        Question::Install { transfer: 1, vote },
        Question::Clock,
        Question::HandOver { vote, to: 3, last: some_id(9) },
    ]
}

fn answers() -> Vec<Answer> {
    let vote = Vote { term: 7, voted_for: Some(2), committed: false };
    vec![
        Answer::Appended,
        Answer::AppendedUpto(some_id(3)),
        Answer::AppendedUpto(None),
        Answer::Conflict,
        Answer::Outvoted(vote),
        Answer::Voted { vote, granted: true, last: some_id(1) },
        Answer::Ready { above: 5 },
        Answer::Taken,
        Answer::Installed { vote },
        Answer::Refused,
    ]
}

#[test]
fn frames_come_back() {
    for question in questions() {
        assert_eq!(Question::decode(&question.encode()).as_ref(), Ok(&question));
    }
    for answer in answers() {
        assert_eq!(Answer::decode(&answer.encode(77)), Ok((answer, 77)));
    }
}

/// Cut, flipped and random bytes are refused or are something else; nothing panics, nothing large is allocated.
#[test]
fn damaged_frames_do_no_harm() {
    let frames = questions().iter().map(Question::encode).collect::<Vec<_>>();
    let answers = answers().iter().map(|a| a.encode(77)).collect::<Vec<_>>();
    let mut random = 1u64;
    for frame in frames.iter().chain(&answers) {
        for cut in 0..frame.len() {
            let _ = Question::decode(&frame.slice(..cut));
            assert!(Answer::decode(&frame.slice(..cut)).is_err());
        }
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = Bytes::from(flipped);
            let _ = (Question::decode(&flipped), Answer::decode(&flipped));
        }
        for _ in 0..1_000 {
            let mut noise = frame.to_vec();
            for byte in &mut noise[2..] {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (random >> 33) as u8;
            }
            let noise = Bytes::from(noise);
            let _ = (Question::decode(&noise), Answer::decode(&noise));
        }
    }
    let append = |entries| Question::Append {
        vote: Vote { voted_for: Some(1), ..Vote::default() },
        previous: None,
        committed: None,
        entries,
    };
    let twice = append(vec![some_entry(5, b""), some_entry(5, b"")]).encode();
    assert!(Question::decode(&twice).is_err(), "indexes must grow");
    let many = (0..=FRAME_ENTRIES_MAX as u64).map(|index| some_entry(index, b"")).collect();
    assert!(Question::decode(&append(many).encode()).is_err(), "entries are bounded");
}
