//! Where each HTTP/1.1 request of a connection ends, read beside hyper for one question: does a head say it twice?
//!
//! A head with both a length and chunks means two things to two readers, which is how a second request is smuggled past one of them. It may
//! be refused (RFC 9112, 6.3), and whoever sends it over mutual TLS is no old proxy that must be put up with. hyper goes by the chunks and
//! drops the length before any service could see that there was one; so the bytes are looked at here, as they are read. To know a head from
//! a body that looks like one, bodies are counted off by the same rules.
//!
//! Only heads are judged, and hyper still reads the requests. A head or a body that cannot be followed here counts as one that means two
//! things, since what comes after it could not be told apart: one with a line that ends without its CR, and one with a line that is too long
//! where that line says where the request ends; and one whose chunks have extensions, which no client of a mesh sends, which mean nothing to
//! anybody, and which readers of HTTP have disagreed about (CVE-2025-55315; RFC 9112, 7.1.1 has them passed over).

/// The most of a line that is looked at: a name that counts, and a length with the spaces that anybody would write.
const MAX_LINE_BYTES: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Framing {
    at: At,
    /// What there is of the line that has begun.
    line: Vec<u8>,
    head: Head,
    /// Heads that have ended.
    heads: u64,
}

/// Of what the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// So many bytes are left.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    /// Of the line end behind a chunk.
    ChunkEnd,
    Trailers,
    /// Nobody knows: a request before was refused.
    Lost,
}

/// What a head has said so far.
#[derive(Debug, Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    chunked: bool,
    /// It says what is not understood here.
    unclear: bool,
}

impl Framing {
    /// Takes what was read next. `Some`: the request of this number, counted from one, says twice where it ends, or not at all.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() {
            match self.at {
                At::Lost => return None,
                At::Body(left) => bytes = self.skip(bytes, left, At::Body, At::Head),
                At::Chunk(left) => bytes = self.skip(bytes, left, At::Chunk, At::ChunkEnd),
                At::Head | At::ChunkSize | At::ChunkEnd | At::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    let room = MAX_LINE_BYTES - self.line.len();
                    self.line.extend_from_slice(&line[..line.len().min(room)]);
                    // The rest of the line is yet to come.
                    end?;
                    bytes = &rest[1..];
                    if let Some(number) = self.end_line() {
                        return Some(number);
                    }
                }
            }
        }
        None
    }

    fn skip<'b>(&mut self, bytes: &'b [u8], left: u64, at: fn(u64) -> At, then: At) -> &'b [u8] {
        let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - skipped as u64;
        self.at = if left == 0 { then } else { at(left) };
        &bytes[skipped..]
    }

    fn end_line(&mut self) -> Option<u64> {
        let mut line = std::mem::take(&mut self.line);
        // What was cut says less than hyper reads.
        let is_cut = line.len() >= MAX_LINE_BYTES;
        let text = line.strip_suffix(b"\r");
        // A line that ends without its CR ends for some readers and goes on for others (RFC 9112, 2.2). Of one that was cut the end is not seen.
        let is_bare = text.is_none() && !is_cut;
        let text = text.unwrap_or(&line);
        let unclear = match self.at {
            At::Head if text.is_empty() => {
                // Blank lines before a request begin none.
                self.head.unclear |= is_bare && self.head.begun;
                self.end_head()
            }
            At::Head => {
                self.head.line(text, is_cut);
                self.head.unclear |= is_bare;
                false
            }
            At::ChunkSize | At::ChunkEnd | At::Trailers if is_bare => self.lost(),
            At::ChunkSize if is_cut || has_extension(text) => self.lost(),
            At::ChunkSize => match chunk_size(text) {
                Some(size) => {
                    self.at = if size == 0 { At::Trailers } else { At::Chunk(size) };
                    false
                }
                // hyper refuses the body, and reads nothing behind it.
                None => {
                    self.at = At::Lost;
                    false
                }
            },
            At::ChunkEnd => {
                self.at = if text.is_empty() { At::ChunkSize } else { At::Lost };
                false
            }
            At::Trailers => {
                if text.is_empty() {
                    self.at = At::Head;
                }
                false
            }
            At::Body(_) | At::Chunk(_) | At::Lost => false,
        };
        line.clear();
        self.line = line;
        unclear.then_some(self.heads)
    }

    /// Where the request ends whose body this is, nobody knows; neither it nor what follows is served.
    fn lost(&mut self) -> bool {
        self.at = At::Lost;
        true
    }

    /// Whether the head that ends here is unclear.
    fn end_head(&mut self) -> bool {
        let head = std::mem::take(&mut self.head);
        // Empty lines before a request are passed over (RFC 9112, 2.2).
        if !head.begun {
            return false;
        }
        self.heads += 1;
        let unclear = head.unclear || (head.chunked && head.length.is_some());
        self.at = match (unclear, head.chunked, head.length) {
            (true, ..) => At::Lost,
            (_, true, _) => At::ChunkSize,
            (_, _, None | Some(0)) => At::Head,
            (_, _, Some(length)) => At::Body(length),
        };
        unclear
    }
}

impl Head {
    fn line(&mut self, line: &[u8], is_cut: bool) {
        if !self.begun {
            self.begun = true;
            return;
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            return;
        };
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
            self.unclear |= is_cut;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let value = value.trim_ascii();
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            // Of several that differ, and of what is no number, hyper refuses the request. Of a number that was cut it reads the rest.
            self.unclear |= is_cut;
            self.length = length.or(Some(0));
        }
    }
}

/// The size of a chunk.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().all(u8::is_ascii_hexdigit).then_some(line)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether something stands behind the size of a chunk.
fn has_extension(line: &[u8]) -> bool {
    line.first().is_some_and(u8::is_ascii_hexdigit) && !line.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which request is unclear, however the bytes come.
    #[track_caller]
    fn check(bytes: &str, expected: Option<u64>) {
        for step in [1, 2, 7, bytes.len()] {
            let mut framing = Framing::default();
            let found = bytes.as_bytes().chunks(step).find_map(|part| framing.take(part));
            assert_eq!(found, expected, "{bytes:?} by {step}");
        }
    }

    #[test]
    fn fl_9_a_head_that_says_twice_where_it_ends_is_found_wherever_it_stands() {
        const BOTH: &str = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        const TURNED: &str = "POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\nX: y\r\ncontent-length:3\r\n\r\n";
        for both in [BOTH, TURNED] {
            check(both, Some(1));
            check(&format!("\r\n\r\n{both}"), Some(1));
            check(&both.replace("\r\n", "\n"), Some(1));
            check(&format!("GET / HTTP/1.1\r\nhost: a\r\n\r\n{both}"), Some(2));
            check(
                &format!("PUT / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello{both}"),
                Some(2),
            );
            let chunked = "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n0123456789\r\n0\r\nt: v\r\n\r\n";
            check(&format!("{chunked}{chunked}{both}"), Some(3));
            let spaces = " ".repeat(300);
            check(&both.replace(": 3", &format!(":{spaces}3")), Some(1));
        }
        let spaces = " ".repeat(300);
        check(
            &format!("PUT / HTTP/1.1\r\ncontent-length:{spaces}5\r\n\r\nhello"),
            Some(1),
        );
    }

    /// What is cut, or ends a line in half, is read in another way by hyper: neither it nor what follows is served.
    #[test]
    fn fl_9_what_is_cut_or_ends_without_its_cr_is_unclear() {
        for blanks in 230..=300 {
            for digits in ["3", "32", "320", "000032"] {
                let line = format!("content-length:{}{digits}", " ".repeat(blanks));
                let expected = (line.len() + 1 >= MAX_LINE_BYTES).then_some(1);
                let body = "x".repeat(digits.parse().unwrap());
                check(&format!("PUT / HTTP/1.1\r\n{line}\r\n\r\n{body}"), expected);
            }
            let chunked = format!(
                "PUT / HTTP/1.1\r\ntransfer-encoding:{}chunked\r\n\r\n0\r\n\r\n",
                " ".repeat(blanks)
            );
            check(
                &chunked,
                ("transfer-encoding:chunked".len() + blanks + 1 >= MAX_LINE_BYTES).then_some(1),
            );
        }
        let head = "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let zeros = "0".repeat(300);
        for body in [
            format!("{zeros}5\r\nhello\r\n0\r\n\r\n"),
            "5\nhello\r\n0\r\n\r\n".into(),
            "5;x=y\r\nhello\r\n0\r\n\r\n".into(),
            "5 \r\nhello\r\n0\r\n\r\n".into(),
            "5\r\nhello\r\n0;\r\n\r\n".into(),
            "5\r\nhello\n0\r\n\r\n".into(),
            "0\r\nt: v\n\nZ\ncontent-length: 100000\r\n\r\n".into(),
        ] {
            check(&format!("{head}{body}"), Some(1));
        }
        check("GET / HTTP/1.1\r\nhost: a\n\r\n", Some(1));
        check("GET / HTTP/1.1\nhost: a\r\n\r\n", Some(1));
        check("GET / HTTP/1.1\r\nhost: a\r\n\n", Some(1));
        check(&format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1_000)), None);
    }

    #[test]
    fn what_only_looks_like_it_is_none() {
        let both = "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
        for head in [
            format!(
                "PUT / HTTP/1.1\r\ncontent-length: {}\r\n\r\nx\r\n{both}",
                both.len() + 3
            ),
            format!(
                "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\nx\r\n{both}\r\n0\r\n\r\n",
                both.len() + 3
            ),
            format!("PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{both}"),
            "PUT / HTTP/1.1\r\nx-content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            "PUT / HTTP/1.1\r\ncontent-length: 0\r\n\r\nPUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .into(),
        ] {
            check(&format!("{head}{head}GET / HTTP/1.1\r\n\r\n"), None);
        }
    }
}
