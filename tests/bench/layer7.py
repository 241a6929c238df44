"""What reading HTTP costs: ``python -m tests.bench.layer7``.

Every pair does the same job: the callers' proxy reads each request, routes it by its path, adds a header,
and would try it again; the service's proxy reads it once more, and lets pass only GET. Between them is mutual
TLS: HBONE for this project and Envoy, HTTP/1.1 in TLS with connections that are kept for nginx.
"""

import argparse
import time
from datetime import UTC, datetime

from registry.model.authorization import (
    Action,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    Operation,
    Rule,
    To,
)
from registry.model.gateway import Header, HeaderModifier, ParentReference
from registry.model.http_route import (
    FilterType,
    HTTPBackendRef,
    HTTPRoute,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRule,
    HTTPRouteSpec,
    PathMatch,
    Retry,
)
from registry.model.resource import Metadata
from registry.model.service import PortProtocol
from tests.bench.envoy_layer7 import launch_envoy_layer7
from tests.bench.jobs import request_job
from tests.bench.nodemesh import start_pair
from tests.bench.peers import start_nginx
from tests.bench.report import print_results
from tests.bench.results import Results
from tests.bench.run import Bench
from tests.bench.session import keep, make_console, open_bench, run
from tests.bench.subjects import (
    LOOPBACK,
    SERVICE_NAME,
    Launch,
    Site,
    Subject,
    find_program,
    launch_direct,
    pick_ports,
)
from tests.support.processes import Process

CONNECTIONS = (1, 32)
# nginx keeps so many connections to the other side.
KEPT = 64


def route() -> HTTPRoute:
    """Give the route: everything goes to the service itself, with a header more and up to two tries more."""
    modifier = HTTPRouteFilter(
        type=FilterType.REQUEST_HEADER_MODIFIER,
        request_header_modifier=HeaderModifier(set=(Header(name="x-bench", value="route"),)),
    )
    rule = HTTPRouteRule(
        matches=(HTTPRouteMatch(path=PathMatch(value="/")),),
        filters=(modifier,),
        backend_refs=(HTTPBackendRef(name="http", port=80),),
        retry=Retry(codes=(502, 503, 504), attempts=2),
    )
    return HTTPRoute(
        api_version="gateway.networking.k8s.io/v1",
        kind="HTTPRoute",
        metadata=Metadata(name="http"),
        spec=HTTPRouteSpec(parent_refs=(ParentReference(name="http"),), rules=(rule,)),
    )


def policy() -> AuthorizationPolicy:
    """Give the policy: GET is allowed."""
    return AuthorizationPolicy(
        api_version="security.istio.io/v1",
        kind="AuthorizationPolicy",
        metadata=Metadata(name="get"),
        spec=AuthorizationPolicySpec(
            action=Action.ALLOW, rules=(Rule(to=(To(operation=Operation(methods=("GET",))),)),)
        ),
    )


def launch_nodemesh_layer7(site: Site) -> Subject:
    """Start two workers, one for the callers and one for the service."""
    pair = start_pair(site, protocol=PortProtocol.HTTP, routes=(route(),), policies=(policy(),))
    return pair.subject("nodemesh")


def launch_nginx_layer7(site: Site) -> Subject:
    """Start a pair of nginx that proxy HTTP."""
    program = find_program("nginx", "nginx")
    entry, tunnel = pick_ports(), pick_ports()
    again = "proxy_next_upstream error timeout http_502 http_503 http_504; proxy_next_upstream_tries 3;"
    near = f"""
        upstream far {{ server {LOOPBACK}:{tunnel.http}; keepalive {KEPT}; keepalive_requests 1000000000; }}
        server {{ listen {LOOPBACK}:{entry.http} backlog=4096;
            location / {{
                proxy_pass https://far; {again}
                proxy_set_header X-Bench route; proxy_set_header Connection "";
                proxy_ssl_protocols TLSv1.3; proxy_ssl_server_name on; proxy_ssl_name {SERVICE_NAME};
                proxy_ssl_certificate {site.near.chain}; proxy_ssl_certificate_key {site.near.key};
                proxy_ssl_verify on; proxy_ssl_trusted_certificate {site.near.roots};
            }}
        }}"""
    far = f"""
        upstream backend {{ server {LOOPBACK}:{site.backends.http}; keepalive {KEPT};
            keepalive_requests 1000000000; }}
        server {{ listen {LOOPBACK}:{tunnel.http} ssl backlog=4096;
            ssl_certificate {site.far.chain}; ssl_certificate_key {site.far.key}; ssl_protocols TLSv1.3;
            ssl_verify_client on; ssl_client_certificate {site.far.roots};
            location / {{ limit_except GET {{ deny all; }} proxy_pass http://backend; }}
        }}"""
    sides = (_nginx(site, program, "near", near), _nginx(site, program, "far", far))
    return Subject("nginx", entry, sides)


LAUNCHES: dict[str, Launch] = {
    "direct": launch_direct,
    "nodemesh": launch_nodemesh_layer7,
    "envoy": launch_envoy_layer7,
    "nginx": launch_nginx_layer7,
}


def main() -> int:
    """Measure, print, and keep the figures."""
    given = _arguments()
    console = make_console()
    began = time.monotonic()
    date = datetime.now(UTC)
    with open_bench(console) as bench:
        launches = {name: LAUNCHES[name] for name in given.only.replace(",", " ").split() or LAUNCHES}
        bench.start(launches)
        measure(bench, rounds=given.rounds, seconds=given.seconds)
    results = Results(date, given.seconds, given.rounds, bench.outcomes)
    print_results(console, results)
    kept = keep(date, results.document(), kind="-layer7")
    console.print(f"{time.monotonic() - began:.0f} s in all; {kept}", style="dim", soft_wrap=True)
    return 0


def measure(bench: Bench, *, rounds: int, seconds: int) -> None:
    """Drive every subject in turn."""
    jobs = [request_job(bench.folder, seconds, connections) for connections in CONNECTIONS]
    jobs.append(request_job(bench.folder, seconds, CONNECTIONS[-1], new=True))
    bench.repeat(jobs, rounds)


def _nginx(site: Site, program: str, name: str, servers: str) -> Process:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {site.folder}/{name}-{kind};" for kind in kinds)
    blocks = f"""http {{
        access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; {temporary}
        proxy_http_version 1.1; proxy_set_header Connection ""; {servers}
    }}"""
    return start_nginx(site.processes, site.folder, program, f"nginx-{name}", blocks)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.layer7", description="Compare proxies that read HTTP, on loopback."
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each job is done for each subject")
    parser.add_argument("--seconds", type=int, default=2, help="how long each job takes")
    parser.add_argument("--only", default="", metavar="NAMES", help=f"some of: {', '.join(LAUNCHES)}")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
