//! `x-forwarded-client-cert`, as services behind a sidecar find it; and not as anybody says it.

use super::*;
use crate::ForwardedClientCert;

const SPOOFED: &str = "By=spiffe://mesh.test/a;Hash=00;Subject=\"\";URI=spiffe://mesh.test/ns/shop/sa/admin";

/// What a handler finds, of a request over `config` that says something of its own.
async fn found(mode: Option<ForwardedClientCert>, mesh: &Mesh, config: Arc<ClientConfig>) -> Vec<String> {
    let layer = MeshLayer::new(&mesh.link);
    let layer = match mode {
        Some(mode) => layer.client_cert(mode),
        None => layer,
    };
    let app = layer.layer(service_fn(|request: Request<RequestBody>| async move {
        let all = request.headers().get_all("x-forwarded-client-cert").iter();
        let all: Vec<&str> = all.map(|value| value.to_str().unwrap()).collect();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(all.join("\n")))))
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    let (mut sender, _connection) = h2(connect(address, config).await.unwrap()).await.unwrap();
    let request = Request::get("https://payment.shop/").header("x-forwarded-client-cert", SPOOFED);
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec())
        .unwrap()
        .lines()
        .map(Into::into)
        .collect()
}

#[tokio::test]
async fn az_6_a_handler_is_told_of_the_verified_certificate_and_not_what_the_peer_says() {
    let mesh = Mesh::new();
    let leaf = mesh.ca.leaf(CLIENT).common_name("checkout-7").svid();
    let own = mesh_core::identity::SpiffeId::parse(SERVER).unwrap();
    let expected = mesh_core::identity::forwarded_client_cert(&own, &leaf.chain()[0]).unwrap();
    let expected = expected.to_str().unwrap().to_owned();
    let identity = Identity::new(leaf, mesh.ca.bundle());
    let rest = expected.strip_prefix(&*format!("By={SERVER};Hash=")).unwrap();
    let (hash, rest) = rest.split_once(';').unwrap();
    assert!(
        hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{expected}"
    );
    assert_eq!(rest, format!("Subject=\"CN=checkout-7\";URI={CLIENT}"));
    let config = || mesh.client_as(&identity);
    assert_eq!(found(None, &mesh, config()).await, std::slice::from_ref(&expected));
    let sanitized = found(Some(ForwardedClientCert::Sanitize), &mesh, config()).await;
    assert!(sanitized.is_empty(), "{sanitized:?}");
    let appended = found(Some(ForwardedClientCert::AppendForward), &mesh, config()).await;
    assert_eq!(appended, [format!("{SPOOFED},{expected}")]);
}
