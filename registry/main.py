"""The command nodemesh-registry: found a mesh, serve its control plane, or try it all on one machine."""

from pathlib import Path
from typing import Annotated

import typer

from registry import external_commands
from registry import options as words
from registry.ca.external import External
from registry.clock import utc_now
from registry.dev import DEV_STATE_DIR, run_dev
from registry.errors import ConfigError
from registry.founding import found
from registry.key_source import FromFile
from registry.listening import DEFAULT_LISTEN, url_of
from registry.model.resource import DEFAULT_TRUST_DOMAIN
from registry.options import Options
from registry.running import run_command
from registry.serving import serve_from_store
from registry.store.accounts import NoAccounts
from registry.store.config import EtcdConfig
from registry.store.etcd import open_etcd
from registry.store.keys import DEFAULT_PREFIX

app = typer.Typer(
    help="The control plane of nodemesh: certificate authority, enrolment, API and controller over etcd.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    *,
    dev: Annotated[
        bool,
        typer.Option(
            "--dev", help="Start an etcd too, found a mesh there if need be, and serve. Not for production."
        ),
    ] = False,
    state_dir: words.StateDir = DEV_STATE_DIR,
    listen: words.Listen = DEFAULT_LISTEN,
    names: words.Names = None,
    etcd_port: Annotated[
        int,
        typer.Option(
            "--etcd-port", min=0, max=65535, help="Where the etcd of --dev listens; 0 is a free port."
        ),
    ] = 0,
    trust_domain: words.TrustDomain = DEFAULT_TRUST_DOMAIN,
    admin_config: words.AdminConfig = None,
    log_level: words.LogLevel = "info",
) -> None:
    """Found or serve a mesh; the options before a command belong to --dev."""
    if ctx.invoked_subcommand is not None:
        if dev:
            raise typer.BadParameter("--dev stands alone, without a command")
        return
    if not dev:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)
    run_command(
        lambda: run_dev(
            Options.read(state_dir=state_dir, listen=listen, names=names),
            etcd_port=etcd_port,
            trust_domain=trust_domain,
            admin_config=admin_config or state_dir / "meshctl.toml",
        ),
        log_level=log_level,
    )


@app.command()
def init(
    *,
    state_dir: words.StateDir = words.DEFAULT_STATE_DIR,
    listen: words.Listen = DEFAULT_LISTEN,
    names: words.Names = None,
    admin_config: words.AdminConfig = None,
    trust_domain: words.TrustDomain = DEFAULT_TRUST_DOMAIN,
    external_root: words.ExternalRoot = None,
    intermediate: words.Intermediate = None,
    ca_key_file: words.KeyFileOption = None,
    ca_key_credential: words.KeyCredential = None,
    ca_key_command: words.KeyCommand = None,
    passphrase_file: words.PassphraseFile = None,
    etcd: words.Etcd = None,
    etcd_prefix: words.EtcdPrefix = DEFAULT_PREFIX,
    etcd_ca: words.EtcdCa = None,
    etcd_cert: words.EtcdCert = None,
    etcd_key: words.EtcdKey = None,
    etcd_user: words.EtcdUser = None,
    etcd_password_file: words.EtcdPasswordFile = None,
    log_level: words.LogLevel = "info",
) -> None:
    """Found a mesh in etcd, once: root and issuing intermediate, trust bundle, first administrator.

    Keep the key that seals the signing keys (the state directory's `kek` unless you say otherwise): without
    it nobody can sign. Each replica needs it. With --external-root the root is your own authority's: run
    `nodemesh-registry ca csr` before, have the request certified, and give both certificates here.
    """

    async def work() -> None:
        source = words.key_source(
            state_dir=state_dir,
            file=ca_key_file,
            credential=ca_key_credential,
            command=ca_key_command,
            passphrase_file=passphrase_file,
        )
        options = Options.read(state_dir=state_dir, listen=listen, names=names, key_source=source)
        external = words.read_external(external_root, intermediate)
        if options.address.port == 0:
            raise ConfigError("--listen: give the port that `serve` will use")
        config = words.etcd_config(
            endpoints=etcd,
            prefix=etcd_prefix,
            ca=etcd_ca,
            cert=etcd_cert,
            key=etcd_key,
            user=etcd_user,
            password_file=etcd_password_file,
        )
        await _found(config, options, trust_domain, admin_config or state_dir / "meshctl.toml", external)

    run_command(work, log_level=log_level)


async def _found(
    config: EtcdConfig, options: Options, trust_domain: str, admin_config: Path, external: External | None
) -> None:
    async with open_etcd(config) as store:
        founded = await found(
            store,
            trust_domain=trust_domain,
            make_kek=options.make_kek,
            server=url_of(options.address, options.names),
            admin_config=admin_config,
            clock=utc_now,
            external=external,
        )
    typer.echo(f"founded the mesh {trust_domain}; its root's SHA-256 is {founded.fingerprint}")
    typer.echo(f"meshctl's configuration, with the administrator's token, is {founded.admin_config}")
    if isinstance(options.key_source, FromFile):
        path = options.key_source.path
        typer.echo(f"keep {path} safe and copy it to each replica: nobody can sign without it")


@app.command()
def serve(
    *,
    state_dir: words.StateDir = words.DEFAULT_STATE_DIR,
    listen: words.Listen = DEFAULT_LISTEN,
    names: words.Names = None,
    ca_key_file: words.KeyFileOption = None,
    ca_key_credential: words.KeyCredential = None,
    ca_key_command: words.KeyCommand = None,
    passphrase_file: words.PassphraseFile = None,
    certificate_lifetime: words.CertificateLifetime = "24h",
    etcd: words.Etcd = None,
    etcd_prefix: words.EtcdPrefix = DEFAULT_PREFIX,
    etcd_ca: words.EtcdCa = None,
    etcd_cert: words.EtcdCert = None,
    etcd_key: words.EtcdKey = None,
    etcd_user: words.EtcdUser = None,
    etcd_password_file: words.EtcdPasswordFile = None,
    etcd_accounts: words.EtcdAccounts = True,
    log_level: words.LogLevel = "info",
) -> None:
    """Serve the API and stand for election as the controller, until SIGINT or SIGTERM."""

    async def work() -> None:
        source = words.key_source(
            state_dir=state_dir,
            file=ca_key_file,
            credential=ca_key_credential,
            command=ca_key_command,
            passphrase_file=passphrase_file,
        )
        options = Options.read(state_dir=state_dir, listen=listen, names=names, key_source=source)
        lifetime = words.read_lifetime(certificate_lifetime)
        config = words.etcd_config(
            endpoints=etcd,
            prefix=etcd_prefix,
            ca=etcd_ca,
            cert=etcd_cert,
            key=etcd_key,
            user=etcd_user,
            password_file=etcd_password_file,
        )
        async with open_etcd(config) as store:
            await serve_from_store(
                store,
                kek=await options.read_kek(),
                address=options.address,
                names=options.names,
                leaf_lifetime=lifetime,
                clock=utc_now,
                accounts=store.accounts if etcd_accounts else NoAccounts(config.prefix),
            )

    run_command(work, log_level=log_level)


app.add_typer(external_commands.app, name="ca")


def main() -> None:
    """Run the command line."""
    app()
