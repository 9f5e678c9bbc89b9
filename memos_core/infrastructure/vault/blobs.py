"""Blobs: large immutable bytes, addressed by their content.

The address is sha256 over the namespace's salt and the data, so equal content of two namespaces lies at two addresses
and nobody learns from an address what another holds.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memos_core.cube import BlobRef
from memos_core.errors import BlobDamaged, VaultWriteFailed

__all__ = ["BlobStore"]

ADDRESS = re.compile("[0-9a-f]{64}")
SUFFIX = ".blob"
READ_AT_ONCE = 2**18


class BlobStore:
    """Bytes in a folder or in any store that fsspec knows. Thread-safe; safe among processes.

    Args:
        url: A local folder, or a URL of fsspec such as ``s3://bucket/blobs``.
    """

    def __init__(self, url: str | Path) -> None:
        import fsspec  # here, so that importing the package stays light

        fs, root = fsspec.core.url_to_fs(str(url), auto_mkdir=True)
        self._fs: Any = fs
        self._root: str = root.rstrip("/")
        self._local = "file" in (fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,))

    def put(self, data: bytes, salt: bytes) -> BlobRef:
        """Store ``data`` durably and return where. Storing the same again changes nothing.

        Raises:
            VaultWriteFailed: The store refused; nothing is left of the attempt.
        """
        address = hashlib.sha256(salt + data).hexdigest()
        try:
            if not self._is_whole(address, data):
                self._write_local(address, data) if self._local else self._fs.pipe_file(self._path(address), data)
        except OSError as error:
            raise VaultWriteFailed(f"storing a blob of {len(data):,} bytes: {error}; nothing was changed") from error
        return BlobRef(address=address, size_bytes=len(data))

    def read(self, address: str, salt: bytes) -> bytearray:
        """Return the bytes at ``address``, in a buffer that is the caller's own.

        Raises:
            BlobDamaged: They are missing or not what was stored.
        """
        digest = hashlib.sha256(salt)
        path = self._path(address)
        try:
            if self._local:
                data = read_local(Path(path), digest)
            else:
                data = bytearray(self._fs.cat_file(path))
                digest.update(data)
        except OSError as error:
            raise BlobDamaged(address, f"cannot be read ({type(error).__name__})") from error
        if digest.hexdigest() != address:
            raise BlobDamaged(address, "does not match its digest")
        return data

    def delete(self, address: str) -> None:
        """Remove a blob; an absent one is no error."""
        try:
            self._fs.rm_file(self._path(address))
        except FileNotFoundError:
            return

    def addresses(self) -> Iterator[str]:
        """Yield the addresses of all blobs."""
        for name in self._names():
            stem = name.rsplit("/", 1)[-1].removesuffix(SUFFIX)
            if name.endswith(SUFFIX) and ADDRESS.fullmatch(stem):
                yield stem

    @property
    def size(self) -> int:
        """Bytes of all blobs together."""
        return sum(int(self._fs.size(self._path(address)) or 0) for address in self.addresses())

    def _names(self) -> list[str]:
        self._fs.invalidate_cache()
        if not self._fs.isdir(self._root):
            return []
        return [str(name).replace("\\", "/") for name in self._fs.find(self._root)]

    def _path(self, address: str) -> str:
        if not ADDRESS.fullmatch(address):
            raise BlobDamaged(address, "is no address")
        return f"{self._root}/{address[:2]}/{address}{SUFFIX}"

    def _is_whole(self, address: str, data: bytes) -> bool:
        """Tell whether the blob is there and undamaged: storing a damaged one again repairs it."""
        path = self._path(address)
        if not self._fs.exists(path) or self._fs.size(path) != len(data):
            return False
        return bool(self._fs.cat_file(path) == data)

    def _write_local(self, address: str, data: bytes) -> None:
        """Write to a temporary file beside the target, make it durable, then rename: whole or absent, never half."""
        path = Path(self._path(address))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        sync_folder(path.parent.parent)


def read_local(path: Path, digest: hashlib._Hash) -> bytearray:
    """Return the bytes of a file, and take them into ``digest`` while the processor's own memory still holds them."""
    with path.open("rb", buffering=0) as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        read = 0
        with memoryview(data) as view:
            while count := file.readinto(view[read : read + READ_AT_ONCE]):
                digest.update(view[read : read + count])
                read += count
        del data[read:]  # what is cut short under our hands is not filled up with zeros
    return data


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
