"""A peer joins the mesh: a certificate from the CA by its real protocol, as files that grpcio, grpc-js and Envoy can read.

`certificate.py BOOTSTRAP FOLDER`: the bootstrap that `meshctl bootstrap` wrote names the CA and holds the join token. The key
is made here; only the signing request goes to the CA. Key, chain and root are written as `key.pem`, `chain.pem` and
`root.pem`.
"""

import json
import pathlib
import sys

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import wire

# A local call; the CA signs in milliseconds.
LIMIT_SECONDS = 20
VALIDITY_SECONDS = 3600


def join(bootstrap: dict, folder: pathlib.Path):
    provider = bootstrap["certificate_providers"]["default"]["config"]
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    roots = grpc.ssl_channel_credentials(root_certificates=provider["ca_certificate"].encode())
    with grpc.secure_channel(provider["server_uri"].removeprefix("https://"), roots) as channel:
        create = channel.unary_unary(wire.CREATE_CERTIFICATE)
        message = wire.encode({1: csr, 3: VALIDITY_SECONDS})
        bearer = [("authorization", f"Bearer {provider['token']}")]
        answer = create(message, metadata=bearer, timeout=LIMIT_SECONDS)
    *chain, root = wire.texts(answer)[1]
    folder.mkdir(parents=True, exist_ok=True)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(folder / "key.pem", pem.decode(), 0o600)
    _write(folder / "chain.pem", "".join(chain))
    _write(folder / "root.pem", root)


def _write(path: pathlib.Path, text: str, mode: int = 0o644):
    path.touch(mode=mode)
    path.write_text(text)


join(json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2]))
