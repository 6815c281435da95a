//! The same value as the same bytes: maps, in the order of their keys.
//!
//! A version is a hash of bytes, and what has another is sent anew. But a map of prost's has its entries in any order, another
//! for each map; so what was encoded twice would differ, and every publish would tell every client what it has. Order changes no
//! length, so entries change places where they lie, by the paths at which maps are written here.

use std::ops::Range;

/// A field on the way to a map, or a map itself.
struct Way {
    number: u64,
    is_map: bool,
    inside: &'static [Self],
}

const fn way(number: u64, inside: &'static [Way]) -> Way {
    Way {
        number,
        is_map: false,
        inside,
    }
}

const fn map(number: u64, inside: &'static [Way]) -> Way {
    Way {
        number,
        is_map: true,
        inside,
    }
}

/// Of a `RouteConfiguration`: what it, its virtual hosts, their routes and the shares of these say of filters
/// (`typed_per_filter_config`), and how routes are marked.
const ROUTES: &[Way] = &[
    map(16, &[]),
    way(
        2,
        &[
            map(15, &[]),
            way(
                3,
                &[
                    map(13, &[]),
                    way(4, METADATA),
                    way(2, &[way(3, &[way(1, &[map(10, &[])])])]),
                ],
            ),
        ],
    ),
];
/// Of a `Listener`: the same of the routes that stand in its connection managers, and in which form these write logs.
const LISTENER: &[Way] = &[way(3, CHAIN), way(19, &[way(1, MANAGER)]), way(25, CHAIN)];
const CHAIN: &[Way] = &[way(3, &[way(4, MANAGER)])];
/// In its envelope.
const MANAGER: &[Way] = &[way(2, &[way(4, ROUTES), way(13, &[way(4, FILE)])])];
/// Of a `FileAccessLog`, in its envelope: the fields of a line in JSON.
const FILE: &[Way] = &[way(2, &[way(5, &[way(2, STRUCT)])])];
/// Of a `ClusterLoadAssignment`: what is said of endpoints (`Metadata.filter_metadata`).
const ENDPOINTS: &[Way] = &[way(2, &[way(2, &[way(3, METADATA)])])];
const METADATA: &[Way] = &[map(1, &[way(2, STRUCT)])];
/// Whose values are texts.
const STRUCT: &[Way] = &[map(1, &[])];
/// Of a `Cluster`: by what an endpoint's metadata chooses its socket (`TransportSocketMatch.match`).
const CLUSTER: &[Way] = &[way(43, &[way(2, STRUCT)])];

pub(super) fn routes(mut message: Vec<u8>) -> Vec<u8> {
    settle(&mut message, ROUTES);
    message
}

pub(super) fn listener(mut message: Vec<u8>) -> Vec<u8> {
    settle(&mut message, LISTENER);
    message
}

pub(super) fn endpoints(mut message: Vec<u8>) -> Vec<u8> {
    settle(&mut message, ENDPOINTS);
    message
}

pub(super) fn cluster(mut message: Vec<u8>) -> Vec<u8> {
    settle(&mut message, CLUSTER);
    message
}

fn settle(message: &mut [u8], ways: &[Way]) {
    let (mut at, mut entries) = (0, Vec::new());
    // prost writes the entries of a map one after the other.
    let mut of = 0;
    while let Some(field) = Field::at(message, at) {
        if field.number != of {
            sort(message, &mut entries);
            of = field.number;
        }
        if let Some(way) = ways.iter().find(|way| way.number == field.number) {
            if !way.inside.is_empty() {
                settle(&mut message[field.content.clone()], way.inside);
            }
            if way.is_map {
                entries.push(field.whole.clone());
            }
        }
        at = field.whole.end;
    }
    sort(message, &mut entries);
}

/// Puts these entries, which lie one after the other, in the order of their keys.
fn sort(message: &mut [u8], entries: &mut Vec<Range<usize>>) {
    let entries = std::mem::take(entries);
    let ([first, .., last], true) = (&entries[..], entries.len() > 1) else {
        return;
    };
    let place = first.start..last.end;
    let mut sorted: Vec<&[u8]> = entries.iter().map(|entry| &message[entry.clone()]).collect();
    sorted.sort_unstable_by_key(|entry| key(entry));
    let sorted = sorted.concat();
    message[place].copy_from_slice(&sorted);
}

/// The key of an entry, which is its first field; an empty one is not written.
fn key(entry: &[u8]) -> &[u8] {
    let inside = Field::at(entry, 0).map_or(&[][..], |field| &entry[field.content]);
    match Field::at(inside, 0) {
        Some(Field { number: 1, content, .. }) => &inside[content],
        _ => &[],
    }
}

/// Where a field lies in its message.
struct Field {
    number: u64,
    whole: Range<usize>,
    /// Empty of a number.
    content: Range<usize>,
}

impl Field {
    /// `None` at the end. What is read here was written here: it has no groups.
    fn at(message: &[u8], start: usize) -> Option<Self> {
        let (key, mut at) = varint(message, start)?;
        let length = match key & 7 {
            0 => {
                at = varint(message, at)?.1;
                0
            }
            1 => 8,
            2 => {
                let (length, begin) = varint(message, at)?;
                at = begin;
                usize::try_from(length).ok()?
            }
            5 => 4,
            _ => return None,
        };
        let content = at..at.checked_add(length).filter(|end| *end <= message.len())?;
        Some(Self {
            number: key >> 3,
            whole: start..content.end,
            content,
        })
    }
}

fn varint(message: &[u8], start: usize) -> Option<(u64, usize)> {
    let bytes = message.get(start..)?.iter().take(10).enumerate();
    let mut value = 0;
    for (place, byte) in bytes {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, start + place + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use mesh_core::Snapshot;
    use mesh_core::config::{
        Cluster, ClusterName, Endpoint, FilterOverride, Localities, Metadata, Override, Route, RouteTree, Split,
        TlsMode,
    };

    use crate::encode;

    const TIMES: usize = 20;
    const NAMES: [&str; 6] = ["f", "e", "longer", "c", "b", "a"];

    fn overrides() -> Vec<FilterOverride> {
        let one = |name: &str| FilterOverride {
            filter: name.into(),
            what: Override::Disabled,
        };
        NAMES.into_iter().map(one).collect()
    }

    /// One that says something of six filters wherever that can be said.
    fn tree() -> RouteTree {
        let builder = Snapshot::builder().cluster(Cluster::new("to", TlsMode::Plaintext, Vec::new()));
        let snapshot = builder.route("t", Route::to(Split::all_to("to"))).build().unwrap();
        let mut tree = RouteTree::clone(snapshot.target("t").unwrap().as_ref().unwrap());
        tree.filter_overrides = overrides();
        for host in &mut tree.virtual_hosts {
            host.filter_overrides = overrides();
        }
        tree
    }

    #[test]
    fn equal_values_are_equal_bytes() {
        let said = NAMES
            .iter()
            .flat_map(|filter| NAMES.iter().map(move |key| (*filter, *key, "v")))
            .take(Metadata::MAX_VALUES);
        let mut endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
        endpoint.metadata = Metadata::new(said).unwrap().into();
        let endpoints = || {
            encode::endpoints(
                &ClusterName::from("c"),
                &[endpoint.clone()],
                &[],
                &Localities::default(),
            )
        };
        let (routes, first) = (encode::routes(&tree()), endpoints());
        for _ in 0..TIMES {
            assert_eq!(encode::routes(&tree()), routes);
            assert_eq!(endpoints(), first);
        }
    }

    /// Each entry is whole, and they are in order: of the first list of keys in these bytes.
    #[test]
    fn entries_are_in_the_order_of_their_names() {
        let bytes = encode::routes(&tree());
        let place = |name: &str| {
            // An entry begins with its key.
            let key = [&[0x0a, name.len() as u8][..], name.as_bytes()].concat();
            bytes.windows(key.len()).position(|window| window == key).unwrap()
        };
        let places = ["a", "b", "c", "e", "f", "longer"].map(place);
        assert!(places.is_sorted(), "{places:?}");
    }
}
