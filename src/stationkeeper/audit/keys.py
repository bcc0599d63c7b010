"""The signing key of a control node and the public keys that a verifier trusts."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stationkeeper.files import write_atomically


class KeyFileError(Exception):
    """A key file cannot be used; the message names the file and never shows key material."""


def key_id(public: Ed25519PublicKey) -> str:
    """Return the first 16 hex digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


class Signer:
    """Signs with the private key of this control node."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key()
        self.key_id = key_id(self.public)

    @property
    def public_text(self) -> str:
        """The public key, base64 of 32 raw bytes."""
        return base64.b64encode(self.public.public_bytes_raw()).decode("ascii")

    def sign(self, statement: bytes) -> str:
        """Return the signature as base64."""
        return base64.b64encode(self._private.sign(statement)).decode("ascii")


def load_or_create(private_path: Path, public_folder: Path) -> Signer:
    """Return the signer, making the key at first use. The caller holds the chain's lock.

    Raises KeyFileError when the file is no Ed25519 key or others than its owner may read it, and OSError when
    it cannot be read or written.
    """
    try:
        signer = Signer(_load(private_path))
    except FileNotFoundError:
        signer = Signer(Ed25519PrivateKey.generate())
        encoded = signer._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomically(private_path, encoded)
    public_path = public_folder / f"{signer.key_id}.pub"
    if not public_path.exists():
        public_folder.mkdir(mode=0o700, exist_ok=True)
        write_atomically(public_path, f"{signer.public_text}\n", mode=0o644)
    return signer


class KeyRing:
    """Public keys by id."""

    def __init__(self, keys: Iterable[Ed25519PublicKey] = ()) -> None:
        self._keys = {key_id(key): key for key in keys}

    @classmethod
    def load(cls, folder: Path) -> KeyRing:
        """Read every ``*.pub`` of a folder. Raises KeyFileError for a file that is no key."""
        return cls(_load_public(path) for path in sorted(folder.glob("*.pub")))

    @classmethod
    def of(cls, texts: Iterable[str]) -> KeyRing:
        """Take keys as base64 text. Raises KeyFileError for one that is no key."""
        return cls(_public(text.encode("ascii", "replace"), f"{text!r}") for text in texts)

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def verifies(self, identifier: str, signature: str, statement: bytes) -> bool:
        """Say whether ``signature`` (base64) over ``statement`` is by that key; unknown keys never are."""
        public = self._keys.get(identifier)
        if public is None:
            return False
        try:
            public.verify(base64.b64decode(signature, validate=True), statement)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


def _load(path: Path) -> Ed25519PrivateKey:
    descriptor = os.open(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as stream:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise KeyFileError(f"{path} has mode {mode:04o}; others must not read it: chmod 600 {path}")
        content = stream.read()
    try:
        private = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise KeyFileError(f"{path} is not an unencrypted PEM private key") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key")
    return private


def _load_public(path: Path) -> Ed25519PublicKey:
    return _public(path.read_bytes(), str(path))


def _public(text: bytes, where: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True))
    except (ValueError, binascii.Error):
        raise KeyFileError(f"{where} is not a public key of an audit chain") from None
