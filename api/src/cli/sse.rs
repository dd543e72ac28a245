//! Server-sent events as bytes come in (WHATWG HTML, "Server-sent events").
//!
//! Lines end with LF or CRLF; a lone CR, which the standard allows and no Kimberlite server sends, is not a line
//! end here.

/// Longest line: several times the largest event.
const LINE_BYTES_MAX: usize = 64 << 20;

/// One dispatched event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// The event's name; empty if the server gave none.
    pub(super) event: String,
    /// The id in this frame; empty if it has none.
    pub(super) id: String,
    /// The data, its lines joined by LF.
    pub(super) data: Vec<u8>,
}

impl Frame {
    fn clear(&mut self) {
        self.event.clear();
        self.id.clear();
        self.data.clear();
    }
}

/// A line that is longer than any server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of the event stream is longer than {LINE_BYTES_MAX} bytes")]
pub(super) struct LineTooLong;

/// Turns bytes into frames; unlike a browser's, also into frames that only move the id on. A frame that the
/// connection cuts off is never seen.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    /// Start of what is not decoded yet.
    start: usize,
    /// Up to here the buffer is known to hold no line end.
    searched: usize,
    pending: Frame,
}

impl Decoder {
    /// Takes what came in.
    ///
    /// # Errors
    /// [`LineTooLong`]: this is no event stream.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(LineTooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Puts the next whole frame into `frame`; false if more bytes are needed.
    pub(super) fn next(&mut self, frame: &mut Frame) -> bool {
        while let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
            let line = &self.buffer[self.start..self.searched + end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.start = self.searched + end + 1;
            self.searched = self.start;
            if !line.is_empty() {
                take_field(&mut self.pending, line);
            } else if self.pending != Frame::default() {
                std::mem::swap(frame, &mut self.pending);
                self.pending.clear();
                return true;
            }
        }
        self.searched = self.buffer.len();
        false
    }
}

fn take_field(frame: &mut Frame, line: &[u8]) {
    let (name, value) = match memchr::memchr(b':', line) {
        Some(colon) => (&line[..colon], &line[colon + 1..]),
        None => (line, &line[..0]),
    };
    let value = value.strip_prefix(b" ").unwrap_or(value);
    match name {
        b"data" => {
            if !frame.data.is_empty() {
                frame.data.push(b'\n');
            }
            frame.data.extend_from_slice(value);
        }
        b"event" => replace(&mut frame.event, value),
        b"id" => replace(&mut frame.id, value),
        // Comments (an empty name), `retry` and what a later server may add.
        _ => {}
    }
}

fn replace(field: &mut String, value: &[u8]) {
    field.clear();
    field.push_str(&String::from_utf8_lossy(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": hello\nretry: 100\n\nevent: event\nid: 0.aa\ndata: {\"n\":1}\n\n\
        event: progress\r\nid: 5.bb\r\n\r\nid: 6.cc\n\ndata: two\ndata:lines\n\nevent: event\ndata: cut";

    fn frames(chunk: usize) -> Vec<(String, String, String)> {
        let (mut decoder, mut frame, mut frames) = (Decoder::default(), Frame::default(), vec![]);
        for bytes in STREAM.chunks(chunk) {
            decoder.push(bytes).unwrap();
            while decoder.next(&mut frame) {
                let data = String::from_utf8(frame.data.clone()).unwrap();
                frames.push((frame.event.clone(), frame.id.clone(), data));
            }
        }
        frames
    }

    #[test]
    fn frames_are_the_same_however_the_bytes_arrive() {
        let expected = [
            ("event", "0.aa", "{\"n\":1}"),
            ("progress", "5.bb", ""),
            ("", "6.cc", ""),
            ("", "", "two\nlines"),
        ]
        .map(|(event, id, data)| (event.to_owned(), id.to_owned(), data.to_owned()));
        for chunk in 1..=STREAM.len() {
            assert_eq!(frames(chunk), expected, "in chunks of {chunk} bytes");
        }
    }

    #[test]
    fn endless_line_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&vec![b'a'; LINE_BYTES_MAX]).unwrap();
        assert_eq!(decoder.push(b"a"), Err(LineTooLong));
    }
}
