"""Where the key-encryption key comes from: a file, a systemd credential, a command, or a passphrase.

It opens the signing keys in etcd, so it must come from elsewhere: from the host, or by a command from
whatever keeps the organisation's secrets.
"""

import contextlib
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import trio

from registry.ca.sealing import Kek, KeyFile
from registry.errors import ConfigError
from registry.private_files import make_key_file, read_key_file, read_passphrase

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
# A key is 32 to 64 bytes, in hexadecimal or base64 perhaps twice that.
MAX_OUTPUT = 4096
# A vault across the network answers in seconds; longer is a hang, and our start would hang with it.
COMMAND_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FromFile:
    """A file of random bytes, private to its owner; founding makes it where none is."""

    path: Path


@dataclass(frozen=True, slots=True)
class FromPassphrase:
    """A file with a passphrase."""

    path: Path


@dataclass(frozen=True, slots=True)
class FromCredential:
    """A systemd credential (LoadCredential=, LoadCredentialEncrypted=) by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class FromCommand:
    """A command that prints the key, in a shell's words but run without a shell."""

    line: str


KeySource = FromFile | FromPassphrase | FromCredential | FromCommand


def choose(
    *, default: Path, file: Path | None, passphrase: Path | None, credential: str | None, command: str | None
) -> KeySource:
    """Choose by what was said on the command line.

    Raises:
        ConfigError: more than one source was named.
    """
    said: list[KeySource] = []
    if file is not None:
        said.append(FromFile(file))
    if passphrase is not None:
        said.append(FromPassphrase(passphrase))
    if credential is not None:
        said.append(FromCredential(credential))
    if command is not None:
        said.append(FromCommand(command))
    if len(said) > 1:
        raise ConfigError(
            "the key-encryption key has one source; give one of --ca-key-file, --ca-key-credential, "
            "--ca-key-command and --ca-passphrase-file"
        )
    return said[0] if said else FromFile(default)


async def read_kek(source: KeySource) -> Kek:
    """Read the key-encryption key.

    Raises:
        ConfigError: it is not to be had, or is too short; says from where.
    """
    match source:
        case FromFile(path):
            return read_key_file(path)
        case FromPassphrase(path):
            return read_passphrase(path)
        case FromCredential(name):
            return KeyFile(_read_credential(name))
        case FromCommand(line):
            return KeyFile(await _run(line))
        case _:
            assert_never(source)


async def make_kek(source: KeySource) -> Kek:
    """Read the key-encryption key, making it if it is a file that is not there yet.

    Raises:
        ConfigError: as `read_kek`, or it cannot be written.
    """
    if isinstance(source, FromFile):
        return make_key_file(source.path)
    return await read_kek(source)


def _read_credential(name: str) -> bytes:
    if (folder := os.environ.get(CREDENTIALS_VARIABLE)) is None:
        raise ConfigError(
            f"--ca-key-credential: ${CREDENTIALS_VARIABLE} is not set; run under systemd with "
            f"LoadCredential={name}:/path or LoadCredentialEncrypted={name}:/path"
        )
    if "/" in name or name in {"", ".", ".."}:
        raise ConfigError(f"--ca-key-credential: {name!r} is no credential's name")
    path = Path(folder) / name
    try:
        # Its mode is not looked at: systemd gives it to the service's user by an access list, which reads
        # as the group's.
        with path.open("rb") as file:
            return file.read(MAX_OUTPUT).strip()
    except OSError as error:
        raise ConfigError(
            f"--ca-key-credential: {path} cannot be read: {error.strerror}; does the unit have "
            f"LoadCredential={name}:…?"
        ) from error


async def _run(line: str) -> bytes:
    """Run the command and give what it prints; it is ended when it takes too long or prints too much."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"--ca-key-command: {error}") from error
    if not words:
        raise ConfigError("--ca-key-command is empty")
    try:
        process = await trio.lowlevel.open_process(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise ConfigError(f"--ca-key-command: {words[0]} cannot be run: {error.strerror}") from error
    output = bytearray()
    try:
        with trio.fail_after(COMMAND_SECONDS):
            output = await _read_bounded(process, words[0])
            code = await process.wait()
    except trio.TooSlowError:
        raise ConfigError(
            f"--ca-key-command: {words[0]} did not end within {COMMAND_SECONDS:.0f} s"
        ) from None
    finally:
        await _end(process)
    if code:
        raise ConfigError(f"--ca-key-command: {words[0]} failed with exit code {code}")
    return bytes(output.strip())


async def _read_bounded(process: trio.Process, name: str) -> bytearray:
    output = bytearray()
    if process.stdout is not None:
        async for part in process.stdout:
            output += part
            if len(output) > MAX_OUTPUT:
                raise ConfigError(f"--ca-key-command: {name} printed more than {MAX_OUTPUT} bytes")
    return output


async def _end(process: trio.Process) -> None:
    """End what is left of the command, with what it started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with trio.CancelScope(shield=True):
        await process.wait()
    if process.stdout is not None:
        await process.stdout.aclose()
