//! Counts gRPC's messages in a stream of bytes: each has five bytes before it, of which four say how long it is.
//!
//! Nothing of a message is kept, and one that does not end is not counted.

/// Where in a stream of messages one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// How many bytes of a prefix have come, and what of its length.
    prefix: u8,
    length: u32,
    /// What is still to come of a message.
    left: u32,
}

/// A flag and a length.
const PREFIX: u8 = 5;

impl Messages {
    /// Takes the next bytes of the stream; how many messages came to their end in them.
    #[inline]
    pub fn take(&mut self, mut bytes: &[u8]) -> u64 {
        let mut ended = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = bytes.len().min(self.left as usize);
                self.left -= taken as u32;
                bytes = &bytes[taken..];
                ended += u64::from(self.left == 0);
                continue;
            }
            match bytes {
                // Most begin whole.
                [_, a, b, c, d, rest @ ..] if self.prefix == 0 => {
                    self.left = u32::from_be_bytes([*a, *b, *c, *d]);
                    bytes = rest;
                    ended += u64::from(self.left == 0);
                }
                [byte, rest @ ..] => {
                    if self.prefix > 0 {
                        self.length = self.length << 8 | u32::from(*byte);
                    }
                    self.prefix += 1;
                    bytes = rest;
                    if self.prefix == PREFIX {
                        self.left = self.length;
                        (self.prefix, self.length) = (0, 0);
                        ended += u64::from(self.left == 0);
                    }
                }
                [] => {}
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(lengths: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.push(0);
            bytes.extend((*length as u32).to_be_bytes());
            bytes.extend(std::iter::repeat_n(7, *length));
        }
        bytes
    }

    #[test]
    fn messages_are_counted_wherever_the_frames_are_cut() {
        let lengths = [0, 1, 300, 0, 7];
        let bytes = stream(&lengths);
        for cut in 1..=bytes.len() {
            let mut messages = Messages::default();
            let counted: u64 = bytes.chunks(cut).map(|part| messages.take(part)).sum();
            assert_eq!(counted, lengths.len() as u64, "cut every {cut}");
            assert_eq!(messages, Messages::default());
        }
        let mut short = Messages::default();
        assert_eq!(short.take(&bytes[..bytes.len() - 1]), 4, "the last did not end");
    }
}
