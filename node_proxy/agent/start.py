"""What the agent derives from the configuration before it starts: pure, but for reading one password file."""

import os
from pathlib import Path

from node_proxy.config import ProxyConfig
from node_proxy.errors import ConfigError
from registry.store.config import EtcdConfig

# More cores than these are better left to the workloads, unless the operator says otherwise.
MAX_DEFAULT_WORKERS = 4


def etcd_config(proxy: ProxyConfig) -> EtcdConfig:
    """Give the store's configuration.

    Raises:
        ConfigError: the password file cannot be read.
        registry.errors.ConfigError: the store refuses the values.
    """
    etcd = proxy.etcd
    password = None
    if etcd.password_file is not None:
        try:
            password = Path(etcd.password_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"etcd.password_file: {etcd.password_file} cannot be read: {error.strerror}; correct it"
            ) from error
    return EtcdConfig(
        endpoints=etcd.endpoints,
        prefix=etcd.prefix,
        ca=Path(etcd.ca) if etcd.ca else None,
        cert=Path(etcd.cert) if etcd.cert else None,
        key=Path(etcd.key) if etcd.key else None,
        user=etcd.user,
        password=password,
    )


def worker_count(proxy: ProxyConfig) -> int:
    """Give the number of workers to run."""
    return proxy.workers or min(MAX_DEFAULT_WORKERS, os.cpu_count() or 1)
