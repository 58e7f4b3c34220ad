//! Bytes that come in any portions, as pieces of text whose borders depend on the text alone.
//!
//! A piece is the text of a line with the blank before it: the line break that ends a line goes with the
//! next one, because most tokenizers join a break with the blank behind it, and none joins it with the
//! word before. So a line can be read when its break has come, and gives the same tokens as a whole text.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes of a line that is shown and read in parts.
pub(super) const LONG_LINE: usize = 1 << 14;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Text(Piece),
    /// A line that was the marker.
    Marker,
}

/// A part of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The blank before a line, and the line without the blank at its end.
    pub(super) text: String,
    /// The place of the line in the input, from 1.
    pub(super) line: u64,
    /// Where it begins and ends.
    pub(super) from: Place,
    pub(super) to: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Bytes before it.
    pub(super) offset: u64,
    /// Line breaks before it.
    pub(super) line: u64,
}

#[derive(Debug, Default)]
pub(super) struct Pieces {
    marker: Option<String>,
    /// Bytes of a line that has not ended.
    open: Vec<u8>,
    /// Whether `open` goes on with a line of which a part is done.
    within: bool,
    /// Blank that waits for the line it stands before.
    blank: String,
    /// Where the last piece ended.
    done: Place,
    /// Where `open` begins.
    at: Place,
    /// The place of the first byte that was no UTF-8.
    pub(super) first_replaced: Option<u64>,
}

impl Pieces {
    /// Pieces of an input that is read from `place` on.
    pub(super) fn new(marker: Option<&str>, place: Place) -> Self {
        Self {
            marker: marker.map(str::to_owned),
            done: place,
            at: place,
            ..Self::default()
        }
    }

    /// Takes the next bytes; adds the pieces that are whole with them.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Item>) {
        self.open.extend_from_slice(bytes);
        let open = std::mem::take(&mut self.open);
        let mut rest = &open[..];
        loop {
            let part = &rest[..rest.len().min(LONG_LINE)];
            let found = part.iter().position(|byte| *byte == b'\n');
            let (line, after) = match found {
                Some(at) => rest.split_at(at + 1),
                None if rest.len() > LONG_LINE => rest.split_at(whole_characters(part)),
                None => break,
            };
            self.line(line, found.is_some(), out);
            rest = after;
        }
        self.open = rest.to_vec();
    }

    /// Ends the input, or looks at what of it is there: the open line and the blank at its end are pieces.
    pub(super) fn end(&mut self, out: &mut VecDeque<Item>) {
        let line = std::mem::take(&mut self.open);
        if !line.is_empty() {
            self.line(&line, false, out);
        }
        self.flush_blank(out);
    }

    /// Blank after the last piece, which belongs to the one that follows.
    pub(super) fn blank(&self) -> &str {
        &self.blank
    }

    fn line(&mut self, bytes: &[u8], ends_line: bool, out: &mut VecDeque<Item>) {
        let whole = !std::mem::replace(&mut self.within, !ends_line);
        let begins = self.at.offset == 0;
        let text = self.decode(bytes);
        self.at.offset += bytes.len() as u64;
        self.at.line += u64::from(ends_line);
        // Some programs begin a file with a mark that is no part of its text.
        let text = text
            .strip_prefix('\u{feff}')
            .filter(|_| begins)
            .unwrap_or(&text);
        let unbroken = text.trim_end_matches(['\n', '\r']);
        if whole && self.marker.as_deref() == Some(unbroken) {
            out.push_back(Item::Marker);
            return;
        }
        // The part of a line that goes on keeps its blank, so that it can be taken up where it was cut.
        let body = match text.trim_end() {
            "" => "",
            _ if !ends_line => text,
            trimmed => trimmed,
        };
        if body.is_empty() {
            self.blank.push_str(text);
            if self.blank.len() > LONG_LINE {
                self.flush_blank(out);
            }
            return;
        }
        let rest = &text[body.len()..];
        let line = self.at.line + u64::from(!ends_line);
        let to = Place {
            offset: self.at.offset - rest.len() as u64,
            line: line - 1,
        };
        let text = format!("{}{body}", std::mem::take(&mut self.blank));
        self.blank.push_str(rest);
        self.give(text, line, to, out);
    }

    fn flush_blank(&mut self, out: &mut VecDeque<Item>) {
        let text = std::mem::take(&mut self.blank);
        if !text.is_empty() {
            self.give(text, self.at.line.max(1), self.at, out);
        }
    }

    fn give(&mut self, text: String, line: u64, to: Place, out: &mut VecDeque<Item>) {
        let from = std::mem::replace(&mut self.done, to);
        out.push_back(Item::Text(Piece {
            text,
            line,
            from,
            to,
        }));
    }

    fn decode(&mut self, bytes: &[u8]) -> String {
        if let Err(error) = str::from_utf8(bytes) {
            let at = self.at.offset + error.valid_up_to() as u64;
            self.first_replaced.get_or_insert(at);
        }
        String::from_utf8_lossy(bytes).into_owned()
    }
}

/// How many of `bytes` are whole characters, or all where the end can be none.
fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| byte & 0xc0 != 0x80);
    match last {
        Some(at) if bytes.len() - at < 4 && str::from_utf8(&bytes[at..]).is_err() => at.max(1),
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of `text` when it comes in portions of `size` bytes.
    fn cut(text: &[u8], size: usize, marker: Option<&str>) -> Vec<Item> {
        let mut pieces = Pieces::new(marker, Place::default());
        let mut out = VecDeque::new();
        text.chunks(size)
            .for_each(|chunk| pieces.push(chunk, &mut out));
        pieces.end(&mut out);
        out.into()
    }

    fn texts(items: &[Item]) -> Vec<&str> {
        let text = |item: &'static str| item;
        items
            .iter()
            .map(|item| match item {
                Item::Text(piece) => &*piece.text,
                Item::Marker => text("<marker>"),
            })
            .collect()
    }

    #[test]
    fn a_line_comes_with_the_blank_before_it() {
        let text = "one\n\n  two  \nthrée\r\n\n".as_bytes();
        let whole = cut(text, 1000, None);
        assert_eq!(texts(&whole), ["one", "\n\n  two", "  \nthrée", "\r\n\n"]);
        for size in [1, 2, 3, 7] {
            assert_eq!(cut(text, size, None), whole, "portions of {size}");
        }
        let lines: Vec<u64> = whole
            .iter()
            .map(|item| match item {
                Item::Text(piece) => piece.line,
                Item::Marker => 0,
            })
            .collect();
        assert_eq!(lines, [1, 3, 4, 5]);
    }

    #[test]
    fn an_input_can_be_taken_up_at_the_end_of_any_piece() {
        let text = "one\n\n  two  \nthrée\r\nfour".as_bytes();
        let whole = cut(text, 1000, None);
        for (i, item) in whole.iter().enumerate() {
            let Item::Text(piece) = item else { panic!() };
            let mut rest = Pieces::new(None, piece.to);
            let mut out = VecDeque::new();
            rest.push(&text[piece.to.offset as usize..], &mut out);
            rest.end(&mut out);
            assert_eq!(Vec::from(out), whole[i + 1..], "after {:?}", piece.text);
        }
    }

    #[test]
    fn what_has_no_line_breaks_is_cut_between_characters() {
        let text = format!("a{}", "é".repeat(20_000));
        let items = cut(text.as_bytes(), 777, None);
        assert!(items.len() > 2);
        assert_eq!(texts(&items).concat(), text);
        let zeros = cut(&vec![0x80; 40_000], 4096, None);
        assert!(zeros.len() > 2, "bytes that are no text end too");
        let blank = cut(&b"\n".repeat(50_000), 4096, None);
        assert!(blank.len() > 2 && texts(&blank).concat().len() == 50_000);
    }

    #[test]
    fn a_marker_is_a_whole_line_and_not_read() {
        let text = b"one\nASK\ntwo ASK\nASK\r\nthree";
        let items = cut(text, 5, Some("ASK"));
        let expected = ["one", "<marker>", "\ntwo ASK", "<marker>", "\nthree"];
        assert_eq!(texts(&items), expected);
    }

    #[test]
    fn the_first_byte_that_is_no_text_is_known() {
        let mut pieces = Pieces::new(None, Place::default());
        let mut out = VecDeque::new();
        pieces.push(b"\xef\xbb\xbfab\xffc\n\xfe\n", &mut out);
        pieces.end(&mut out);
        assert_eq!(
            texts(out.make_contiguous()).concat(),
            "ab\u{fffd}c\n\u{fffd}\n"
        );
        assert_eq!(pieces.first_replaced, Some(5));
    }
}
