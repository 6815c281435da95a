//! What a connection manager has told of calls.

use mesh_core::config::{Comparison, Fraction, LogFilter, Telemetry};

use super::common::fraction;
use crate::proto::access_file::{FileAccessLog, file_access_log};
use crate::proto::accesslog::{
    AccessLog, AccessLogFilter, AndFilter, ComparisonFilter, OrFilter, RuntimeFilter, StatusCodeFilter, access_log,
    access_log_filter::FilterSpecifier, comparison_filter::Op,
};
use crate::proto::core::{RuntimeUInt32, SubstitutionFormatString, substitution_format_string};
use crate::proto::pack;

/// The name Envoy's documents give a log in a file.
const FILE: &str = "envoy.access_loggers.file";
/// Where a proxy's lines go (Istio).
const STDOUT: &str = "/dev/stdout";
/// Envoy demands a name for what a runtime could change.
const RUNTIME: &str = "access_log";

/// Istio's fields of a line in JSON, and what Envoy puts there.
const FIELDS: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// The access logs of a connection manager.
pub(super) fn access_logs(telemetry: &Telemetry) -> Vec<AccessLog> {
    telemetry.access_log.iter().map(|filter| access_log(filter)).collect()
}

fn access_log(filter: &LogFilter) -> AccessLog {
    let format = SubstitutionFormatString {
        format: Some(substitution_format_string::Format::JsonFormat(super::common::texts(
            FIELDS,
        ))),
        ..SubstitutionFormatString::default()
    };
    let file = FileAccessLog {
        path: STDOUT.into(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format)),
    };
    AccessLog {
        name: FILE.into(),
        filter: (*filter != LogFilter::All).then(|| self::filter(filter)),
        config_type: Some(access_log::ConfigType::TypedConfig(pack(&file))),
    }
}

fn filter(filter: &LogFilter) -> AccessLogFilter {
    let several = |filters: &[LogFilter]| filters.iter().map(self::filter).collect();
    let specifier = match filter {
        // Among others there is no other word for it.
        LogFilter::All => share(Fraction::ALL),
        LogFilter::Share(of) => share(*of),
        LogFilter::Status(comparison, than) => FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(ComparisonFilter {
                op: match comparison {
                    Comparison::Equal => Op::Eq,
                    Comparison::Different => Op::Ne,
                    Comparison::AtLeast => Op::Ge,
                    Comparison::AtMost => Op::Le,
                } as i32,
                value: Some(RuntimeUInt32 {
                    default_value: (*than).into(),
                    runtime_key: RUNTIME.into(),
                }),
            }),
        }),
        LogFilter::Each(filters) => FilterSpecifier::AndFilter(AndFilter {
            filters: several(filters),
        }),
        LogFilter::Any(filters) => FilterSpecifier::OrFilter(OrFilter {
            filters: several(filters),
        }),
    };
    AccessLogFilter {
        filter_specifier: Some(specifier),
    }
}

fn share(of: Fraction) -> FilterSpecifier {
    FilterSpecifier::RuntimeFilter(RuntimeFilter {
        runtime_key: RUNTIME.into(),
        percent_sampled: Some(fraction(of)),
        ..RuntimeFilter::default()
    })
}
