//! Frames in bytes that are cut anywhere, and heads that no node of ours sends.

use super::*;

const PARTS: usize = 3;

fn ractors(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u64).to_be_bytes()[..], body].concat()
}

fn part(lane: usize, body: &[u8]) -> Vec<u8> {
    let ties = Ties::default();
    [&head(lane, ties, body.len())[..], body].concat()
}

fn plain(lane: usize, body: &[u8]) -> Frame {
    Frame {
        lane,
        ties: Ties::default(),
        body: body.to_vec(),
    }
}

/// What came of some bytes.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    ractors: Vec<u8>,
    carried: Vec<Carries>,
    parts: Vec<Frame>,
}

fn split(
    splitter: &mut Splitter,
    mut bytes: &[u8],
    ractor_max: usize,
    seen: &mut Seen,
) -> Result<(), Impossible> {
    while !bytes.is_empty() {
        let n = match splitter.next(bytes, ractor_max)? {
            Step::Ractor(n, carries) => {
                assert!(n <= ractor_max);
                seen.ractors.extend_from_slice(&bytes[..n]);
                seen.carried.extend(carries);
                n
            }
            Step::Part(n, frame) => {
                seen.parts.extend(frame);
                n
            }
        };
        assert!(n > 0, "every step goes on");
        bytes = &bytes[n..];
    }
    Ok(())
}

#[test]
fn frames_are_told_apart_however_they_are_cut() {
    let ractors = [
        ractors(&[0x0a]),
        ractors(&[0x12, 1, 2, 3]),
        ractors(&[0x1a; 300]),
    ];
    let bytes = [
        &ractors[0],
        &part(0, b"")[..],
        &part(2, &[1; 40]),
        &ractors[1],
        &ractors[2],
        &part(1, &[0x12; 300]),
    ]
    .concat();
    let expected = Seen {
        ractors: ractors.concat(),
        carried: vec![Carries::Auth, Carries::Node, Carries::Control],
        parts: vec![plain(0, b""), plain(2, &[1; 40]), plain(1, &[0x12; 300])],
    };
    for cut in 1..=bytes.len() {
        for ractor_max in [1, 8, usize::MAX] {
            let mut splitter = Splitter::new(PARTS);
            let mut seen = Seen::default();
            for some in bytes.chunks(cut) {
                split(&mut splitter, some, ractor_max, &mut seen).unwrap();
            }
            assert_eq!(seen, expected, "cut at {cut}, {ractor_max} at once");
        }
    }
}

#[test]
fn impossible_heads_are_refused_wherever_they_are_cut() {
    let long = u32::try_from(PAYLOAD_MAX + 1).unwrap().to_be_bytes();
    let [a, b, c, d] = long;
    for (bytes, expected) in [
        (ractors(&[]), Impossible::Malformed),
        (ractors(&[0x22, 0]), Impossible::Malformed),
        (ractors(&[PART, 0]), Impossible::Malformed),
        (
            (FRAME_MAX + 1).to_be_bytes().to_vec(),
            Impossible::Oversized,
        ),
        (b"GET / HT".to_vec(), Impossible::Oversized),
        (vec![2, 0, 0, 0, 0, 0, 0, 1], Impossible::Oversized),
        (
            vec![PART, PARTS as u8, 0, 0, 0, 0, 0, 1],
            Impossible::Malformed,
        ),
        (vec![PART, 255, 0, 0, 0, 0, 0, 1], Impossible::Malformed),
        (vec![PART, 0, 4, 0, 0, 0, 0, 1], Impossible::Malformed),
        (vec![PART, 0, 0, 1, 0, 0, 0, 1], Impossible::Malformed),
        (vec![PART, 0, 0, 0, a, b, c, d], Impossible::Oversized),
        (
            vec![PART, 0, 0, 0, 255, 255, 255, 255],
            Impossible::Oversized,
        ),
    ] {
        let after = [part(0, b"before"), bytes].concat();
        for cut in 1..after.len() {
            let mut splitter = Splitter::new(PARTS);
            let mut seen = Seen::default();
            let result = after
                .chunks(cut)
                .try_for_each(|some| split(&mut splitter, some, usize::MAX, &mut seen));
            assert_eq!(result, Err(expected), "{after:?}, cut at {cut}");
            assert_eq!(seen.parts, [plain(0, b"before")]);
        }
    }
}

#[test]
fn a_frame_says_what_it_is_tied_to() {
    let mut seen = Seen::default();
    for bits in 0..4 {
        let bytes = [PART, 2, bits, 0, 0, 0, 0, 1, 7];
        split(&mut Splitter::new(PARTS), &bytes, 8, &mut seen).unwrap();
        let ties = Ties {
            asks: bits & 1 != 0,
            answers: bits & 2 != 0,
        };
        assert_eq!(seen.parts.pop().map(|frame| frame.ties), Some(ties));
        assert_eq!(head(2, ties, 1), bytes[..8]);
    }
}

#[test]
fn the_longest_frames_are_possible() {
    let mut splitter = Splitter::new(PARTS);
    let mut seen = Seen::default();
    assert_eq!(
        split(&mut splitter, &FRAME_MAX.to_be_bytes(), 8, &mut seen),
        Ok(())
    );
    let mut splitter = Splitter::new(PARTS);
    assert_eq!(
        split(
            &mut splitter,
            &head(2, Ties::default(), PAYLOAD_MAX),
            8,
            &mut seen
        ),
        Ok(())
    );
}

#[test]
fn memory_grows_by_what_arrives() {
    let mut splitter = Splitter::new(PARTS);
    let mut seen = Seen::default();
    let begun = [&head(2, Ties::default(), PAYLOAD_MAX)[..], &[7; 100]].concat();
    split(&mut splitter, &begun, 8, &mut seen).unwrap();
    assert!(splitter.part.body.capacity() < 1024);
    assert_eq!(seen, Seen::default());
}

#[test]
fn without_parts_no_such_frame_is_possible() {
    let mut splitter = Splitter::new(0);
    assert_eq!(
        splitter.next(&part(0, b"x"), usize::MAX),
        Err(Impossible::Malformed)
    );
}
