"""Storage that speaks S3 over TLS on this machine: moto behind a proxy that ends TLS as clients expect."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from free_port import free_port


class S3Server:
    """A server with one bucket in memory; ``ca`` is what its certificate is checked with, under ``name``."""

    def __init__(
        self, directory: Path, bucket: str, *, address: str = "127.0.0.1", name: str = "localhost"
    ) -> None:
        self.directory = directory
        self._name = name
        self.ca = directory / "ca.pem"
        self.port = free_port()
        self._plain = free_port()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._write_ca()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.renew(valid_days=1)
        program = Path(sys.executable).parent / "moto_server"
        self._moto = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(self._plain)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        serving = asyncio.start_server(self._serve, address, self.port, ssl=self._context)
        asyncio.run_coroutine_threadsafe(serving, self._loop).result(30)
        self._make(bucket)

    def _write_ca(self) -> None:
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        certificate = self._certificate(self._ca_name, self._ca_key, valid_days=2, ca=True)
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.ca.chmod(0o644)

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, valid_days: float, ca: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=valid_days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(self._name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self._ca_key, hashes.SHA256())
        )

    def renew(self, valid_days: float) -> None:
        """Put a certificate in force that is valid for so long; below 0 it has expired."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        certificate = self._certificate(name, self._key, valid_days=valid_days, ca=False)
        path = self.directory / "server.pem"
        private = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        path.chmod(0o600)
        self._context.load_cert_chain(path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._plain)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    def _make(self, bucket: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self._plain}/{bucket}", method="PUT")
        while True:
            try:
                urllib.request.urlopen(request, timeout=30).close()
                return
            except (urllib.error.URLError, ConnectionError):
                assert self._moto.poll() is None, "moto_server ended"
                time.sleep(0.1)

    def stop(self) -> None:
        """End the server; what it has is gone."""
        self._moto.kill()
        self._moto.wait()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, ssl.SSLError):
        writer.close()
