//! Filter chains that show another identity of the process than the workload's own, and judge by its roots (gRFC A29).

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::Snapshot;
use mesh_core::config::{
    ChainIdentity, ChainMatch, Clients, Domain, FilterChain, Inbound, InboundSecurity, Reason, ReasonKind, Traffic,
};
use mesh_core::link::{Identities, Standing};
use mesh_core::live;

use super::*;

/// A rule must reach open connections within this (HS-7).
const SOON: Duration = Duration::from_millis(100);

const PARTNER: &str = "spiffe://partner.test/ns/shop/sa/payment";
const GUEST: &str = "spiffe://partner.test/ns/shop/sa/guest";

fn of(certificate: Option<&str>, roots: Option<&str>) -> ChainIdentity {
    ChainIdentity {
        certificate: certificate.map(Into::into),
        roots: roots.map(Into::into),
    }
}

fn chain(name: &str, identity: ChainIdentity) -> FilterChain {
    FilterChain {
        name: name.into(),
        matches: ChainMatch {
            server_names: (!name.is_empty())
                .then(|| Domain::parse(name).unwrap())
                .into_iter()
                .collect(),
            ..ChainMatch::default()
        },
        security: InboundSecurity::Mutual(Clients::Trusted),
        identity,
        traffic: Traffic::Http,
        authorization: Arc::default(),
        limits: Arc::default(),
        telemetry: Default::default(),
    }
}

/// A mesh whose process has identities of a partner beside its own, in cells that tests write.
struct Rig {
    mesh: Mesh,
    partner: TestCa,
    whole: live::Writer<Standing>,
    roots: live::Writer<Standing>,
}

impl Rig {
    fn new() -> Self {
        let waiting = || live::channel(Err(Reason::new(ReasonKind::Waiting, "not yet")));
        let ((whole, whole_reader), (roots, roots_reader)) = (waiting(), waiting());
        let known = BTreeMap::from([
            (of(Some("partner"), Some("partner")), whole_reader),
            (of(None, Some("partner")), roots_reader),
        ]);
        let mesh = Mesh::with(Parts {
            governs_servers: true,
            identities: Identities::new(move |of| known.get(of).cloned()),
            ..Parts::default()
        });
        let partner = TestCa::new("partner.test");
        Self {
            mesh,
            partner,
            whole,
            roots,
        }
    }

    fn rule(&self, chains: Vec<FilterChain>) {
        let inbound = Inbound {
            name: PIPES.into(),
            address: PIPES.parse().unwrap(),
            chains,
            default: None,
        };
        let snapshot = Snapshot::builder().inbound(PIPES, Ok(Arc::new(inbound)));
        self.mesh.source.snapshots.publish(snapshot.build().unwrap());
    }

    fn serve(&self) -> Dial {
        let (dial, listener) = pipes();
        let app = Handler::default().app(&self.mesh.link);
        tokio::spawn(serve(listener, &self.mesh.link, app).into_future());
        dial
    }

    /// A client of the partner's that expects the partner's server.
    fn guest(&self) -> Arc<ClientConfig> {
        let expected = ExpectedPeers::exactly([PARTNER]);
        let clock = Arc::new(self.mesh.clock.clone());
        client_config(&self.partner.identity(GUEST), &expected, clock, &[b"h2"]).unwrap()
    }

    /// One that knows the workload by its own name and shows a certificate of the partner.
    fn guest_of_ours(&self) -> Arc<ClientConfig> {
        let shown = Identity::new(self.partner.svid(GUEST), self.mesh.ca.bundle());
        self.mesh.client_as(&shown)
    }

    fn revoked(&self, reason: &'static str) -> u64 {
        self.mesh.link.tally().get("connection_revoked", reason)
    }
}

async fn call_to(
    dial: &Dial,
    config: Arc<ClientConfig>,
    name: &str,
) -> Result<(u16, Bytes), Box<dyn std::error::Error>> {
    let name = ServerName::try_from(name.to_owned())?;
    let tls = TlsConnector::from(config).connect(name, dial.connect()).await?;
    let (mut sender, _connection) = h2(tls).await?;
    Ok(get(&mut sender).await?)
}

#[tokio::test(start_paused = true)]
async fn each_chain_shows_the_identity_that_it_names_and_judges_by_its_roots() {
    let rig = Rig::new();
    rig.rule(vec![
        chain("", ChainIdentity::default()),
        chain("partner.example", of(Some("partner"), Some("partner"))),
        chain("guests.example", of(None, Some("partner"))),
        chain("nobody.example", of(Some("nobody"), Some("nobody"))),
    ]);
    let dial = rig.serve();
    // Whose identity is not there yet lets nobody in, and does not fall back to another.
    call_to(&dial, rig.guest(), "partner.example").await.unwrap_err();
    call_to(&dial, rig.mesh.client(), "partner.example").await.unwrap_err();
    call_to(&dial, rig.mesh.client(), "nobody.example").await.unwrap_err();
    assert_eq!(rig.mesh.refused("no_identity"), 3);
    rig.whole.publish(Ok(rig.partner.identity(PARTNER)));
    rig.roots
        .publish(Ok(Identity::new(rig.mesh.ca.svid(SERVER), rig.partner.bundle())));
    let passed = |who: &'static str| (200, Bytes::from(who));
    let (ours, guest, guest_of_ours) = (rig.mesh.client(), rig.guest(), rig.guest_of_ours());
    assert_eq!(call_to(&dial, ours.clone(), "x.example").await.unwrap(), passed(CLIENT));
    assert_eq!(
        call_to(&dial, guest.clone(), "partner.example").await.unwrap(),
        passed(GUEST)
    );
    assert_eq!(
        call_to(&dial, guest_of_ours.clone(), "guests.example").await.unwrap(),
        passed(GUEST)
    );
    // Roots of one are good for no other chain.
    call_to(&dial, guest_of_ours, "x.example").await.unwrap_err();
    call_to(&dial, ours, "guests.example").await.unwrap_err();
    assert_eq!(
        rig.mesh.refused("foreign_trust_domain"),
        2,
        "{:?}",
        rig.mesh.link.tally().all()
    );
}

/// What judged a connection is what ends it: the identity of its chain, and no other one.
#[tokio::test(start_paused = true)]
async fn open_connections_follow_the_identity_of_their_chain() {
    let rig = Rig::new();
    let named = of(Some("partner"), Some("partner"));
    rig.whole.publish(Ok(rig.partner.identity(PARTNER)));
    rig.rule(vec![
        chain("", ChainIdentity::default()),
        chain("partner.example", named.clone()),
    ]);
    let dial = rig.serve();
    let connect = async |config: Arc<ClientConfig>, name: &'static str| {
        let name = ServerName::try_from(name).unwrap();
        let tls = TlsConnector::from(config).connect(name, dial.connect()).await.unwrap();
        let (mut sender, connection) = h2(tls).await.unwrap();
        get(&mut sender).await.unwrap();
        (sender, connection)
    };
    let (mut ours, _first) = connect(rig.mesh.client(), "x.example").await;
    let (mut guest, _second) = connect(rig.guest(), "partner.example").await;
    // A renewal changes nothing.
    rig.whole.publish(Ok(rig.partner.identity(PARTNER)));
    tokio::time::sleep(SOON).await;
    get(&mut guest).await.unwrap();
    // Other roots do, for whom they judged.
    let other = TestCa::new("partner.test");
    rig.whole
        .publish(Ok(Identity::new(rig.partner.svid(PARTNER), other.bundle())));
    tokio::time::sleep(SOON).await;
    get(&mut guest).await.unwrap_err();
    get(&mut ours).await.unwrap();
    assert_eq!(rig.revoked("trust_changed"), 1);
    // And so does another identity of the chain.
    rig.whole.publish(Ok(rig.partner.identity(PARTNER)));
    let (mut guest, _third) = connect(rig.guest(), "partner.example").await;
    rig.rule(vec![
        chain("", ChainIdentity::default()),
        chain("partner.example", ChainIdentity::default()),
    ]);
    tokio::time::sleep(SOON).await;
    get(&mut guest).await.unwrap_err();
    get(&mut ours).await.unwrap();
    assert_eq!(rig.revoked("security_changed"), 1);
}
