"""The few protobuf messages that the peers speak, written by hand: `payment.proto` and Istio's certificate service.

Generated code would need protoc or its Python twin for five fields. Only what these messages have is known: varints (wire
type 0) and lengths (wire type 2).
"""

CHARGE = "/payment.v1.Payment/Charge"
CREATE_CERTIFICATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


def encode(fields: dict[int, str | int]) -> bytes:
    """A message of texts and unsigned numbers, by field number."""
    out = bytearray()
    for number, value in fields.items():
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            data = value.encode()
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return bytes(out)


def texts(message: bytes) -> dict[int, list[str]]:
    """The text fields of a message, by field number."""
    found: dict[int, list[str]] = {}
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(message[at : at + value].decode(errors="replace"))
            at += value
        elif key & 7 != 0:
            raise ValueError(f"wire type {key & 7} is in none of these messages")
    return found


def charge_request(name: str) -> bytes:
    return encode({1: name, 2: 100})


def charge_reply(name: str, version: str, caller: str) -> bytes:
    return encode({1: name, 2: version, 4: caller})


def version_of(reply: bytes) -> str:
    return texts(reply).get(2, [""])[0]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at
