"""``nodemesh-registry ca``: an intermediate certified by an authority of the operator's own.

These commands hold the key-encryption key, as `init` and `serve` do, and so run where the registry runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from registry import options as words
from registry.ca.authority import Authority
from registry.ca.bundle import read_bundle
from registry.ca.external import NO_PENDING, accept, find_pending, take_pending
from registry.ca.issuer import make_request
from registry.ca.rotating import Rotator
from registry.clock import utc_now
from registry.errors import ConfigError
from registry.founding import is_founded
from registry.key_source import make_kek, read_kek
from registry.model.resource import DEFAULT_TRUST_DOMAIN
from registry.model.rotation import Phase
from registry.running import run_command
from registry.store.etcd import open_etcd
from registry.store.keys import DEFAULT_PREFIX

app = typer.Typer(
    help="Have the issuing intermediate certified by an authority of your own, whose root key is never here.",
    no_args_is_help=True,
)


@app.command()
def csr(
    *,
    state_dir: words.StateDir = words.DEFAULT_STATE_DIR,
    trust_domain: Annotated[
        str | None,
        typer.Option(
            "--trust-domain",
            help=f"What the mesh's identities begin with. Default: the mesh's, or {DEFAULT_TRUST_DOMAIN}.",
            show_default=False,
        ),
    ] = None,
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
    log_level: words.LogLevel = "warning",
) -> None:
    """Print a certificate request (PKCS #10, PEM) for the issuing intermediate.

    Its key is made once, sealed and kept in etcd, until `init` or `ca import` brings its certificate. Your
    authority should certify a CA with path length 0, keyCertSign, for a year or so.
    """

    async def work() -> None:
        source = words.key_source(
            state_dir=state_dir,
            file=ca_key_file,
            credential=ca_key_credential,
            command=ca_key_command,
            passphrase_file=passphrase_file,
        )
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
            founded = await is_founded(store)
            domain = trust_domain or DEFAULT_TRUST_DOMAIN
            if founded:
                domain = (await read_bundle(store)).spec.trust_domain
                if trust_domain not in (None, domain):
                    raise ConfigError(f"--trust-domain: this mesh's is {domain}")
            # A mesh that has keys has a key-encryption key; another would seal what nobody can open.
            kek = await (read_kek(source) if founded else make_kek(source))
            pending = await take_pending(store, kek=kek)
            typer.echo(make_request(pending.key, trust_domain=domain), nl=False)

    run_command(work, log_level=log_level)


@app.command("import")
def import_(
    *,
    root: Annotated[Path, typer.Option("--root", help="Your authority's root, in PEM.", show_default=False)],
    intermediate: Annotated[
        Path,
        typer.Option(
            "--intermediate",
            help="The intermediate it certified, then what stands between it and the root, in PEM.",
            show_default=False,
        ),
    ],
    state_dir: words.StateDir = words.DEFAULT_STATE_DIR,
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
    log_level: words.LogLevel = "warning",
) -> None:
    """Change to an intermediate that your authority certified, perhaps under another root.

    Under the root that is trusted already it issues from now on. Another root is spread first, and what goes
    before goes when nobody needs it: `meshctl ca status` tells. If your authority certified the new root by
    the old one too, put that certificate last in the intermediate's file: meshctl and hosts that know only
    the old root then follow by themselves.
    """

    async def work() -> None:
        source = words.key_source(
            state_dir=state_dir,
            file=ca_key_file,
            credential=ca_key_credential,
            command=ca_key_command,
            passphrase_file=passphrase_file,
        )
        brought = words.read_external(root, intermediate)
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
            kek = await read_kek(source)
            authority = await Authority.load(store, kek=kek, clock=utc_now)
            pending = await find_pending(store, kek=kek)
            if brought is None or pending is None:
                raise ConfigError(NO_PENDING)
            certificate, issuing = accept(
                pending.key,
                root_pem=brought.root_pem,
                chain_pem=brought.chain_pem,
                trust_domain=authority.trust_domain,
                now=utc_now(),
            )
            rotator = Rotator(store=store, authority=authority, clock=utc_now)
            begun = await rotator.install(certificate, issuing, instead_of=pending.unchanged)
        if begun.phase is Phase.MOVING:
            typer.echo("the new intermediate issues from now on")
        else:
            typer.echo("the new root is being spread; `meshctl ca status` says how far it is")

    run_command(work, log_level=log_level)
