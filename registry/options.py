"""The words of nodemesh-registry's command line, shared by its commands, and what they come to."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

import typer

from registry.ca.sealing import Kek
from registry.cli.duration import InvalidDuration, parse_duration
from registry.errors import ConfigError
from registry.listening import Address, parse_address
from registry.private_files import make_key_file, read_key_file, read_passphrase
from registry.store.config import EtcdConfig
from registry.store.keys import DEFAULT_PREFIX

DEFAULT_STATE_DIR = Path("/var/lib/nodemesh-registry")
DEFAULT_ETCD = "127.0.0.1:2379"

_ETCD = "etcd"
_CA = "Certificate authority"

StateDir = Annotated[
    Path, typer.Option("--state-dir", help="Where the key-encryption key and the administrator's file are.")
]
Listen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where the API is served.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="A further DNS name or IP address in the API's certificate; the first one is what meshctl uses.",
    ),
]
AdminConfig = Annotated[
    Path | None,
    typer.Option(
        "--admin-config",
        help="Where meshctl's configuration is written. Default: meshctl.toml in the state directory.",
        show_default=False,
    ),
]
TrustDomain = Annotated[
    str,
    typer.Option("--trust-domain", help="What the mesh's identities begin with.", rich_help_panel=_CA),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-passphrase-file",
        help="A file with a passphrase that seals the signing key, instead of the state directory's kek.",
        rich_help_panel=_CA,
        show_default=False,
    ),
]
CertificateLifetime = Annotated[
    str,
    typer.Option(
        "--certificate-lifetime",
        metavar="TIME",
        help="How long nodes' and workloads' certificates last, as in 24h.",
        rich_help_panel=_CA,
    ),
]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]
Etcd = Annotated[
    list[str] | None,
    typer.Option(
        "--etcd",
        metavar="HOST:PORT",
        help=f"A member of the etcd cluster; repeat for each. Default: {DEFAULT_ETCD}.",
        rich_help_panel=_ETCD,
        show_default=False,
    ),
]
EtcdPrefix = Annotated[
    str, typer.Option("--etcd-prefix", help="What every key begins with.", rich_help_panel=_ETCD)
]
EtcdCa = Annotated[
    Path | None,
    typer.Option(
        "--etcd-ca", help="PEM roots of etcd's certificate; without it plaintext.", rich_help_panel=_ETCD
    ),
]
EtcdCert = Annotated[
    Path | None, typer.Option("--etcd-cert", help="PEM client certificate.", rich_help_panel=_ETCD)
]
EtcdKey = Annotated[Path | None, typer.Option("--etcd-key", help="PEM key of it.", rich_help_panel=_ETCD)]
EtcdUser = Annotated[str | None, typer.Option("--etcd-user", help="etcd user.", rich_help_panel=_ETCD)]
EtcdPasswordFile = Annotated[
    Path | None,
    typer.Option("--etcd-password-file", help="A file with that user's password.", rich_help_panel=_ETCD),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a command was told about this replica."""

    state_dir: Path
    address: Address
    names: tuple[str, ...]
    passphrase_file: Path | None = None

    @classmethod
    def read(
        cls, *, state_dir: Path, listen: str, names: list[str] | None, passphrase_file: Path | None
    ) -> Self:
        """Check the words given.

        Raises:
            ConfigError: the address is malformed.
        """
        return cls(
            state_dir=state_dir,
            address=parse_address(listen),
            names=tuple(names or ()),
            passphrase_file=passphrase_file,
        )

    @property
    def key_file(self) -> Path:
        """Where the key-encryption key is, unless a passphrase takes its place."""
        return self.state_dir / "kek"

    def read_kek(self) -> Kek:
        """Read what the signing key is sealed with.

        Raises:
            ConfigError: its file cannot be used.
        """
        if self.passphrase_file is not None:
            return read_passphrase(self.passphrase_file)
        return read_key_file(self.key_file)

    def make_kek(self) -> Kek:
        """Read what the signing key shall be sealed with, making it if it is to be a file that is not there.

        Raises:
            ConfigError: its file cannot be used or made.
        """
        if self.passphrase_file is not None:
            return read_passphrase(self.passphrase_file)
        return make_key_file(self.key_file)


def read_lifetime(text: str) -> timedelta:
    """Read the certificates' lifetime.

    Raises:
        ConfigError: it is no length of time.
    """
    try:
        return timedelta(seconds=parse_duration(text))
    except InvalidDuration as error:
        raise ConfigError(f"--certificate-lifetime: {error}") from error


def etcd_config(
    *,
    endpoints: list[str] | None,
    prefix: str = DEFAULT_PREFIX,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    user: str | None = None,
    password_file: Path | None = None,
) -> EtcdConfig:
    """Put together how etcd is reached.

    Raises:
        ConfigError: the values contradict each other, or the password cannot be read.
    """
    password = None
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--etcd-password-file {password_file} cannot be read: {error}") from error
    return EtcdConfig(
        endpoints=tuple(endpoints or (DEFAULT_ETCD,)),
        prefix=prefix,
        ca=ca,
        cert=cert,
        key=key,
        user=user,
        password=password,
    )
