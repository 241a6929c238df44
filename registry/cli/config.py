"""Where meshctl finds the registry and its token: options, environment, file, in this order.

The file is ``meshctl.toml`` with `server`, `token` and `ca_pem`; `nodemesh-registry init` writes it.
"""

import base64
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from registry.errors import ConfigError

CONFIG_VARIABLE = "MESHCTL_CONFIG"
SERVER_VARIABLE = "MESHCTL_SERVER"
TOKEN_VARIABLE = "MESHCTL_TOKEN"  # noqa: S105 - the name of a variable
CA_VARIABLE = "MESHCTL_CA"

_CA_PEM = re.compile(r'^ca_pem\s*=\s*""".*?"""', re.DOTALL | re.MULTILINE)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ConfigFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of meshctl.toml."""

    server: str = ""
    token: str = ""
    ca_pem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What was said on the command line; None where nothing was."""

    config: Path | None = None
    server: str | None = None
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None

    def over(self, outer: "Overrides") -> "Overrides":
        """Fill what is not said here from `outer`."""
        return Overrides(
            config=self.config or outer.config,
            server=self.server or outer.server,
            token=self.token or outer.token,
            ca=self.ca or outer.ca,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to reach the registry. An empty `ca_pem` means the system's trusted roots.

    `warnings` are for the person at the command line. `ca_file` is the configuration whose `ca_pem` it is.
    """

    server: str
    token: str = field(repr=False)
    ca_pem: str = ""
    warnings: tuple[str, ...] = ()
    ca_file: Path | None = None


def load_settings(overrides: Overrides, *, environ: Mapping[str, str], home: Path) -> Settings:
    """Find out which registry is meant, and the token for it.

    Raises:
        ConfigError: a file that is named but cannot be read, or no server or token anywhere.
    """
    environment = Overrides(
        config=_path(environ.get(CONFIG_VARIABLE)),
        server=environ.get(SERVER_VARIABLE),
        token=environ.get(TOKEN_VARIABLE),
        ca=_path(environ.get(CA_VARIABLE)),
    )
    chosen = overrides.over(environment)
    default = home / ".config" / "nodemesh" / "meshctl.toml"
    path = chosen.config or default
    warnings: tuple[str, ...] = ()
    if chosen.config is not None or path.exists():
        written = _read_config(path)
        warnings = _mode_warnings(path)
    else:
        written = ConfigFile()
    server, token = chosen.server or written.server, (chosen.token or written.token).strip()
    missing = [what for what, given in (("server", server), ("token", token)) if not given]
    if missing:
        raise ConfigError(
            f"{path}: no {' and no '.join(missing)}; copy the meshctl.toml that `nodemesh-registry init` "
            f"wrote to {default}, or name it with --config or ${CONFIG_VARIABLE}, or give --server, --token"
        )
    if not token.isascii() or not token.isprintable():
        raise ConfigError("the token holds characters that no token has; copy it again")
    ca_pem = _read_text(chosen.ca) if chosen.ca else written.ca_pem
    return Settings(
        server=_check_server(server),
        token=token,
        ca_pem=ca_pem,
        warnings=warnings,
        ca_file=path if written.ca_pem and not chosen.ca else None,
    )


def pinned_roots(ca_pem: str) -> set[str]:
    """Give the fingerprints (hex SHA-256 of the DER) of the roots in a configuration."""
    bodies = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END", ca_pem, re.DOTALL)
    return {sha256(base64.b64decode(body)).hexdigest() for body in bodies}


def pin_roots(settings: Settings, roots_pem: Sequence[str]) -> Path:
    """Write other roots into the configuration file, in place of those it has, and nothing else.

    Raises:
        ConfigError: the roots are not from a file, or the file is not as `nodemesh-registry init` wrote it.
    """
    path = settings.ca_file
    if path is None:
        raise ConfigError("the CA to trust is not from a configuration file's ca_pem; change it where it is")
    assignment = 'ca_pem = """\n' + "".join(roots_pem) + '"""'
    text, changed = _CA_PEM.subn(lambda _: assignment, _read_text(path))
    if changed != 1:
        raise ConfigError(f'{path}: has no ca_pem = """...""" that could be replaced; edit it by hand')
    # Renamed into place: cut off in the middle the token would be lost.
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error


def _read_config(path: Path) -> ConfigFile:
    try:
        return msgspec.convert(tomllib.loads(_read_text(path)), ConfigFile)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}; the fields are server, token and ca_pem, all text") from error


def _mode_warnings(path: Path) -> tuple[str, ...]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return (f"{path} holds a token and others may read it (mode {mode:04o}); run: chmod 600 {path}",)
    return ()


def _check_server(server: str) -> str:
    try:
        parts = urlsplit(server)
        usable = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # An IPv6 address half in brackets, or a port that is none.
        usable = False
    if not usable:
        raise ConfigError(f"{server!r} is no address of a registry; write https://HOST:15010")
    # The token goes with every request; in clear it may travel no further than this host.
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError(f"{server} would carry the token in clear text; write https://{parts.netloc}")
    return server.rstrip("/")
