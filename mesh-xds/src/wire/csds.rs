//! The messages and the stub of CSDS, as the plain values of [`crate::csds`].

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::Request;
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{Extensions, Status, Streaming};
use tower::Service;

use super::codec::Weighed;
use super::method::{Answering, Measure, streaming, unary};
use super::variant::MESSAGE;
use super::weigh::{Heavy, Inside, Shape, list, way};

#[cfg(feature = "server")]
use super::node_matcher::NodeMatch;
use crate::client::{CacheState, RawBytes};
use crate::csds::{ClientView, Failure, ResourceView, Sync, Tell};
use crate::decode::clip;
use crate::proto::admin::{ClientResourceStatus, UpdateFailureState};
use crate::proto::protobuf::{Any, Timestamp};
use crate::proto::status::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus, client_config::GenericXdsConfig,
};

const SERVICE: &str = "envoy.service.status.v3.ClientStatusDiscoveryService";
const STREAM: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus";
const FETCH: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";

/// The largest request taken: it holds matchers and perhaps the asker's node.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// What a question may take with all that is made of it.
const MAX_HELD_QUESTION_BYTES: usize = 64 * MAX_REQUEST_BYTES;
/// How large an answer becomes at most before contents are left out: what gRPC readers take by default.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// How much of an answer reasons take at most, the texts of clients. Those for which there is no room are shortened to
/// [`SHORT_REASON_BYTES`]: enough to see whose they are.
const MAX_REASONS_BYTES: usize = 1024 * 1024;
const SHORT_REASON_BYTES: usize = 128;
/// The largest answer that is read. Without contents, a resource takes some 200 bytes.
const MAX_READ_BYTES: usize = 64 * 1024 * 1024;
/// What it may take with all that is made of it.
const MAX_HELD_READ_BYTES: usize = 8 * MAX_READ_BYTES;

/// Matchers nest in one another, and the largest is no larger than this. The asker's node is not looked at.
static QUESTION: Measure = Measure {
    bytes: MAX_REQUEST_BYTES,
    held: MAX_HELD_QUESTION_BYTES,
    shape: &Shape { more: 512, ..MESSAGE },
};
/// The value of an `Any`.
const SEALED: Heavy = Heavy {
    number: 2,
    bytes: 0,
    inside: Inside::Sealed,
};
static ANSWER: Shape = Shape {
    more: 512,
    heavy: &[list::<ClientConfig>(
        1,
        // What resources hold stays bytes.
        &[list::<GenericXdsConfig>(
            3,
            &[way(4, &[SEALED]), way(8, &[way(1, &[SEALED])])],
        )],
    )],
    ..MESSAGE
};

/// What is asked.
#[derive(Debug, Default)]
pub(crate) struct Question {
    #[cfg(feature = "server")]
    matchers: Vec<NodeMatch>,
    /// Whether it is about some clients and not others.
    pub(crate) has_matchers: bool,
    without_contents: bool,
}

#[cfg(feature = "server")]
impl Question {
    /// Whether it is about this one: about all, or one of the matchers takes it.
    pub(crate) fn is_about(&self, node: &crate::node::Node) -> bool {
        !self.has_matchers || self.matchers.iter().any(|matcher| matcher.is_match(node))
    }
}

impl TryFrom<ClientStatusRequest> for Question {
    type Error = Status;

    fn try_from(request: ClientStatusRequest) -> Result<Self, Status> {
        #[cfg(feature = "server")]
        let read = |(index, matcher)| {
            NodeMatch::read(matcher).map_err(|fault| {
                let fault = fault.within(format_args!("node_matchers[{index}]"));
                Status::invalid_argument(fault.to_string())
            })
        };
        Ok(Self {
            #[cfg(feature = "server")]
            matchers: request
                .node_matchers
                .iter()
                .enumerate()
                .map(read)
                .collect::<Result<_, _>>()?,
            has_matchers: !request.node_matchers.is_empty(),
            without_contents: request.exclude_resource_contents,
        })
    }
}

/// The service around a [`Tell`].
#[derive(Clone, Debug)]
pub(crate) struct StatusServer(Arc<dyn Tell>);

/// The service around `tell`.
pub(crate) fn service(tell: Arc<dyn Tell>) -> StatusServer {
    StatusServer(tell)
}

impl StatusServer {
    fn answer(&self, request: ClientStatusRequest, caller: &Extensions) -> Result<ClientStatusResponse, Status> {
        let question = Question::try_from(request)?;
        let clients = self.0.tell(&question, caller)?;
        Ok(answer(clients, question.without_contents))
    }
}

impl NamedService for StatusServer {
    const NAME: &'static str = SERVICE;
}

impl<B> Service<Request<B>> for StatusServer
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        let server = self.clone();
        let method = [STREAM, FETCH].map(|method| request.uri().path() == method);
        Box::pin(async move {
            Ok(match method {
                [true, _] => {
                    let begin = |request: tonic::Request<Streaming<ClientStatusRequest>>| {
                        let (_, caller, requests) = request.into_parts();
                        let server = server.clone();
                        // Pulled: the next request is read when the answer to the one before is gone.
                        Ok(requests.map(move |request| server.answer(request?, &caller)))
                    };
                    streaming(request, &QUESTION, begin).await
                }
                [_, true] => {
                    let tell = |request: tonic::Request<ClientStatusRequest>| {
                        let (_, caller, request) = request.into_parts();
                        server.answer(request, &caller)
                    };
                    unary(request, &QUESTION, tell).await
                }
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// Asks for everything that is known, and says why there is no answer.
pub(crate) async fn fetch(channel: Channel) -> Result<Vec<ClientView>, String> {
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_READ_BYTES);
    let codec = Weighed::<ClientStatusRequest, ClientStatusResponse>::new(&ANSWER, MAX_HELD_READ_BYTES);
    let request = tonic::Request::new(ClientStatusRequest::default());
    let unready = |error| format!("the service is not ready: {error}");
    client.ready().await.map_err(unready)?;
    let answer = client.unary(request, PathAndQuery::from_static(FETCH), codec).await;
    let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    Ok(answer.into_inner().config.into_iter().map(Into::into).collect())
}

/// Words an answer. Contents go in as long as there is room beside what says how things stand.
pub(crate) fn answer(clients: Vec<ClientView>, without_contents: bool) -> ClientStatusResponse {
    let mut withheld = Vec::new();
    let mut room_for_reasons = MAX_REASONS_BYTES;
    let mut answer = ClientStatusResponse::default();
    for mut client in clients {
        for resource in &mut client.resources {
            let refused = resource.failure.as_mut().and_then(|failure| {
                match room_for_reasons.checked_sub(failure.details.len()) {
                    Some(room) => room_for_reasons = room,
                    None => failure.details = clip(&failure.details, SHORT_REASON_BYTES).into_owned(),
                }
                failure.configuration.take()
            });
            withheld.push((refused, resource.contents.take()));
        }
        answer.config.push(client.into());
    }
    let mut room = match without_contents {
        true => 0,
        false => MAX_ANSWER_BYTES.saturating_sub(answer.encoded_len()),
    };
    let mut fitting = |type_url: &str, bytes: Option<RawBytes>| {
        let any = any(type_url, &bytes?);
        // The tag and length of the field, and what its growth adds to the lengths of the messages around it.
        let cost = any.encoded_len() + 16;
        room = room.checked_sub(cost)?;
        Some(any)
    };
    let resources = answer
        .config
        .iter_mut()
        .flat_map(|client| &mut client.generic_xds_configs);
    let mut resources: Vec<_> = resources.zip(withheld).collect();
    // What was refused goes first: it is little, and what one looks for when there is any.
    for (resource, (refused, _)) in &mut resources {
        if let Some(failure) = &mut resource.error_state {
            failure.failed_configuration = fitting(&resource.type_url, refused.take());
        }
    }
    for (resource, (_, contents)) in resources {
        resource.xds_config = fitting(&resource.type_url, contents);
    }
    answer
}

fn any(type_url: &str, bytes: &RawBytes) -> Any {
    Any {
        type_url: type_url.into(),
        value: bytes.as_ref().to_vec(),
    }
}

impl From<ClientView> for ClientConfig {
    fn from(client: ClientView) -> Self {
        Self {
            node: Some((&client.node).into()),
            generic_xds_configs: client.resources.into_iter().map(Into::into).collect(),
            client_scope: client.scope,
            ..Self::default()
        }
    }
}

impl From<ClientConfig> for ClientView {
    fn from(client: ClientConfig) -> Self {
        Self {
            node: client.node.unwrap_or_default().into(),
            scope: client.client_scope,
            resources: client.generic_xds_configs.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ResourceView> for GenericXdsConfig {
    fn from(resource: ResourceView) -> Self {
        let contents = resource.contents.map(|contents| any(&resource.type_url, &contents));
        let failure = resource
            .failure
            .map(|failure| failure_state(failure, &resource.type_url));
        Self {
            xds_config: contents,
            type_url: resource.type_url,
            name: resource.name,
            version_info: resource.version,
            last_updated: resource.updated.map(timestamp),
            config_status: config_status(resource.sync).into(),
            client_status: resource
                .state
                .map_or(ClientResourceStatus::Unknown, client_status)
                .into(),
            error_state: failure,
            is_static_resource: false,
        }
    }
}

impl From<GenericXdsConfig> for ResourceView {
    fn from(resource: GenericXdsConfig) -> Self {
        let sync = |sync: &Sync| i32::from(config_status(*sync)) == resource.config_status;
        let state = |state: &CacheState| i32::from(client_status(*state)) == resource.client_status;
        let syncs = [Sync::Synced, Sync::NotSent, Sync::Stale, Sync::Error];
        Self {
            sync: syncs.into_iter().find(sync).unwrap_or_default(),
            state: CacheState::ALL.into_iter().find(state),
            type_url: resource.type_url,
            name: resource.name,
            version: resource.version_info,
            contents: resource.xds_config.map(|any| RawBytes(any.value.into())),
            updated: resource.last_updated.and_then(system_time),
            failure: resource.error_state.map(Into::into),
        }
    }
}

fn failure_state(failure: Failure, type_url: &str) -> UpdateFailureState {
    UpdateFailureState {
        failed_configuration: failure.configuration.map(|bytes| any(type_url, &bytes)),
        last_update_attempt: failure.at.map(timestamp),
        details: failure.details,
        version_info: failure.version,
    }
}

impl From<UpdateFailureState> for Failure {
    fn from(state: UpdateFailureState) -> Self {
        Self {
            details: state.details,
            version: state.version_info,
            at: state.last_update_attempt.and_then(system_time),
            configuration: state.failed_configuration.map(|any| RawBytes(any.value.into())),
        }
    }
}

fn config_status(sync: Sync) -> ConfigStatus {
    match sync {
        Sync::Unknown => ConfigStatus::Unknown,
        Sync::Synced => ConfigStatus::Synced,
        Sync::NotSent => ConfigStatus::NotSent,
        Sync::Stale => ConfigStatus::Stale,
        Sync::Error => ConfigStatus::Error,
    }
}

fn client_status(state: CacheState) -> ClientResourceStatus {
    match state {
        CacheState::Requested => ClientResourceStatus::Requested,
        CacheState::DoesNotExist => ClientResourceStatus::DoesNotExist,
        CacheState::Acked => ClientResourceStatus::Acked,
        CacheState::Nacked => ClientResourceStatus::Nacked,
        CacheState::ReceivedError => ClientResourceStatus::ReceivedError,
        CacheState::Timeout => ClientResourceStatus::Timeout,
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().try_into().unwrap_or_default(),
    }
}

/// `None` before 1970 and beyond what the system can count.
fn system_time(timestamp: Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanos = u32::try_from(timestamp.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Node;
    use crate::proto::matcher::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
    use crate::proto::status::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;

    /// Two clients, of which a question may be about some.
    #[derive(Debug)]
    struct Two;

    impl Tell for Two {
        fn tell(&self, question: &Question, _: &Extensions) -> Result<Vec<ClientView>, Status> {
            let client = |id: &str| ClientView {
                node: Node {
                    id: id.into(),
                    ..Node::default()
                },
                ..ClientView::default()
            };
            let clients = ["a~1", "b~2"].map(client).into_iter();
            Ok(clients.filter(|client| question.is_about(&client.node)).collect())
        }
    }

    fn about(patterns: &[MatchPattern]) -> ClientStatusRequest {
        let matcher = |pattern: &MatchPattern| NodeMatcher {
            node_id: Some(StringMatcher {
                match_pattern: Some(pattern.clone()),
                ..StringMatcher::default()
            }),
            ..NodeMatcher::default()
        };
        ClientStatusRequest {
            node_matchers: patterns.iter().map(matcher).collect(),
            ..ClientStatusRequest::default()
        }
    }

    fn ids(answer: ClientStatusResponse) -> Vec<String> {
        let clients = answer.config.into_iter().map(ClientView::from);
        clients.map(|client| client.node.id).collect()
    }

    #[test]
    fn reasons_take_a_part_of_an_answer_however_many_clients_refuse() {
        let refused = ResourceView {
            failure: Some(Failure {
                details: "x".repeat(4096),
                ..Failure::default()
            }),
            ..ResourceView::default()
        };
        let client = ClientView {
            resources: vec![refused; 5],
            ..ClientView::default()
        };
        let told = answer(vec![client; 2_000], false);
        // Five types each: without a bound 40 MiB of reasons.
        assert!(told.encoded_len() < 3 * MAX_REASONS_BYTES, "{}", told.encoded_len());
        let details = |at: usize| {
            &told.config[at].generic_xds_configs[0]
                .error_state
                .as_ref()
                .unwrap()
                .details
        };
        assert_eq!((details(0).len(), details(1_999).len()), (4096, SHORT_REASON_BYTES + 3));
    }

    #[tokio::test]
    async fn a_stream_is_answered_once_per_request_and_ends_with_a_bad_one() {
        let mut client = ClientStatusDiscoveryServiceClient::new(service(Arc::new(Two)));
        let prefix = |text: &str| MatchPattern::Prefix(text.into());
        let requests = [
            about(&[]),
            about(&[MatchPattern::Exact("a~1".into())]),
            about(&[prefix("b"), prefix("c")]),
            about(&[prefix("a"), prefix("")]),
        ];
        let answers = client.stream_client_status(tokio_stream::iter(requests)).await.unwrap();
        let mut answers = answers.into_inner();
        for expected in [vec!["a~1", "b~2"], vec!["a~1"], vec!["b~2"]] {
            assert_eq!(ids(answers.message().await.unwrap().unwrap()), expected);
        }
        let refused = answers.message().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(
            refused.message().starts_with("node_matchers[1].node_id.prefix: "),
            "{refused}"
        );
    }
}
