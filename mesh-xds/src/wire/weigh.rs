//! What a message costs in memory once it is decoded, found without decoding it.
//!
//! Generated types have every field of their message in place: a route is two bytes on the wire if it is empty, and 2 KiB as a
//! value. A message of the largest size that is taken would so become a hundred gigabytes before any rule of ours saw it.
//! Hence one pass over the bytes first: each is looked at once, and nothing is allocated.
//!
//! The pass knows no schema beyond what [`Heavy`] tells it: what is repeated and large. Of all else it assumes what generated
//! types reach at most. What may be a message is read as one, since a `google.protobuf.Any` is bytes here and a message later;
//! what is none is text, or numbers that are packed. So the figure is an upper bound but for a factor below two, which is that
//! lists of one element have room for four.

use std::fmt;

/// The deepest nesting that is looked into. prost refuses what is nested deeper than 100 in each message, and such a message
/// stands at most a dozen levels deep inside of others.
const MAX_DEPTH: usize = 128;
/// The largest field number that is looked at: no message that is read here has a larger one.
const MAX_NUMBER: u64 = 127;
/// What a byte of a packed list of numbers becomes. Text is not told apart from it.
const PACKED: usize = 4;
/// What a number costs that is not the first under its own.
const NUMBER: usize = 8;

/// What messages of a type cost.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Of a field that is the first of its number in its message: most are in place there, and cost nothing; a list has a
    /// first element.
    pub(crate) first: usize,
    /// Of each that follows under the same number.
    pub(crate) more: usize,
    pub(crate) heavy: &'static [Heavy],
}

/// A field whose elements are larger than the rest, or what leads to one.
#[derive(Debug)]
pub(crate) struct Heavy {
    pub(crate) number: u64,
    /// Of one element; zero where it is no list.
    pub(crate) bytes: usize,
    pub(crate) inside: Inside,
}

/// What is known of the inside of a field.
#[derive(Debug)]
pub(crate) enum Inside {
    Message(&'static [Heavy]),
    /// It is kept as bytes, and weighed when it is read.
    Sealed,
    /// Each byte becomes so many at most.
    #[cfg(feature = "server")]
    Times(usize),
}

/// A list of `T`s.
pub(crate) const fn list<T>(number: u64, inside: &'static [Heavy]) -> Heavy {
    Heavy {
        number,
        bytes: size_of::<T>(),
        inside: Inside::Message(inside),
    }
}

/// A message in place, for what is in it.
pub(crate) const fn way(number: u64, inside: &'static [Heavy]) -> Heavy {
    Heavy {
        number,
        bytes: 0,
        inside: Inside::Message(inside),
    }
}

/// It costs more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooHeavy {
    limit: usize,
}

impl fmt::Display for TooHeavy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.limit >> 20;
        write!(
            f,
            "holds so many fields that it may take more than {mib} MiB of memory when decoded"
        )
    }
}

/// What `message` may cost decoded, in bytes.
///
/// # Errors
///
/// When that is more than `limit`.
pub(crate) fn weigh(message: &[u8], shape: &Shape, limit: usize) -> Result<usize, TooHeavy> {
    let mut scale = Scale {
        shape,
        weight: 0,
        limit,
    };
    scale.message(message, shape.heavy, 0)?;
    Ok(scale.weight)
}

/// The text under number 1, which is the name of every kind of resource. Of several the last counts (Protocol Buffers, "Last One
/// Wins").
pub(crate) fn name(message: &[u8]) -> Option<&str> {
    let (mut rest, mut name) = (message, None);
    while let Some(field) = Field::next(&mut rest) {
        if let Field {
            number: 1,
            content: Content::Bytes(bytes),
        } = field
        {
            name = std::str::from_utf8(bytes).ok().filter(|name| !name.is_empty());
        }
    }
    name
}

struct Scale<'a> {
    shape: &'a Shape,
    weight: usize,
    limit: usize,
}

impl Scale<'_> {
    /// Whether this can be a message. What was found before it turned out to be none still counts: prost reads so far too.
    fn message(&mut self, bytes: &[u8], heavy: &'static [Heavy], depth: usize) -> Result<bool, TooHeavy> {
        if depth == MAX_DEPTH {
            return Ok(false);
        }
        let (mut rest, mut seen) = (bytes, 0_u128);
        let mut lists = [0_usize; MAX_LISTS];
        while !rest.is_empty() {
            let Some(Field { number, content }) = Field::next(&mut rest) else {
                return Ok(false);
            };
            if number > MAX_NUMBER {
                continue;
            }
            let is_first = seen & (1 << number) == 0;
            seen |= 1 << number;
            match content {
                Content::Bytes(bytes) => {
                    let known = heavy.iter().position(|heavy| heavy.number == number);
                    let cost = match known {
                        Some(place) => heavy[place].grow(&mut lists[place]),
                        None if is_first => self.shape.first,
                        None => self.shape.more,
                    };
                    self.add(cost)?;
                    let inside = known.map(|place| &heavy[place].inside);
                    self.inside(bytes, inside, depth)?;
                }
                Content::Number if !is_first => self.add(NUMBER)?,
                Content::Number | Content::Group => {}
            }
        }
        Ok(true)
    }

    fn inside(&mut self, bytes: &[u8], inside: Option<&'static Inside>, depth: usize) -> Result<(), TooHeavy> {
        let heavy: &'static [Heavy] = match inside {
            Some(Inside::Sealed) => return self.add(bytes.len()),
            #[cfg(feature = "server")]
            Some(Inside::Times(times)) => return self.add(bytes.len().saturating_mul(*times)),
            Some(Inside::Message(heavy)) => heavy,
            None => &[],
        };
        match self.message(bytes, heavy, depth + 1)? {
            true => Ok(()),
            // Short texts have their place in what their field costs.
            false => self.add((bytes.len() * PACKED).saturating_sub(self.shape.first)),
        }
    }

    fn add(&mut self, cost: usize) -> Result<(), TooHeavy> {
        self.weight = self.weight.saturating_add(cost);
        match self.weight > self.limit {
            true => Err(TooHeavy { limit: self.limit }),
            false => Ok(()),
        }
    }
}

/// The most lists of one message that are known to be heavy.
const MAX_LISTS: usize = 6;

impl Heavy {
    /// What another element adds to a list of this length: a `Vec` begins with room for four, or for one where elements are larger
    /// than 1 KiB, and doubles.
    fn grow(&self, length: &mut usize) -> usize {
        *length += 1;
        let least = if self.bytes > 1024 { 1 } else { 4 };
        let room = |length: usize| match length {
            0 => 0,
            length => length.next_power_of_two().max(least),
        };
        (room(*length) - room(*length - 1)) * self.bytes
    }
}

struct Field<'a> {
    number: u64,
    content: Content<'a>,
}

enum Content<'a> {
    Bytes(&'a [u8]),
    Number,
    /// The begin or the end of a group, which nobody writes any more. What is inside counts as if it were outside.
    Group,
}

impl<'a> Field<'a> {
    /// `None` where there is none, or what is there is no field.
    fn next(rest: &mut &'a [u8]) -> Option<Self> {
        let key = varint(rest)?;
        let number = key >> 3;
        let content = match key & 7 {
            0 => {
                varint(rest)?;
                Content::Number
            }
            1 => {
                *rest = rest.get(8..)?;
                Content::Number
            }
            2 => {
                let length = usize::try_from(varint(rest)?).ok()?;
                let (bytes, after) = rest.split_at_checked(length)?;
                *rest = after;
                Content::Bytes(bytes)
            }
            3 | 4 => Content::Group,
            5 => {
                *rest = rest.get(4..)?;
                Content::Number
            }
            _ => return None,
        };
        (number > 0).then_some(Self { number, content })
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (place, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            *rest = &rest[place + 1..];
            return Some(value);
        }
    }
    None
}
