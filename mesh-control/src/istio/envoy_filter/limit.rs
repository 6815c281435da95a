//! Envoy's `LocalRateLimit` as YAML.

use http::{HeaderName, StatusCode};
use mesh_core::config::{
    AppendAction, DescribeBy, Describing, DescriptorEntry, Fraction, HeaderEdit, HeaderEdits, HeaderFormat,
    HeaderMatch, HeaderTest, LocalDescriptor, LocalRateLimit, Pattern, Per, StringMatch, Subject, TokenBucket,
};

use super::super::fields::Fields;
use super::super::value::{Sink, Value};
use super::super::values::duration;

/// Whom a limit concerns that does not say so.
const NOBODY: Fraction = Fraction::percent(0);

/// Reads it. What is not said is what Envoy takes for granted: nobody is concerned (`filter_enabled`), and nothing enforced.
pub(super) fn read(mut fields: Fields, sink: &mut Sink<'_>) -> Option<LocalRateLimit> {
    let place = fields.place.clone();
    // It names statistics.
    drop(fields.take("statPrefix"));
    let bucket = fields.take("tokenBucket").map(|value| bucket(value, sink));
    let status = fields.take("status").map(|value| status(value, sink));
    let enabled = fields.take("filterEnabled").map(|value| fraction(value, sink));
    let enforced = fields.take("filterEnforced").map(|value| fraction(value, sink));
    let response_headers = edits(&mut fields, "responseHeadersToAdd", sink);
    let request_headers = edits(&mut fields, "requestHeadersToAddWhenNotEnforced", sink);
    let descriptors = fields.list("descriptors", sink, descriptor);
    let describing = fields.list("rateLimits", sink, describing);
    let per_connection = flag(&mut fields, "localRateLimitPerDownstreamConnection", false, sink);
    let always_consume_default = flag(&mut fields, "alwaysConsumeDefaultTokenBucket", true, sink);
    let resource_exhausted = flag(&mut fields, "rateLimitedAsResourceExhausted", false, sink);
    let max_dynamic = fields
        .take("maxDynamicDescriptors")
        .and_then(|value| value.number(LocalRateLimit::MAX_DYNAMIC, sink))
        .map_or(LocalRateLimit::DEFAULT_MAX_DYNAMIC, |number| number.value);
    let quota_headers = match fields.string("enableXRatelimitHeaders", sink) {
        None => false,
        Some(word) if word.value == "OFF" => false,
        Some(word) if word.value == "DRAFT_VERSION_03" => true,
        Some(word) => {
            sink.schema(
                &word.place,
                format!("{:?} is not one of OFF, DRAFT_VERSION_03", word.value),
            );
            false
        }
    };
    let why = "it would limit otherwise than it says: a workload's requests have no routes here";
    fields.refused(&["stage", "vhRateLimits", "localClusterRateLimit"], why, sink);
    fields.finish(sink);
    if descriptors.len() > LocalRateLimit::MAX_DESCRIPTORS {
        let message = format!("holds more than {} descriptors", LocalRateLimit::MAX_DESCRIPTORS);
        sink.schema(&place, message);
        return None;
    }
    let Some(bucket) = bucket else {
        sink.schema(&place, "token_bucket is required");
        return None;
    };
    Some(LocalRateLimit {
        descriptors,
        enabled: enabled.unwrap_or(Some(NOBODY))?,
        enforced: enforced.unwrap_or(Some(NOBODY))?,
        status: status.unwrap_or(Some(StatusCode::TOO_MANY_REQUESTS))?,
        resource_exhausted,
        response_headers,
        request_headers,
        per_connection,
        quota_headers,
        always_consume_default,
        describing,
        max_dynamic: max_dynamic.max(1),
        ..LocalRateLimit::new(bucket?)
    })
}

fn flag(fields: &mut Fields, name: &str, default: bool, sink: &mut Sink<'_>) -> bool {
    let flag = fields.take(name).and_then(|value| value.boolean(sink));
    flag.map_or(default, |flag| flag.value)
}

fn bucket(value: Value, sink: &mut Sink<'_>) -> Option<TokenBucket> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let number = |fields: &mut Fields, name: &str, sink: &mut Sink<'_>| {
        let number = fields.take(name).and_then(|value| value.number(u32::MAX, sink));
        number.map(|number| number.value)
    };
    let max = number(&mut fields, "maxTokens", sink);
    let per_fill = number(&mut fields, "tokensPerFill", sink);
    let interval = fields.take("fillInterval").map(|value| duration(value, sink));
    fields.finish(sink);
    let (Some(max), Some(interval)) = (max, interval) else {
        sink.schema(&place, "max_tokens and fill_interval are required");
        return None;
    };
    let bucket = TokenBucket::new(max, per_fill.unwrap_or(1), interval?.value);
    bucket.map_err(|error| sink.schema(&place, error.to_string())).ok()
}

/// Envoy: what is no error is 429.
fn status(value: Value, sink: &mut Sink<'_>) -> Option<StatusCode> {
    let mut fields = value.object(sink)?;
    let code = fields.take("code").and_then(|value| value.number(599, sink));
    fields.finish(sink);
    match code?.value {
        0..400 => Some(StatusCode::TOO_MANY_REQUESTS),
        code => StatusCode::from_u16(code as u16).ok(),
    }
}

fn fraction(value: Value, sink: &mut Sink<'_>) -> Option<Fraction> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    // There is no runtime that could say otherwise.
    drop(fields.take("runtimeKey"));
    let default = fields.take("defaultValue").and_then(|value| value.object(sink));
    fields.finish(sink);
    let Some(mut default) = default else {
        sink.schema(&place, "default_value is required");
        return None;
    };
    let of = default.take("numerator").and_then(|value| value.number(u32::MAX, sink));
    let per = match default.string("denominator", sink) {
        None => Some(Per::Hundred),
        Some(word) => match word.value.as_str() {
            "HUNDRED" => Some(Per::Hundred),
            "TEN_THOUSAND" => Some(Per::TenThousand),
            "MILLION" => Some(Per::Million),
            other => {
                let message = format!("{other:?} is not one of HUNDRED, TEN_THOUSAND, MILLION");
                sink.schema(&word.place, message);
                None
            }
        },
    };
    default.finish(sink);
    Some(Fraction {
        of: of.map_or(0, |of| of.value),
        per: per?,
    })
}

fn edits(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> HeaderEdits {
    HeaderEdits {
        remove: Vec::new(),
        add: fields.list(name, sink, edit),
    }
}

fn edit(value: Value, sink: &mut Sink<'_>) -> Option<HeaderEdit> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let header = fields.take("header").and_then(|value| value.object(sink));
    let append = fields.take("append").and_then(|value| value.boolean(sink));
    let action = match fields.string("appendAction", sink) {
        // Istio's own example says `append: false`.
        None if append.is_some_and(|append| !append.value) => AppendAction::OverwriteIfExistsOrAdd,
        None => AppendAction::AppendIfExistsOrAdd,
        Some(word) => match word.value.as_str() {
            "APPEND_IF_EXISTS_OR_ADD" => AppendAction::AppendIfExistsOrAdd,
            "ADD_IF_ABSENT" => AppendAction::AddIfAbsent,
            "OVERWRITE_IF_EXISTS_OR_ADD" => AppendAction::OverwriteIfExistsOrAdd,
            "OVERWRITE_IF_EXISTS" => AppendAction::OverwriteIfExists,
            other => {
                sink.schema(&word.place, format!("{other:?} is not an append_action"));
                return None;
            }
        },
    };
    fields.finish(sink);
    let Some(mut header) = header else {
        sink.schema(&place, "header is required");
        return None;
    };
    let key = header.required_string("key", sink);
    let value = header.required_string("value", sink);
    header.finish(sink);
    let (key, value) = (key?, value?);
    let name = HeaderName::try_from(key.value.as_str());
    let format = HeaderFormat::parse(&value.value);
    match (name, format) {
        (Ok(name), Ok(format)) if format.is_literal() => match HeaderEdit::new(name, format, action) {
            Ok(edit) => Some(edit),
            Err(error) => {
                sink.schema(&key.place, error.to_string());
                None
            }
        },
        (Err(_), _) => {
            sink.schema(&key.place, format!("is not a header name: {:?}", key.value));
            None
        }
        _ => {
            sink.schema(&value.place, "must be the same for all requests");
            None
        }
    }
}

fn descriptor(value: Value, sink: &mut Sink<'_>) -> Option<LocalDescriptor> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let entries = fields.list("entries", sink, |value, sink| {
        let mut fields = value.object(sink)?;
        let key = fields.required_string("key", sink);
        let value = fields.string("value", sink);
        fields.finish(sink);
        Some(DescriptorEntry::new(
            key?.value,
            value.map(|value| value.value).unwrap_or_default(),
        ))
    });
    let bucket = fields.take("tokenBucket").map(|value| bucket(value, sink));
    let shadow = flag(&mut fields, "shadowMode", false, sink);
    fields.finish(sink);
    if entries.is_empty() || entries.len() > Describing::MAX_PARTS {
        let message = format!("entries must hold between 1 and {}", Describing::MAX_PARTS);
        sink.schema(&place, message);
        return None;
    }
    let Some(bucket) = bucket else {
        sink.schema(&place, "token_bucket is required");
        return None;
    };
    Some(LocalDescriptor {
        entries,
        bucket: bucket?,
        shadow,
    })
}

fn describing(value: Value, sink: &mut Sink<'_>) -> Option<Describing> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let by = fields.list("actions", sink, part);
    let why = "it would limit otherwise than it says";
    fields.refused(
        &["stage", "disableKey", "limit", "hitsAddend", "applyOnStreamDone"],
        why,
        sink,
    );
    fields.finish(sink);
    if by.is_empty() || by.len() > Describing::MAX_PARTS {
        let message = format!("actions must hold between 1 and {}", Describing::MAX_PARTS);
        sink.schema(&place, message);
        return None;
    }
    Some(Describing { stage: 0, by })
}

fn part(value: Value, sink: &mut Sink<'_>) -> Option<DescribeBy> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let mut found = Vec::new();
    for (name, read) in [
        ("genericKey", generic as fn(Fields, &mut Sink<'_>) -> Option<DescribeBy>),
        ("requestHeaders", header),
        ("queryParameters", query),
        ("remoteAddress", remote),
        ("maskedRemoteAddress", masked),
        ("headerValueMatch", matching),
    ] {
        if let Some(inner) = fields.take(name).and_then(|value| value.object(sink)) {
            found.push(read(inner, sink));
        }
    }
    let why = "it would limit otherwise than it says";
    let others = [
        "destinationCluster",
        "sourceCluster",
        "dynamicMetadata",
        "metadata",
        "extension",
        "queryParameterValueMatch",
    ];
    fields.refused(&others, why, sink);
    fields.finish(sink);
    if found.len() != 1 {
        sink.schema(&place, "exactly one kind of action must be given");
        return None;
    }
    found.pop().flatten()
}

fn key(fields: &mut Fields, default: &str, sink: &mut Sink<'_>) -> Box<str> {
    let key = fields.string("descriptorKey", sink).filter(|key| !key.is_empty());
    key.map_or_else(|| default.into(), |key| key.value.into())
}

fn words(fields: &mut Fields, sink: &mut Sink<'_>) -> Option<Box<str>> {
    let text = fields.required_string("descriptorValue", sink)?;
    if text.contains('%') {
        sink.schema(&text.place, "must be the same for all requests");
        return None;
    }
    Some(text.value.into())
}

fn generic(mut fields: Fields, sink: &mut Sink<'_>) -> Option<DescribeBy> {
    let key = key(&mut fields, "generic_key", sink);
    let value = words(&mut fields, sink);
    fields.finish(sink);
    Some(DescribeBy::Generic(DescriptorEntry::new(key, value?)))
}

fn subject(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> Option<Subject> {
    let text = fields.required_string(name, sink)?;
    let subject = Subject::parse(&text.value);
    if subject.is_none() {
        sink.schema(&text.place, format!("is not a header name: {:?}", text.value));
    }
    subject
}

fn header(mut fields: Fields, sink: &mut Sink<'_>) -> Option<DescribeBy> {
    let subject = subject(&mut fields, "headerName", sink);
    let key = fields.required_string("descriptorKey", sink);
    let skip_if_absent = flag(&mut fields, "skipIfAbsent", false, sink);
    fields.finish(sink);
    Some(DescribeBy::Header {
        subject: subject?,
        key: key?.value.into(),
        skip_if_absent,
    })
}

fn query(mut fields: Fields, sink: &mut Sink<'_>) -> Option<DescribeBy> {
    let name = fields.required_string("queryParameterName", sink);
    let key = fields.required_string("descriptorKey", sink);
    let skip_if_absent = flag(&mut fields, "skipIfAbsent", false, sink);
    fields.finish(sink);
    Some(DescribeBy::Query {
        name: name?.value.into(),
        key: key?.value.into(),
        skip_if_absent,
    })
}

fn remote(fields: Fields, sink: &mut Sink<'_>) -> Option<DescribeBy> {
    fields.finish(sink);
    Some(DescribeBy::RemoteAddress)
}

fn masked(mut fields: Fields, sink: &mut Sink<'_>) -> Option<DescribeBy> {
    let mut bits = |name: &str, most: u8| {
        let bits = fields.take(name).and_then(|value| value.number(most.into(), sink));
        bits.map_or(most, |bits| bits.value as u8)
    };
    let (v4, v6) = (bits("v4PrefixMaskLen", 32), bits("v6PrefixMaskLen", 128));
    fields.finish(sink);
    Some(DescribeBy::MaskedRemoteAddress { v4, v6 })
}

fn matching(mut fields: Fields, sink: &mut Sink<'_>) -> Option<DescribeBy> {
    let place = fields.place.clone();
    let key = key(&mut fields, "header_match", sink);
    let value = words(&mut fields, sink);
    let expect = flag(&mut fields, "expectMatch", true, sink);
    let headers = fields.list("headers", sink, header_match);
    fields.finish(sink);
    if headers.is_empty() {
        sink.schema(&place, "headers is required");
        return None;
    }
    Some(DescribeBy::HeaderValueMatch {
        entry: DescriptorEntry::new(key, value?),
        headers,
        expect,
    })
}

fn header_match(value: Value, sink: &mut Sink<'_>) -> Option<HeaderMatch> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let subject = subject(&mut fields, "name", sink);
    let mut tests = Vec::new();
    if let Some(present) = fields.take("presentMatch").and_then(|value| value.boolean(sink)) {
        tests.push((HeaderTest::Present, !present.value));
    }
    for (name, make) in TEXTS {
        if let Some(text) = fields.string(&format!("{name}Match"), sink) {
            tests.push((HeaderTest::Value(make(text.value.into())), false));
        }
    }
    if let Some(test) = fields.take("stringMatch").and_then(|value| string_match(value, sink)) {
        tests.push((HeaderTest::Value(test), false));
    }
    let invert = flag(&mut fields, "invertMatch", false, sink);
    let missing_is_empty = flag(&mut fields, "treatMissingHeaderAsEmpty", false, sink);
    fields.finish(sink);
    let (Some((test, turned)), true) = (tests.pop(), tests.is_empty()) else {
        sink.schema(&place, "exactly one test of the header must be given");
        return None;
    };
    Some(HeaderMatch {
        invert: invert != turned,
        missing_is_empty,
        ..HeaderMatch::new(subject?, test)
    })
}

type Make = fn(Box<str>) -> StringMatch;

const TEXTS: [(&str, Make); 4] = [
    ("exact", StringMatch::Exact),
    ("prefix", StringMatch::Prefix),
    ("suffix", StringMatch::Suffix),
    ("contains", StringMatch::Contains),
];

fn string_match(value: Value, sink: &mut Sink<'_>) -> Option<StringMatch> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let mut tests = Vec::new();
    for (name, make) in TEXTS {
        if let Some(text) = fields.string(name, sink) {
            tests.push(make(text.value.into()));
        }
    }
    if let Some(mut regex) = fields.take("safeRegex").and_then(|value| value.object(sink)) {
        drop(regex.take("googleRe2"));
        let text = regex.required_string("regex", sink);
        regex.finish(sink);
        let text = text?;
        match Pattern::new(&text.value) {
            Ok(pattern) => tests.push(StringMatch::Regex(pattern)),
            Err(error) => sink.schema(&text.place, error.to_string()),
        }
    }
    fields.finish(sink);
    let (Some(test), true) = (tests.pop(), tests.is_empty()) else {
        sink.schema(&place, "exactly one test must be given");
        return None;
    };
    Some(test)
}
