"""Who must not get in, tried from outside: openssl, Python's ssl, grpcio and Envoy against our server, with certificates of every wrong kind.

The mesh's own root signs most of them: its key is read from the state directory of the control plane that was started here, so what is
tried is a leaf that is wrong in one way and right in all others. In TLS 1.3 a client has finished its half before the server has looked at
its certificate: each probe therefore reads on until the connection ends, and what it takes for a refusal is an end without a byte of an
answer. That the handler did not run is counted by the server itself: requests that came in less those that a policy refused.
"""

import datetime
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

import envoys
from lab import SERVICE, Certificate, Lab, spiffe, until
from peers import CALLER, HERE, Grpcio

# How long a probe waits for the other end: the server gives a handshake five seconds.
PROBE_SECONDS = 15
# Calls of each gRPC client.
CALLS = 5
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
# A frame of HTTP/2 that every server sends first: SETTINGS, on stream 0.
SETTINGS = 4
MEMBER = "somebody-else"
PLAINTEXT = {
    "http/1.1": b"POST /payment.v1.Payment/Charge HTTP/1.1\r\nhost: payment-service\r\ncontent-length: 0\r\n\r\n",
    "http/2": PREFACE,
    "proxy header": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + PREFACE,
    "zeros": bytes(64),
}


@dataclass
class Issuer:
    """A certificate of a signer, and its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


class Strangers:
    """Our server, and everything that its callers could show."""

    def __init__(self, mesh: Lab):
        self.mesh = mesh
        mesh.serve_payments()
        mesh.allow_only(CALLER)
        self.port = mesh.port("v1")
        self.caller = mesh.join(CALLER)
        self.member = mesh.join(MEMBER)
        self._folder = mesh.folder / "strangers"
        self._folder.mkdir()
        root = mesh.root()
        key, certificate = root[: (at := root.index(b"-----BEGIN CERTIFICATE"))], root[at:]
        ours = Issuer(serialization.load_pem_private_key(key, None), x509.load_pem_x509_certificate(certificate))
        now = datetime.datetime.now(datetime.timezone.utc)
        hour = datetime.timedelta(hours=1)
        valid = (now - hour, now + hour)
        me = [x509.UniformResourceIdentifier(spiffe(CALLER))]
        elsewhere = [x509.UniformResourceIdentifier(f"spiffe://elsewhere/ns/default/sa/{CALLER}")]
        rogue = Issuer(key := ec.generate_private_key(ec.SECP256R1()), _root(key, ours.certificate.subject, valid))
        # What is wrong with each, and nothing else is.
        self.wrong = {
            "rogue": self._leaf("rogue", rogue, me, valid),
            "expired": self._leaf("expired", ours, me, (now - 2 * hour, now - hour)),
            "not-yet-valid": self._leaf("not-yet-valid", ours, me, (now + hour, now + 2 * hour)),
            "other-domain": self._leaf("other-domain", ours, elsewhere, valid),
            "no-name": self._leaf("no-name", ours, [], valid),
            "dns-name": self._leaf("dns-name", ours, [x509.DNSName("payment-service")], valid),
            "two-names": self._leaf("two-names", ours, [*me, x509.UniformResourceIdentifier(spiffe(MEMBER))], valid),
            "authority": self._leaf("authority", ours, me, valid, ca=True),
            "client-only": self._leaf("client-only", ours, me, valid, server=False),
        }
        # The same, and right: what refuses the others is not how they are made.
        self.right = self._leaf("right", ours, me, valid)

    def _leaf(self, name: str, issuer: Issuer, names: list, valid: tuple, ca=False, server=True) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid[0])
            .not_valid_after(valid[1])
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(sign=ca), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        certificate = builder.sign(issuer.key, hashes.SHA256())
        files = Certificate(*(str(self._folder / f"{name}-{part}.pem") for part in ("key", "chain", "root")))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pathlib.Path(files.key).write_bytes(private)
        pathlib.Path(files.chain).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        shutil.copy(self.caller.root, files.root)
        return files

    def handled(self) -> int:
        """Requests that reached the application."""
        stats = self.mesh.stats("v1")
        return stats["requests.received"] - stats.get("authorization_denied.rbac", 0)


def _usage(sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=sign, crl_sign=sign, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )


def _root(key, name: x509.Name, valid: tuple) -> x509.Certificate:
    """As the mesh's own, by another key."""
    names = [x509.UniformResourceIdentifier("spiffe://cluster.local")]
    return (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(valid[0]).not_valid_after(valid[1])
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def plaintext(strangers: Strangers) -> dict[str, bytes]:
    """What is answered to whoever speaks no TLS."""
    answers = {}
    for name, said in PLAINTEXT.items():
        with socket.create_connection(("127.0.0.1", strangers.port), PROBE_SECONDS) as stream:
            answers[name] = _spoken(stream, said)
    return answers


def python_ssl(strangers: Strangers, files: Certificate | None, version=ssl.TLSVersion.TLSv1_3) -> bytes:
    """What Python's ssl is answered to the beginning of HTTP/2, read to the end of the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if files:
        context.load_cert_chain(files.chain, files.key)
    with socket.create_connection(("127.0.0.1", strangers.port), PROBE_SECONDS) as stream:
        try:
            with context.wrap_socket(stream) as tls:
                return _spoken(tls, PREFACE)
        except (ssl.SSLError, OSError):
            return b""


def _spoken(stream, said: bytes) -> bytes:
    """Says it, and reads until the other end ends it, or has said what only a server says that lets us in."""
    heard = b""
    try:
        stream.sendall(said)
        # The record after the handshake is where TLS 1.3 tells that the certificate was refused.
        while len(heard) < 9 and (more := stream.recv(4096)):
            heard += more
    except (ssl.SSLError, OSError):
        pass
    return heard


def openssl(strangers: Strangers, files: Certificate | None, *options: str) -> tuple[bytes, str]:
    """What `openssl s_client` is answered to the beginning of HTTP/2, and what it says of the end."""
    shown = ["-cert", files.chain, "-key", files.key] if files else []
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{strangers.port}", "-alpn", "h2", "-quiet",
               *shown, *(options or ["-tls1_3"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            child.stdin.write(PREFACE)
            child.stdin.flush()
        except BrokenPipeError:
            pass
        # Its input stays open: it would end by itself otherwise, before it has read the record that refuses it.
        heard = b""
        while len(heard) < 9 and (more := child.stdout.read1(4096)):
            heard += more
        child.kill()
        return heard, child.stderr.read().decode(errors="replace")


def grpcio(strangers: Strangers, files: Certificate | None) -> dict:
    """What becomes of calls of gRPC's own client: over xDS with these files, or in plaintext without any."""
    if files:
        peer = Showing(strangers.mesh, files)
        return peer.caller(SERVICE).ask({"do": "calls", "count": CALLS, "at_once": 1})
    command = [sys.executable, HERE / "caller.py", f"127.0.0.1:{strangers.port}", SERVICE]
    return strangers.mesh.start("caller-plaintext", command).ask({"do": "calls", "count": CALLS, "at_once": 1})


def envoy(strangers: Strangers, name: str, files: Certificate | None) -> dict:
    """What becomes of calls that an Envoy passes on with these files, or in plaintext without any; and how often it connected, and was refused
    in its handshake."""
    mesh = strangers.mesh
    passing = envoys.Envoy(mesh, f"envoy-{name}", envoys.passing(files, strangers.port))
    port = until(f"Envoy listens (see {passing.process.log})", lambda: passing.port_of("outbound"))
    command = [sys.executable, HERE / "caller.py", f"127.0.0.1:{port}", SERVICE]
    caller = mesh.start(f"caller-envoy-{name}", command)
    tally = caller.ask({"do": "calls", "count": CALLS, "at_once": 1})
    tally["connected"] = passing.total(r"cluster\.target\.upstream_cx_total$")
    caller.end()
    passing.process.end()
    return tally


class Showing(Grpcio):
    """gRPC's client in the mesh, which shows these files."""

    def __init__(self, mesh: Lab, files: Certificate):
        self.mesh, self.files, self._callers = mesh, files, {}


def lets_in(heard: bytes) -> bool:
    """Whether a server of HTTP/2 has begun to speak."""
    return len(heard) >= 9 and heard[3] == SETTINGS

