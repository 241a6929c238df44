"""What a node is to be, as values, and the files of the operator that say so."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.hosts import Host


@dataclass(frozen=True, kw_only=True)
class WorkloadPlan:
    """One file of workloads.d. `health` is tcp, http or none; `address` is where it listens on its host.

    `uid` is the user whose processes speak for it, if that is declared. Its label `app` is its name, unless
    `labels` says otherwise. `preserve_source` and `proxy_protocol` are what it wants to know of its callers.
    """

    name: str
    port: int
    more_ports: tuple[int, ...] = ()
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    health: str = "tcp"
    address: str = "127.0.0.1"
    uid: int | None = None
    preserve_source: bool = False
    proxy_protocol: bool = False

    @property
    def qualified(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class ListenerPlan:
    """An explicit listener: `address` leads to `port` of `service`, for `workload` alone if that is given.

    Of another `type` than "service" its callers say where to.
    """

    address: str
    service: str = ""
    port: int = 0
    workload: str | None = None
    type: str = "service"
    mode: str | None = None


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """One node. `speaks_for` is the workload whose identity its own calls carry.

    `address` is what others dial, `tunnel` where the proxy listens; both default to the host's address.
    `dns` is where it answers for names, if it does.
    """

    name: str
    host: Host
    speaks_for: WorkloadPlan
    workloads: tuple[WorkloadPlan, ...]
    listeners: tuple[ListenerPlan, ...] = ()
    capture: bool = True
    capture_inbound: bool = False
    address: str = ""
    tunnel: str = ""
    tunnel_port: int = 15008
    admin: str = "127.0.0.1:15020"
    dns: str = ""
    workers: int = 2
    passthrough: bool = False

    @property
    def identities(self) -> tuple[str, ...]:
        """What its enrolment must list."""
        return tuple(workload.qualified for workload in self.workloads)


def render_proxy(plan: NodePlan, folder: Path, *, etcd: str, registry: str) -> str:
    """Write proxy.toml for a node whose state and workloads are below `folder`."""
    address = plan.address or plan.host.address
    listen = plan.tunnel or address
    listen = f"[{listen}]:{plan.tunnel_port}" if ":" in listen else f"{listen}:{plan.tunnel_port}"
    lines = [
        f"node = {_text(plan.name)}",
        f"address = {_text(address)}",
        f"registry = {_text(registry)}",
        f"state_dir = {_text(str(folder / 'state'))}",
        f"workloads_dir = {_text(str(folder / 'workloads.d'))}",
        f"workers = {plan.workers}",
        'log_level = "info"',
        # Three nodes need no minute to keep out of each other's way.
        "renewal_spread = 2.0",
        f"default_workload = {_text(plan.speaks_for.qualified)}",
        *(['outbound_policy = "passthrough"'] if plan.passthrough else []),
        "[etcd]",
        f"endpoints = [{_text(etcd)}]",
        "[tunnel]",
        f"listen = [{_text(listen)}]",
        "[capture]",
        f"enabled = {str(plan.capture).lower()}",
        f"inbound = {str(plan.capture_inbound).lower()}",
        "[admin]",
        f"listen = {_text(plan.admin)}",
        *(["[dns]", "enabled = true", f"listen = [{_text(plan.dns)}]"] if plan.dns else []),
    ]
    for listener in plan.listeners:
        lines += [
            "[[listener]]",
            f"address = {_text(listener.address)}",
            f"type = {_text(listener.type)}",
            *(
                [f"service = {_text(listener.service)}", f"port = {listener.port}"]
                if listener.service
                else []
            ),
            *([] if listener.mode is None else [f"mode = {_text(listener.mode)}"]),
            *([] if listener.workload is None else [f"workload = {_text(listener.workload)}"]),
        ]
    return "\n".join(lines) + "\n"


def render_workload(workload: WorkloadPlan) -> str:
    """Write one file of workloads.d."""
    labels = {"app": workload.name, **workload.labels}
    lines = [
        f"name = {_text(workload.name)}",
        f"namespace = {_text(workload.namespace)}",
        f"ports = [{', '.join(map(str, (workload.port, *workload.more_ports)))}]",
        f"address = {_text(workload.address)}",
        f"labels = {{ {', '.join(f'{name} = {_text(value)}' for name, value in labels.items())} }}",
        *([] if workload.uid is None else [f"user = {workload.uid}"]),
        *(["preserve_source = true"] if workload.preserve_source else []),
        *(['proxy_protocol = "v2"'] if workload.proxy_protocol else []),
        "[health]",
        f"type = {_text(workload.health)}",
        "interval = 0.5",
    ]
    if workload.health == "http":
        lines.append('path = "/healthz"')
    return "\n".join(lines) + "\n"


def render_service(name: str, *, port: int, target: int, protocol: str) -> str:
    """Write a Service over the workloads of its own name, as one YAML document."""
    return f"""---
apiVersion: nodemesh/v1
kind: Service
metadata:
  name: {name}
spec:
  selector: {{app: {name}}}
  ports: [{{port: {port}, targetPort: {target}, protocol: {protocol}}}]
"""


def render_denial(name: str, *, of: str, source: str, port: int) -> str:
    """Write an AuthorizationPolicy that refuses the account `source` a port of the workloads named `of`."""
    return f"""apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: {name}
spec:
  selector: {{matchLabels: {{app: {of}}}}}
  action: DENY
  rules:
  - from:
    - source: {{principals: ["nodemesh.local/ns/default/sa/{source}"]}}
    to:
    - operation: {{ports: ["{port}"]}}
"""


def _text(value: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(value)
