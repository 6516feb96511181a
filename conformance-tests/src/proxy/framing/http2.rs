//! HTTP/2, as gRPC uses it.

use super::{Conversation, Down, Up, length, u32_at};

#[derive(Debug, Default)]
pub(super) struct Http2 {
    greeted: bool,
}

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u64,
}

fn frame(bytes: &[u8]) -> Option<Frame> {
    let payload = length(u32_at(bytes, 0)? >> 8);
    let (kind, flags, stream) = (bytes[3], *bytes.get(4)?, u64::from(u32_at(bytes, 5)? & 0x7fff_ffff));
    (bytes.len() >= 9 + payload).then_some(Frame { length: 9 + payload, kind, flags, stream })
}

impl Conversation for Http2 {
    fn up(&mut self, bytes: &[u8]) -> Option<Up> {
        if !self.greeted {
            self.greeted = bytes.len() >= PREFACE;
            return self.greeted.then_some(Up { length: PREFACE, request: None, ..Up::default() });
        }
        let frame = frame(bytes)?;
        // An empty one only ends the stream.
        let asks = frame.kind == DATA && frame.length > 9;
        let of = |is: bool| is.then_some(frame.stream);
        Some(Up { length: frame.length, request: of(asks), takes_back: of(frame.kind == RST_STREAM) })
    }

    fn down(&mut self, bytes: &[u8]) -> Option<(usize, Down)> {
        let frame = frame(bytes)?;
        let ends = frame.flags & END_STREAM != 0;
        let answers = match frame.kind {
            DATA => frame.length > 9 || ends,
            // A refusal has no data.
            HEADERS => ends,
            RST_STREAM => true,
            _ => false,
        };
        Some((frame.length, if answers { Down::End(frame.stream) } else { Down::Other }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{downs, ups};
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let size = u8::try_from(payload.len()).expect("short");
        [&[0, 0, size, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    #[test]
    fn a_request_is_a_message_of_a_stream_and_pings_are_none() {
        let mut wire = Http2::default();
        let sent = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, b""),
            frame(HEADERS, 4, 1, b"head"),
            frame(DATA, 0, 1, b"key"),
            frame(DATA, END_STREAM, 1, b""),
            frame(6, 0, 0, b"12345678"),
            frame(DATA, END_STREAM, 3, b"key"),
        ];
        let asked: Vec<_> = ups(&mut wire, &sent.concat()).iter().map(|unit| unit.1).collect();
        assert_eq!(asked, [None, None, None, Some(1), None, None, Some(3)]);
        let replies = [
            frame(HEADERS, 4, 1, b"head"),
            frame(6, 1, 0, b"12345678"),
            frame(DATA, 0, 1, b"reply"),
            frame(HEADERS, 4 | END_STREAM, 3, b"refused"),
        ];
        let what: Vec<_> = downs(&mut wire, &replies.concat()).iter().map(|unit| unit.1).collect();
        assert_eq!(what, [Down::Other, Down::Other, Down::End(1), Down::End(3)]);
    }
}
