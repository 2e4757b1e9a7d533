//! The frames of a WebSocket, RFC 6455 section 5.2: what of a message that is not whole has been read, and what has been written.

/// The longest head of a frame: two bytes, a length of eight, a mask of four.
const MAX_HEAD: usize = 14;

/// The fragments of a message that may be as short as they like.
const FRAGMENTS: usize = 4096;

/// The average length, with its head, that the fragments of a longer message need.
const FRAGMENT_LENGTH: usize = 16;

/// Of a message that is read, a buffer of this size is kept for the next message.
const SMALL: usize = 4096;

/// The most that is reserved for the rest of a frame.
const AHEAD: u64 = 16 << 20;

/// A frame that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// More fragments of the message follow.
    Fragment,
    /// The message is whole.
    Message,
    /// A Ping or a Pong, also between two fragments.
    Control,
    Close,
}

/// The place in a sequence of frames.
#[derive(Debug, Default)]
struct Frames {
    /// The first bytes of the frame, as far as they are needed and known.
    head: [u8; MAX_HEAD],
    known: usize,
    /// The bytes of the payload that have not come yet, once the head is whole.
    missing: Option<u64>,
}

impl Frames {
    /// Goes on to the end of a frame, or of `data`. Returns the number of bytes up to there.
    #[inline]
    fn follow(&mut self, data: &[u8]) -> (usize, Option<End>) {
        let (at, missing) = match self.missing {
            Some(missing) => (0, missing),
            None => match self.follow_head(data) {
                Ok(head) => head,
                Err(at) => return (at, None),
            },
        };
        let count = missing.min((data.len() - at) as u64);
        let at = at + count as usize;
        if count < missing {
            self.missing = Some(missing - count);
            return (at, None);
        }
        (self.known, self.missing) = (0, None);
        let end = match self.head[0] {
            first if first & 0x0f == 8 => End::Close,
            first if first & 0x08 != 0 => End::Control,
            first if first & 0x80 != 0 => End::Message,
            _ => End::Fragment,
        };
        (at, Some(end))
    }

    /// Goes on to the end of the head. Returns the number of bytes up to there, and the length of the payload; or that number alone
    /// if the head is not whole.
    #[inline]
    fn follow_head(&mut self, data: &[u8]) -> Result<(usize, u64), usize> {
        if self.known == 0 && data.len() >= MAX_HEAD {
            self.head[0] = data[0];
            self.known = 1;
            return Ok((head_length(data), payload_length(data)));
        }
        let mut at = 0;
        loop {
            let head = &self.head[..self.known];
            let length = head_length(head);
            if length == head.len() {
                return Ok((at, payload_length(head)));
            }
            let count = (length - head.len()).min(data.len() - at);
            if count == 0 {
                return Err(at);
            }
            self.head[self.known..][..count].copy_from_slice(&data[at..][..count]);
            self.known += count;
            at += count;
        }
    }

    fn is_between_frames(&self) -> bool {
        self.known == 0
    }
}

/// The length of the head with these first bytes, or as far as they tell.
fn head_length(known: &[u8]) -> usize {
    let Some(second) = known.get(1) else { return 2 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + usize::from(second >> 7) * 4
}

/// The length of the payload after a whole head.
fn payload_length(head: &[u8]) -> u64 {
    let length = match head[1] & 0x7f {
        126 => &head[2..4],
        127 => &head[2..10],
        _ => return u64::from(head[1] & 0x7f),
    };
    length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte))
}

/// What is read of a WebSocket. The bytes of the message that is not whole are kept.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    frames: Frames,
    /// The frames of the message that is not whole, without the control frames between them.
    kept: Vec<u8>,
    /// Where the last of these frames begins.
    frame_at: usize,
    fragments: usize,
    /// The message has too many fragments to be kept.
    is_lost: bool,
    is_closed: bool,
}

impl Inbound {
    /// Takes note of the next bytes. Only those of the message that is not whole after them are copied.
    pub(super) fn note(&mut self, read: &[u8]) {
        // The bytes in between belong to the message and are not copied yet.
        let (mut from, mut at) = (0, 0);
        while at < read.len() {
            let (count, end) = self.frames.follow(&read[at..]);
            at += count;
            match end {
                None => {}
                Some(End::Fragment) => {
                    self.fragments += 1;
                    self.frame_at = self.kept.len() + at - from;
                    // Without this limit a peer could send fragments without a payload, which no limit of messages counts.
                    if self.is_lost || self.fragments > FRAGMENTS + self.frame_at / FRAGMENT_LENGTH {
                        self.clear();
                        self.is_lost = true;
                        from = at;
                    }
                }
                Some(End::Message) => {
                    self.clear();
                    (self.fragments, self.is_lost) = (0, false);
                    from = at;
                }
                Some(End::Control | End::Close) => {
                    self.is_closed |= end == Some(End::Close);
                    // It has been read for itself. The message goes on after it.
                    match self.frame_at.checked_sub(self.kept.len()) {
                        Some(before) => self.kept.extend_from_slice(&read[from..][..before]),
                        None => self.kept.truncate(self.frame_at),
                    }
                    from = at;
                }
            }
        }
        if !self.is_lost && from < read.len() {
            if self.kept.capacity() - self.kept.len() < read.len() - from {
                // At once for the whole frame. What is not used of it takes no memory.
                let missing = self.frames.missing.map_or(0, |missing| missing.min(AHEAD) as usize);
                self.kept.reserve(read.len() - from + missing);
            }
            self.kept.extend_from_slice(&read[from..]);
        }
    }

    fn clear(&mut self) {
        self.frame_at = 0;
        if self.kept.capacity() > SMALL {
            self.kept = Vec::new();
        } else {
            self.kept.clear();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether no Close has been read, and all that was read of a message is kept.
    pub(super) fn can_move(&self) -> bool {
        !self.is_closed && !self.is_lost
    }

    /// What was read of the message that is not whole.
    pub(super) fn into_kept(self) -> Vec<u8> {
        self.kept
    }
}

/// What is written to a WebSocket.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    frames: Frames,
    is_in_message: bool,
    is_closed: bool,
}

impl Outbound {
    /// Takes note of the next bytes.
    pub(super) fn note(&mut self, mut written: &[u8]) {
        while !written.is_empty() {
            let (count, end) = self.frames.follow(written);
            written = &written[count..];
            match end {
                None | Some(End::Control) => {}
                Some(End::Fragment) => self.is_in_message = true,
                Some(End::Message) => self.is_in_message = false,
                Some(End::Close) => self.is_closed = true,
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether no Close has been written, and every message is whole.
    pub(super) fn can_move(&self) -> bool {
        !self.is_closed && !self.is_in_message && self.frames.is_between_frames()
    }
}

/// The kinds of frames that [`put`] writes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opcode {
    Text = 1,
    Binary = 2,
    Pong = 10,
}

/// Appends a whole message as a client sends it, with a mask of zeros.
pub(super) fn put(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode as u8);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u8 = 1;
    const CONTINUATION: u8 = 0;
    const CLOSE: u8 = 8;
    const PING: u8 = 9;

    fn frame(is_last: bool, opcode: u8, length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        put(Opcode::Text, &vec![b'x'; length], &mut out);
        out[0] = u8::from(is_last) << 7 | opcode;
        out
    }

    fn kept(read: &[u8], piece: usize) -> Vec<u8> {
        let mut inbound = Inbound::default();
        read.chunks(piece).for_each(|piece| inbound.note(piece));
        assert!(inbound.can_move());
        inbound.into_kept()
    }

    #[test]
    fn a_message_is_kept_until_it_is_whole() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let whole = frame(true, TEXT, length);
            let read = [&whole[..], &whole].concat();
            for end in (0..24).chain(whole.len() - 2..whole.len() + 24).filter(|end| *end <= read.len()) {
                for piece in [1, 7, 1024, read.len()] {
                    let left = if end < whole.len() { end } else { end - whole.len() };
                    let left = if left == whole.len() { 0 } else { left };
                    assert!(
                        kept(&read[..end], piece) == whole[..left],
                        "{length}: {end} in pieces of {piece}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_control_frames_between_fragments_are_left_out() {
        let (first, second) = (frame(false, TEXT, 200), frame(false, CONTINUATION, 3));
        let last = frame(true, CONTINUATION, 9);
        let ping = frame(true, PING, 20);
        let read = [&ping[..], &first, &ping, &ping, &second, &ping, &last[..7]].concat();
        for piece in 1..read.len() {
            assert_eq!(kept(&read, piece), [&first[..], &second, &last[..7]].concat(), "{piece}");
            assert_eq!(
                kept(&read[..read.len() - 8], piece).len(),
                first.len() + second.len() + ping.len() - 1
            );
            assert_eq!(kept(&[&read[..], &last[7..]].concat(), piece), [0; 0]);
        }
    }

    #[test]
    fn the_buffer_of_a_long_message_goes_with_it() {
        let mut inbound = Inbound::default();
        let message = frame(true, TEXT, 1 << 20);
        let (most, rest) = message.split_at(message.len() - 1);
        inbound.note(most);
        assert!(inbound.kept.capacity() >= most.len());
        inbound.note(rest);
        assert!(inbound.kept.capacity() <= SMALL);
    }

    /// tungstenite refuses it.
    #[test]
    fn a_length_that_is_a_lie_costs_nothing() {
        let read = [&[0x82, 0xff][..], &[0xff; 8], &[0; 5]].concat();
        for piece in [1, read.len()] {
            assert_eq!(kept(&read, piece), read);
        }
    }

    /// No limit of tungstenite counts fragments.
    #[test]
    fn fragments_without_a_payload_are_not_kept_for_ever() {
        for length in [0, 1, 4] {
            let mut inbound = Inbound::default();
            inbound.note(&frame(false, TEXT, length));
            let read = frame(false, CONTINUATION, length).repeat(100);
            for _ in 0..1000 {
                inbound.note(&read);
                assert!(inbound.kept.len() < 128 * 1024);
            }
            assert!(!inbound.can_move());
            inbound
                .note(&[frame(true, PING, 1), frame(true, CONTINUATION, 1), frame(true, TEXT, 1)].concat());
            assert!(inbound.can_move());
            inbound.note(&read[..3]);
            assert_eq!(inbound.into_kept(), read[..3]);
        }
        // Those that have one are.
        let mut inbound = Inbound::default();
        inbound.note(&frame(false, TEXT, 20).repeat(100_000));
        assert!(inbound.can_move());
    }

    #[test]
    fn a_close_and_an_unfinished_output_stay() {
        let mut inbound = Inbound::default();
        let close = frame(true, CLOSE, 2);
        inbound.note(&close[..close.len() - 1]);
        assert!(inbound.can_move());
        inbound.note(&close[close.len() - 1..]);
        assert!(!inbound.can_move());

        let mut outbound = Outbound::default();
        // A server has no mask.
        outbound.note(&[0x01, 1, b'a']);
        assert!(!outbound.can_move(), "a fragment");
        outbound.note(&[0x89, 0, 0x80, 1]);
        assert!(!outbound.can_move(), "a part of a frame");
        outbound.note(b"b");
        assert!(outbound.can_move());
        outbound.note(&[0x88, 0]);
        assert!(!outbound.can_move());
    }
}
