"""The keys of a chip that is sealed: its flash key, and the public keys that it will trust."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from signet import files
from signet.device.sealing.efuse_plan import FLASH_KEY_LEN, Plan, key_hash
from signet.errors import RefusedError, SignetError
from signet.run import run_program


def read_public_keys(paths: Sequence[Path]) -> list[str]:
    """Public keys, PEM; RefusedError if one is a private key."""
    pems = [files.read_file(path, "release key").decode("ascii", "replace") for path in paths]
    for path, pem in zip(paths, pems, strict=True):
        if "PRIVATE KEY" in pem:
            raise RefusedError(f"{path}: is a private key", "name the .pub file beside it")
    return pems


def new_flash_key() -> bytes:
    """A flash encryption key, from espsecure."""
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        path = Path(folder, "key")
        run_program("espsecure", "generate-flash-encryption-key", path)
        return path.read_bytes()


def read_flash_key(path: Path, plan: Plan | None = None) -> bytes:
    """A flash key that nobody else can read; RefusedError if it is not the plan's."""
    key = files.read_file(path, "flash key")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise RefusedError(f"{path}: mode {mode:04o}, expected 0600", f"chmod 600 {path}")
    if len(key) != FLASH_KEY_LEN:
        raise SignetError(f"{path}: {len(key)} bytes, a flash key has {FLASH_KEY_LEN}")
    if plan and key_hash(key) != plan.flash_key:
        raise RefusedError(f"{path}: not the flash key of the plan")
    return key
