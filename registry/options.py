"""The words of nodemesh-registry's command line, shared by its commands, and what they come to."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

import typer

from registry.ca.external import External
from registry.ca.sealing import Kek
from registry.cli.duration import InvalidDuration, parse_duration
from registry.errors import ConfigError
from registry.key_source import FromFile, KeySource, choose, make_kek, read_kek
from registry.listening import Address, parse_address
from registry.model.revocation import MAX_LEAF_LIFETIME
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
        help="A file with a passphrase that seals the signing keys.",
        rich_help_panel=_CA,
        show_default=False,
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-key-file",
        help="The file with the key that seals the signing keys. Default: kek in the state directory, which "
        "init makes.",
        rich_help_panel=_CA,
        show_default=False,
    ),
]
KeyCredential = Annotated[
    str | None,
    typer.Option(
        "--ca-key-credential",
        metavar="NAME",
        help="The systemd credential with that key: LoadCredential= or LoadCredentialEncrypted= of the unit.",
        rich_help_panel=_CA,
        show_default=False,
    ),
]
KeyCommand = Annotated[
    str | None,
    typer.Option(
        "--ca-key-command",
        metavar="COMMAND",
        help="A command that prints that key, such as a vault's client. Run without a shell; it has 30 s.",
        rich_help_panel=_CA,
        show_default=False,
    ),
]
CertificateLifetime = Annotated[
    str,
    typer.Option(
        "--certificate-lifetime",
        metavar="TIME",
        help="How long nodes' and workloads' certificates last, as in 24h; at most 30d. The same for each "
        "replica.",
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


ExternalRoot = Annotated[
    Path | None,
    typer.Option(
        "--external-root",
        help="The root of your own authority, in PEM; with --intermediate.",
        rich_help_panel=_CA,
        show_default=False,
    ),
]
Intermediate = Annotated[
    Path | None,
    typer.Option(
        "--intermediate",
        help="What it certified for `nodemesh-registry ca csr`, then what stands between that and the root, "
        "in PEM.",
        rich_help_panel=_CA,
        show_default=False,
    ),
]


EtcdAccounts = Annotated[
    bool,
    typer.Option(
        "--keep-etcd-accounts/--leave-etcd-accounts",
        help="Whether the nodes' users in etcd are the registry's to make and remove. Where users are "
        "enabled that needs etcd's root role.",
        rich_help_panel=_ETCD,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a command was told about this replica."""

    state_dir: Path
    address: Address
    names: tuple[str, ...]
    key_source: KeySource

    @classmethod
    def read(
        cls, *, state_dir: Path, listen: str, names: list[str] | None, key_source: KeySource | None = None
    ) -> Self:
        """Check the words given; without a source the key-encryption key is in the state directory.

        Raises:
            ConfigError: the address is malformed.
        """
        return cls(
            state_dir=state_dir,
            address=parse_address(listen),
            names=tuple(names or ()),
            key_source=key_source or FromFile(default_key_file(state_dir)),
        )

    async def read_kek(self) -> Kek:
        """Read what the signing keys are sealed with.

        Raises:
            ConfigError: it is not to be had.
        """
        return await read_kek(self.key_source)

    async def make_kek(self) -> Kek:
        """Read what the signing keys shall be sealed with, making it if it is to be a file that is not there.

        Raises:
            ConfigError: it is not to be had, or cannot be made.
        """
        return await make_kek(self.key_source)


def default_key_file(state_dir: Path) -> Path:
    """Give the place of the key-encryption key if none is named."""
    return state_dir / "kek"


def key_source(
    *,
    state_dir: Path,
    file: Path | None,
    credential: str | None,
    command: str | None,
    passphrase_file: Path | None,
) -> KeySource:
    """Choose where the key-encryption key comes from.

    Raises:
        ConfigError: more than one place was named.
    """
    return choose(
        default=default_key_file(state_dir),
        file=file,
        passphrase=passphrase_file,
        credential=credential,
        command=command,
    )


def read_external(root: Path | None, intermediate: Path | None) -> External | None:
    """Read what an operator's authority gave; None if nothing was said of one.

    Raises:
        ConfigError: only one of the two was named, or a file cannot be read.
    """
    if root is None and intermediate is None:
        return None
    if root is None or intermediate is None:
        raise ConfigError("--external-root and --intermediate belong together; give both or none")
    texts = []
    for path in (root, intermediate):
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
    return External(root_pem=texts[0], chain_pem=texts[1])


def read_lifetime(text: str) -> timedelta:
    """Read the certificates' lifetime.

    Raises:
        ConfigError: it is no length of time.
    """
    try:
        lifetime = timedelta(seconds=parse_duration(text))
    except InvalidDuration as error:
        raise ConfigError(f"--certificate-lifetime: {error}") from error
    if lifetime > MAX_LEAF_LIFETIME:
        raise ConfigError(
            f"--certificate-lifetime: {text} is longer than {MAX_LEAF_LIFETIME.days}d, for which revocations "
            "are remembered; certificates renew by themselves, so a day is enough"
        )
    return lifetime


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
