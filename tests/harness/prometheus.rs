//! What a scrape says, read as Prometheus reads it, and judged as Kiali judges it before it draws an edge.

use std::collections::BTreeMap;

/// One sample of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name, the suffix of a histogram's included.
    pub name: String,
    /// Its labels. Prometheus drops those that are empty, and so does this.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label; empty: there is none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Reads the text format 0.0.4.
///
/// # Panics
///
/// At a line that is none of it, at a family that does not stand together, and at a series that is there twice.
pub fn parse(text: &str) -> Vec<Sample> {
    let (mut samples, mut families) = (Vec::<Sample>::new(), Vec::<&str>::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next(), words.next());
            let (name, rest) = (name.expect("a name"), rest.expect("a text"));
            match kind {
                Some("HELP") => {
                    assert!(!families.contains(&name), "{name} does not stand together");
                    families.push(name);
                }
                Some("TYPE") => {
                    assert_eq!(families.last(), Some(&name), "HELP comes before TYPE");
                    assert!(matches!(rest, "counter" | "gauge" | "histogram"), "{line}");
                }
                _ => panic!("not a comment of the format: {line}"),
            }
            continue;
        }
        let sample = sample(line).unwrap_or_else(|| panic!("not a sample: {line}"));
        let family = families.last().expect("a family begins with its comments");
        let suffix = sample.name.strip_prefix(family).expect("a sample is of its family");
        assert!(matches!(suffix, "" | "_bucket" | "_sum" | "_count"), "{line}");
        let is_known = |other: &Sample| (&other.name, &other.labels) == (&sample.name, &sample.labels);
        assert!(!samples.iter().any(is_known), "twice: {line}");
        samples.push(sample);
    }
    samples
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        if !value.is_empty() {
            labels.insert(label.to_owned(), value);
        }
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

/// A text up to the quote that ends it, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut out, mut characters) = (String::new(), text.char_indices());
    loop {
        match characters.next()? {
            (at, '"') => return Some((out, &text[at + 1..])),
            (_, '\\') => out.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => out.push(other),
        }
    }
}

/// By what Kiali groups calls (`G` of its queries), but for what may be absent.
const GROUPED: [&str; 15] = [
    "source_workload_namespace",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_service_namespace",
    "destination_service",
    "destination_service_name",
    "destination_workload_namespace",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "request_protocol",
    "response_code",
    "response_flags",
    "reporter",
];

/// Why Kiali would leave a series out of its graph; `None`: it draws it.
pub fn skipped(sample: &Sample) -> Option<String> {
    let is_known = |name: &str| !matches!(sample.label(name), "" | "unknown");
    if let Some(absent) = GROUPED.iter().find(|name| sample.label(name).is_empty()) {
        return Some(format!("it has no {absent}"));
    }
    for side in ["source", "destination"] {
        let of = |what: &str| format!("{side}_{what}");
        if !is_known(&of("workload_namespace")) {
            continue;
        }
        if side == "source" && !is_known(&of("workload")) && !is_known(&of("canonical_service")) {
            return Some("its source is in a namespace and is nobody".to_owned());
        }
        // A destination's is repaired where the namespace of its service is known.
        let is_repaired = side == "destination" && is_known("destination_service_namespace");
        if !is_known(&of("cluster")) && !is_repaired {
            return Some(format!("its {side} is in a namespace of no cluster"));
        }
    }
    let service = sample.label("destination_service");
    let host = service.rsplit_once(':').map_or(service, |(host, _)| host);
    let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    (is_address && service == sample.label("destination_service_name") && !is_known("destination_workload"))
        .then(|| "it is called by an address and is nobody".to_owned())
}

/// What Kiali takes two reporters' series for one edge by.
pub fn edge(sample: &Sample) -> Vec<String> {
    let by = [
        "source_cluster",
        "source_workload_namespace",
        "source_workload",
        "source_canonical_service",
        "source_canonical_revision",
        "destination_cluster",
        "destination_workload_namespace",
        "destination_workload",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
        "request_protocol",
        "response_code",
        "grpc_response_status",
        "response_flags",
    ];
    by.map(|name| sample.label(name).to_owned()).into()
}
