"""`nodemesh-registry --dev`: a whole control plane on one machine, to try and to develop against."""

from functools import partial
from pathlib import Path

import typer

from registry.ca.issuer import LEAF_LIFETIME
from registry.clock import utc_now
from registry.etcd_server import EtcdServer, open_etcd_server
from registry.founding import found, is_founded
from registry.listening import Address, url_of
from registry.options import Options
from registry.serving import serve_from_store
from registry.store.config import EtcdConfig
from registry.store.etcd import open_etcd
from registry.store.keys import DEFAULT_PREFIX

DEV_STATE_DIR = Path(".nodemesh-dev")


async def run_dev(options: Options, *, etcd_port: int, trust_domain: str, admin_config: Path) -> None:
    """Start etcd, found a mesh if its data holds none, and serve until SIGINT or SIGTERM.

    Raises:
        ConfigError: no etcd is installed, or a port is taken.
        StoreUnavailable: etcd does not start.
    """
    async with (
        open_etcd_server(options.state_dir / "etcd", client_port=etcd_port) as etcd,
        open_etcd(EtcdConfig(endpoints=(etcd.endpoint,))) as store,
    ):
        if not await is_founded(store):
            await found(
                store,
                trust_domain=trust_domain,
                make_kek=options.make_kek,
                server=url_of(options.address, options.names),
                admin_config=admin_config,
                clock=utc_now,
            )
        await serve_from_store(
            store,
            kek=await options.read_kek(),
            address=options.address,
            names=options.names,
            leaf_lifetime=LEAF_LIFETIME,
            clock=utc_now,
            accounts=store.accounts,
            on_ready=partial(_say_what_next, etcd, admin_config, options),
        )


def _say_what_next(etcd: EtcdServer, admin_config: Path, options: Options, address: Address) -> None:
    url = url_of(address, options.names)
    typer.echo(f"""
The registry serves {url}, over an etcd of its own at {etcd.endpoint} (log: {etcd.plan.log}).
For development: everything is on this machine, in {options.state_dir}, and stays there when this ends.

  export MESHCTL_CONFIG={admin_config.resolve()}
  meshctl node list
  meshctl node token create --node 'web-*' --identity default/web --ttl 1h

A node's proxy.toml needs:  registry = "{url}"
                            [etcd]
                            endpoints = ["{etcd.endpoint}"]

  nodemesh-proxy join --registry {url} --token TOKEN --config proxy.toml
  nodemesh-proxy run --config proxy.toml

Look inside:  etcdctl --endpoints={etcd.endpoint} get --prefix {DEFAULT_PREFIX} --keys-only
Ctrl-C ends it.
""")
