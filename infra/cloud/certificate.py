"""A certificate that the local cloud makes for itself, for clients that speak nothing but TLS."""

from __future__ import annotations

import datetime as dt
import importlib.util
import ipaddress
import ssl
import tempfile
from pathlib import Path
from typing import Final

from infra.cloud.moto_bridge import INSTALL_HINT
from shared.errors import ConfigurationError

_VALID_DAYS: Final = 30
_NAME: Final = "localhost"
_ADDRESSES: Final = ("127.0.0.1", "::1")


def server_context() -> ssl.SSLContext:
    """Make a key and a certificate for this machine's loopback names, valid from an hour ago for 30 days.

    Nobody has signed it: clients have to switch verification off. Both are forgotten when the process ends. Raises
    ConfigurationError without the extra `local`.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigurationError("TLS needs the module cryptography, which is not installed", hint=INSTALL_HINT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="headrace-tls-") as folder:  # readable by its owner alone
        path = Path(folder) / "certificate.pem"  # OpenSSL takes them from a file only
        path.write_bytes(_key_and_certificate())
        context.load_cert_chain(path)
    return context


def _key_and_certificate() -> bytes:
    # Part of the extra `local`, and a tenth of a second to import: only those who ask for TLS pay it.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    names = [x509.DNSName(_NAME), *(x509.IPAddress(ipaddress.ip_address(each)) for each in _ADDRESSES)]
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)  # the client's clock may be behind
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
