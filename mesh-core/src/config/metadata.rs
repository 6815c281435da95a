//! What a control plane says of an endpoint beside its address: text values by filter and key (Envoy `Metadata`).
//!
//! Only text is kept. What is decided by metadata here (which TLS an endpoint is called with, which hash key it has) is text
//! in Envoy too, and a tree of arbitrary values per endpoint would cost more memory than the endpoints.

use std::fmt;

/// The filter under which an endpoint says which transport socket it wants (Envoy `transport_socket_matches`; Istio's
/// auto-mTLS writes `tlsMode` there).
pub const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// Text values by filter name and key, sorted. Compared by value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Metadata {
    entries: Box<[Entry]>,
}

/// One value of a [`Metadata`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    filter: Box<str>,
    key: Box<str>,
    value: Box<str>,
}

impl Metadata {
    /// The most values one endpoint may carry: istiod writes fewer than ten, and a hundred thousand endpoints carry theirs at
    /// the same time.
    pub const MAX_VALUES: usize = 32;

    /// Collects `(filter, key, value)`. Of two values of one filter and key the first stays.
    ///
    /// # Errors
    ///
    /// When there are more than [`MAX_VALUES`](Self::MAX_VALUES).
    ///
    /// ```
    /// use mesh_core::config::Metadata;
    /// let metadata = Metadata::new([("envoy.transport_socket_match", "tlsMode", "istio")])?;
    /// assert_eq!(metadata.value("envoy.transport_socket_match", "tlsMode"), Some("istio"));
    /// # Ok::<(), mesh_core::config::TooManyValues>(())
    /// ```
    pub fn new<'a>(values: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> Result<Self, TooManyValues> {
        let mut entries: Vec<Entry> = Vec::new();
        for (filter, key, value) in values {
            let place = entries.binary_search_by(|entry| (&*entry.filter, &*entry.key).cmp(&(filter, key)));
            let Err(place) = place else { continue };
            if entries.len() == Self::MAX_VALUES {
                return Err(TooManyValues);
            }
            let entry = Entry {
                filter: filter.into(),
                key: key.into(),
                value: value.into(),
            };
            entries.insert(place, entry);
        }
        Ok(Self {
            entries: entries.into(),
        })
    }

    /// The value of `key` under `filter`.
    pub fn value(&self, filter: &str, key: &str) -> Option<&str> {
        let place = self
            .entries
            .binary_search_by(|entry| (&*entry.filter, &*entry.key).cmp(&(filter, key)));
        place.ok().map(|place| &*self.entries[place].value)
    }

    /// Whether all that is in `wanted` is here with the same value. An empty `wanted` is always held.
    pub fn holds(&self, wanted: &Self) -> bool {
        let mut values = wanted.iter();
        values.all(|(filter, key, value)| self.value(filter, key) == Some(value))
    }

    /// All `(filter, key, value)`, sorted by the first two.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.entries
            .iter()
            .map(|entry| (&*entry.filter, &*entry.key, &*entry.value))
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// More values than a [`Metadata`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyValues;

impl fmt::Display for TooManyValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "holds more than {} text values", Metadata::MAX_VALUES)
    }
}

impl std::error::Error for TooManyValues {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays_and_what_is_wanted_must_all_be_there() {
        let metadata = Metadata::new([("b", "k", "1"), ("a", "k", "2"), ("b", "k", "3")]).unwrap();
        assert_eq!(metadata.iter().collect::<Vec<_>>(), [("a", "k", "2"), ("b", "k", "1")]);
        let wanted =
            |values: &[(&'static str, &'static str, &'static str)]| Metadata::new(values.iter().copied()).unwrap();
        assert!(metadata.holds(&wanted(&[])) && metadata.holds(&wanted(&[("a", "k", "2")])));
        assert!(!metadata.holds(&wanted(&[("a", "k", "2"), ("b", "k", "3")])));
        assert!(!metadata.holds(&wanted(&[("b", "other", "1")])));
    }

    #[test]
    fn a_flood_of_values_is_refused() {
        let keys: Vec<String> = (0..=Metadata::MAX_VALUES).map(|n| n.to_string()).collect();
        let all = |count: usize| Metadata::new(keys.iter().take(count).map(|key| ("f", key.as_str(), "v")));
        assert!(all(Metadata::MAX_VALUES).is_ok());
        assert_eq!(all(keys.len()), Err(TooManyValues));
    }
}
