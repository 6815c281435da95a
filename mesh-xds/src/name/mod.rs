//! Names of resources: plain text, or URIs of the `xdstp` scheme that say whose they are (xRFC TP1, gRFC A47).
//!
//! Two spellings of one name must be one key, or a client would subscribe twice and not know the answer when it comes. So a
//! name has a normal form, and that is its `Display`: context parameters sorted, percent-encoding as RFC 3986 6.2.2 has it
//! (upper-case, and none where none is needed). Encoded delimiters stay encoded, since `%2F` and `/` are different names; a
//! library that decodes whole paths loses that. Fragments are directives to somebody who lists resources and no part of a
//! name, so they are left out. Pure: bootstrap templates, references in resources and answers all come through here.

use std::collections::BTreeMap;
use std::fmt;

use crate::resource::ResourceKind;

/// What structured names begin with.
const SCHEME: &str = "xdstp:";
/// What stands before a type's name in a type's URL.
const TYPE_PREFIX: &str = "type.googleapis.com/";

/// The name of a resource, in its normal form.
///
/// ```
/// use mesh_xds::ResourceName;
/// let name = ResourceName::parse("xdstp://a.example/envoy.config.listener.v3.Listener/shop?zone=b&env=c")?;
/// assert_eq!((name.authority(), name.id()), (Some("a.example"), "shop"));
/// assert!(name.to_string().ends_with("/shop?env=c&zone=b"));
/// # Ok::<(), mesh_xds::InvalidResourceName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(Form);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Form {
    Plain(Box<str>),
    Structured {
        authority: Box<str>,
        type_name: Box<str>,
        id: Box<str>,
        context: BTreeMap<Box<str>, Box<str>>,
    },
}

impl ResourceName {
    /// Reads a name. Whatever does not begin with `xdstp:` is plain text, and taken as it is.
    ///
    /// # Errors
    ///
    /// When it begins with `xdstp:` and is not `xdstp://AUTHORITY/TYPE/ID?KEY=VALUE&...`. The authority may be empty.
    pub fn parse(text: &str) -> Result<Self, InvalidResourceName> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Ok(Self(Form::Plain(text.into())));
        };
        let rest = rest.strip_prefix("//").ok_or(InvalidResourceName::Authority)?;
        let rest = rest.split_once('#').map_or(rest, |(name, _directives)| name);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = path.split_once('/').ok_or(InvalidResourceName::Type)?;
        let (type_name, id) = path.split_once('/').unwrap_or((path, ""));
        match (type_name, id) {
            ("", _) => return Err(InvalidResourceName::Type),
            (_, "") => return Err(InvalidResourceName::Id),
            _ => {}
        }
        Ok(Self(Form::Structured {
            authority: normal(authority, b"")?,
            type_name: normal(type_name, b"")?,
            id: normal(id, b"/")?,
            context: context(query)?,
        }))
    }

    /// Reads the name of a resource of `kind`.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse); and when the name says that it is of another type.
    pub fn parse_as(kind: ResourceKind, text: &str) -> Result<Self, InvalidResourceName> {
        let name = Self::parse(text)?;
        let expected = kind.type_url().strip_prefix(TYPE_PREFIX);
        match name.type_name() {
            None => Ok(name),
            found if found == expected => Ok(name),
            Some(_) => Err(InvalidResourceName::AnotherType(kind)),
        }
    }

    /// Whose it is, perhaps the empty text; `None` of a plain name, which is the default control plane's.
    pub fn authority(&self) -> Option<&str> {
        match &self.0 {
            Form::Plain(_) => None,
            Form::Structured { authority, .. } => Some(authority),
        }
    }

    /// The full name of the type, such as `envoy.config.listener.v3.Listener`; a plain name does not say.
    pub fn type_name(&self) -> Option<&str> {
        match &self.0 {
            Form::Plain(_) => None,
            Form::Structured { type_name, .. } => Some(type_name),
        }
    }

    /// The name among those of its authority and type, percent-encoded where it must be; the whole of a plain name.
    pub fn id(&self) -> &str {
        match &self.0 {
            Form::Plain(text) => text,
            Form::Structured { id, .. } => id,
        }
    }

    /// The context parameters in order, percent-encoded where they must be. Plain names have none.
    pub fn context(&self) -> impl Iterator<Item = (&str, &str)> {
        let parameters = match &self.0 {
            Form::Plain(_) => None,
            Form::Structured { context, .. } => Some(context),
        };
        parameters.into_iter().flatten().map(|(key, value)| (&**key, &**value))
    }
}

/// The normal form: the same text for every spelling of the name.
impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Plain(text) => f.write_str(text),
            Form::Structured {
                authority,
                type_name,
                id,
                context,
            } => {
                write!(f, "{SCHEME}//{authority}/{type_name}/{id}")?;
                for (index, (key, value)) in context.iter().enumerate() {
                    let mark = if index == 0 { '?' } else { '&' };
                    write!(f, "{mark}{key}={value}")?;
                }
                Ok(())
            }
        }
    }
}

/// Whether a name or a template of names is structured.
pub(crate) fn is_structured(text: &str) -> bool {
    text.starts_with(SCHEME)
}

/// Percent-encodes what may not stand in a URI's path (RFC 3986 3.3). `/` may.
pub(crate) fn encode_path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match is_pchar(byte) || byte == b'/' {
            true => out.push(byte as char),
            false => push_encoded(&mut out, byte),
        }
    }
    out
}

/// Undoes percent-encoding, or `None` where it is malformed or does not make text.
pub(crate) fn decode_percent(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => out.push(pair(bytes.next(), bytes.next())?),
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// Parameters are a map; of one that is given twice the last counts (gRFC A47).
fn context(query: &str) -> Result<BTreeMap<Box<str>, Box<str>>, InvalidResourceName> {
    let mut context = BTreeMap::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if key.is_empty() {
            return Err(InvalidResourceName::Context);
        }
        // What delimits parameters can only be here encoded; `=` is left in values by many writers.
        context.insert(normal(key, b"/?")?, normal(value, b"/?")?);
    }
    Ok(context)
}

/// RFC 3986 6.2.2 on one component: triplets of unreserved characters are decoded, others get upper-case digits, and what
/// may not stand in the component gets encoded.
fn normal(text: &str, also: &[u8]) -> Result<Box<str>, InvalidResourceName> {
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match pair(bytes.next(), bytes.next()) {
                Some(byte) if is_unreserved(byte) => out.push(byte as char),
                Some(byte) => push_encoded(&mut out, byte),
                None => return Err(InvalidResourceName::Percent),
            },
            _ if is_pchar(byte) || also.contains(&byte) => out.push(byte as char),
            _ => push_encoded(&mut out, byte),
        }
    }
    Ok(out.into())
}

/// The byte that two hexadecimal digits stand for.
fn pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn push_encoded(out: &mut String, byte: u8) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    out.push('%');
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What a path's segment may hold unencoded.
fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

/// Why a text that begins with `xdstp:` is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidResourceName {
    /// There is no `//` before the authority.
    Authority,
    /// It names no type.
    Type,
    /// Nothing follows the type.
    Id,
    /// It is of another type than this.
    AnotherType(ResourceKind),
    /// A context parameter has no key.
    Context,
    /// A `%` is not followed by two hexadecimal digits.
    Percent,
}

impl fmt::Display for InvalidResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority => f.write_str("an xdstp name begins with xdstp://AUTHORITY/"),
            Self::Type => f.write_str("the xdstp name has no type after its authority"),
            Self::Id => f.write_str("the xdstp name has nothing after its type"),
            Self::AnotherType(kind) => write!(f, "the xdstp name is not that of a {kind}"),
            Self::Context => f.write_str("a context parameter of the xdstp name has no key"),
            Self::Percent => f.write_str("a % in the xdstp name is not followed by two hexadecimal digits"),
        }
    }
}

impl std::error::Error for InvalidResourceName {}

#[cfg(test)]
mod tests;
