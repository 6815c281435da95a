//! What a connection manager has told of calls: its access logs.
//!
//! A process has one place to write to, the application's, so several logs are one here: a call is written once, if one of them takes it.
//! Where and in which form a log is written is for a proxy. A log to somewhere else (a service of logs), and one whose filter is not known,
//! is noted and not written: nothing that is told of calls is worth a configuration that is refused.

use mesh_core::config::{Comparison, LogFilter, Telemetry};
use prost::Name as _;

use super::Notes;
use super::common::{fraction, unpack};
use super::extension::type_name;
use crate::proto::accesslog::access_log::ConfigType;
use crate::proto::accesslog::access_log_filter::FilterSpecifier;
use crate::proto::accesslog::comparison_filter::Op;
use crate::proto::accesslog::{AccessLog, AccessLogFilter, ExtensionFilter, RuntimeFilter, StatusCodeFilter};
use crate::proto::accesslog::{ExpressionFilter, extension_filter};
use crate::proto::hcm::HttpConnectionManager;

/// Logs that are lines of text somewhere at the proxy.
const LINES: [&str; 3] = [
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
];

/// Reads what is told of the calls of a connection manager.
pub(super) fn of(manager: &HttpConnectionManager, notes: &mut Notes) -> Telemetry {
    let mut tests = 0;
    let mut filters = Vec::new();
    for log in &manager.access_log {
        match access_log(log, &mut tests) {
            Ok(filter) => filters.push(filter),
            Err(why) => notes.add(format_args!("access log {:?} is not written: {why}", log.name)),
        }
    }
    Telemetry {
        access_log: LogFilter::any_of(filters).map(Into::into),
    }
}

fn access_log(log: &AccessLog, tests: &mut usize) -> Result<LogFilter, String> {
    match &log.config_type {
        Some(ConfigType::TypedConfig(any)) if LINES.contains(&type_name(&any.type_url)) => {}
        Some(ConfigType::TypedConfig(any)) => return Err(format!("it is a {:?}", type_name(&any.type_url))),
        None => return Err("it has no configuration".into()),
    }
    log.filter
        .as_ref()
        .map_or(Ok(LogFilter::All), |one| filter(one, 0, tests))
}

fn filter(proto: &AccessLogFilter, depth: usize, tests: &mut usize) -> Result<LogFilter, String> {
    *tests += 1;
    if *tests > LogFilter::MAX_TESTS || depth >= LogFilter::MAX_DEPTH {
        return Err("its filters are too many or too deep".into());
    }
    let mut several = |filters: &[AccessLogFilter]| -> Result<Box<[LogFilter]>, String> {
        filters.iter().map(|one| filter(one, depth + 1, tests)).collect()
    };
    match &proto.filter_specifier {
        Some(FilterSpecifier::StatusCodeFilter(of)) => status(of),
        Some(FilterSpecifier::AndFilter(and)) => several(&and.filters).map(LogFilter::Each),
        Some(FilterSpecifier::OrFilter(or)) => several(&or.filters).map(LogFilter::Any),
        Some(FilterSpecifier::RuntimeFilter(runtime)) => share(runtime),
        Some(FilterSpecifier::ExtensionFilter(extension)) => expression(extension),
        // Nothing is a health check here.
        Some(FilterSpecifier::NotHealthCheckFilter(_)) => Ok(LogFilter::All),
        Some(_) => Err("its filter is not supported".into()),
        None => Err("its filter is empty".into()),
    }
}

fn status(proto: &StatusCodeFilter) -> Result<LogFilter, String> {
    let comparison = proto.comparison.as_ref().ok_or("its comparison is missing")?;
    let how = match Op::try_from(comparison.op) {
        Ok(Op::Eq) => Comparison::Equal,
        Ok(Op::Ne) => Comparison::Different,
        Ok(Op::Ge) => Comparison::AtLeast,
        Ok(Op::Le) => Comparison::AtMost,
        Err(_) => return Err(format!("{} is not a comparison", comparison.op)),
    };
    // There is no runtime that could change it.
    let value = comparison.value.as_ref().map_or(0, |value| value.default_value);
    let value = u16::try_from(value).map_err(|_| format!("{value} is not a status"))?;
    Ok(LogFilter::Status(how, value))
}

fn share(proto: &RuntimeFilter) -> Result<LogFilter, String> {
    let share = proto.percent_sampled.as_ref().map(fraction).transpose();
    let share = share.map_err(|fault| fault.to_string())?;
    Ok(LogFilter::Share(share.unwrap_or_default()))
}

/// Istio writes the expressions of Telemetry documents as they are.
fn expression(proto: &ExtensionFilter) -> Result<LogFilter, String> {
    let Some(extension_filter::ConfigType::TypedConfig(any)) = &proto.config_type else {
        return Err("its filter has no configuration".into());
    };
    if type_name(&any.type_url) != ExpressionFilter::full_name() {
        return Err(format!("its filter is a {:?}", type_name(&any.type_url)));
    }
    let filter: ExpressionFilter = unpack("typed_config", any).map_err(|fault| fault.to_string())?;
    LogFilter::parse(&filter.expression).map_err(|error| error.to_string())
}
