"""The acts of the demo. Each does something to the running mesh and claims what was seen of it."""

import contextlib
import json
import time
from collections.abc import Iterator

from tests.demo import evidence
from tests.demo.layout import Layout, Tap, read_tap, start_taps
from tests.demo.report import Report
from tests.demo.traffic import Traffic
from tests.support.mesh import PREFIX
from tests.support.plans import render_denial, render_service
from tests.support.processes import wait_until

# What design and issue promise for the effect of a policy.
POLICY_SECONDS = 1.0
FAILOVER_SECONDS = 2.0
OUTAGE_SECONDS = 8.0
_PATIENCE = 10.0
_RATE = 50


def set_up(layout: Layout, report: Report) -> list[Tap]:
    """Start everything; the report shows what and how long it took."""
    mesh = layout.mesh
    with report.step(f"etcd at {mesh.etcd_address}"):
        mesh.start_etcd()
    with report.step(f"registry with its certificate authority at https://{mesh.registry_address}"):
        mesh.start_registry()
    with report.step("services api and db written with meshctl"):
        services = [
            render_service(name, port=80, target=layout.port(name), protocol="http") for name in ("api", "db")
        ]
        mesh.meshctl("apply", "-f", "-", text="".join(services))
    with report.step("web-1, app-1 and app-2 joined, each with a one-time token"):
        layout.nodes |= {node.name: node for node in mesh.add_nodes(list(layout.plans.values()))}
    with report.step("taps between the hosts"):
        taps = start_taps(layout)
    with report.step("proxies and services, health-checked and known everywhere"):
        mesh.start_proxies(list(layout.nodes.values()))
        for node, workload in (("app-2", "db"), ("app-1", "api"), ("app-2", "api"), ("web-1", "web")):
            layout.start_service(node, workload)
        virtual = mesh.wait_services({"api": 2, "db": 1})
        if layout.fabric is not None:
            for plan in layout.plans.values():
                plan.host.map_names({f"{name}.mesh": addresses for name, addresses in virtual.items()})
        wait_until(lambda: ask(layout, "web-1", layout.web_url), what="web to answer", deadline=20)
    return taps


def show_the_path(layout: Layout, report: Report) -> None:
    """Plain calls cross the mesh, and the proxies know who talked to whom."""
    report.title("Plain calls, and who talked to whom")
    web1 = layout.nodes["web-1"]
    path = f"hello?{layout.marker}"
    for url in (layout.api_url, layout.web_url):
        answer = web1.host.get(url + path)
        report.command(layout.typed("web-1", f"curl {url}{path}"), answer.text)
    answered = json.loads(answer.text).get("answered", [])
    report.claim(
        "a call went web → api → db",
        [name.partition("@")[0] for name in answered] == ["web", "api", "db"],
        " → ".join(answered),
    )
    for _ in range(20):
        web1.host.get(layout.web_url + layout.marker)
    nodes = list(layout.nodes.values())
    report.say(f"Identities are below {evidence.IDENTITIES}; each was proven by its certificate:")
    wait_until(lambda: len(evidence.conversations(nodes)) >= 3, what="connections in the logs", deadline=5)
    talks = evidence.conversations(nodes)
    report.table(
        ("caller", "called", "on node", "connections"),
        [
            (evidence.short(talk.source), evidence.short(talk.destination), talk.node, str(connections))
            for talk, connections in talks.items()
        ],
    )
    pairs = {(evidence.short(talk.source), evidence.short(talk.destination)) for talk in talks}
    report.claim(
        "web talked to api and api to db, and nobody to anybody else",
        pairs == {("default/web", "default/api"), ("default/api", "default/db")},
        ", ".join(f"{source} → {destination}" for source, destination in sorted(pairs)),
    )
    seen = {evidence.short(s) for s in evidence.callers_seen(layout.nodes["app-1"], "default/api")}
    report.claim(
        "app-1 saw in TLS itself that api's caller was web", seen == {"default/web"}, ", ".join(sorted(seen))
    )


def show_the_wire(layout: Layout, report: Report, taps: list[Tap]) -> None:
    """What passed between the hosts was TLS."""
    report.title("The bytes between the hosts")
    report.say(f"Every call above carried the text {layout.marker}.")
    rows, findings = [], []
    for tap in taps:
        found = read_tap(tap)
        findings.append(found)
        records = found["records"]
        rows.append(
            (
                tap.where, f"{found['payload_bytes']:,}", str(records.get("application_data", 0)),
                str(records.get("handshake", 0)), str(found["not_tls"]),
                str(found["markers"].get(layout.marker, 0)),
            )
        )  # fmt: skip
    report.table(("tap", "bytes", "data records", "handshakes", "not TLS", "text in clear"), rows)
    sample = max((found["sample"] for found in findings), key=len)
    report.say("One record as it crossed (17 03 03: TLS application data):")
    report.quote(evidence.hexdump(bytes.fromhex(sample)))
    data = sum(found["records"].get("application_data", 0) for found in findings)
    report.claim(
        "every byte between the hosts was a TLS record",
        data > 0 and not any(found["not_tls"] or found["gaps"] for found in findings),
        f"{data} records read from their headers on, in {sum(f['streams'] for f in findings)} streams",
    )
    web1 = layout.nodes["web-1"]
    echoed = layout.marker in web1.host.get(f"{layout.web_url}{layout.marker}").text
    in_clear = sum(found["markers"].get(layout.marker, 0) for found in findings)
    report.claim(
        "the text itself never crossed in clear",
        echoed and in_clear == 0,
        f"seen {in_clear} times on the wire; db read it and echoed it" if echoed else "db did not echo it",
    )


def show_a_policy(layout: Layout, report: Report) -> None:
    """A deny policy written with etcdctl takes effect, says why, and goes again."""
    report.title("A deny policy, written with etcdctl")
    mesh, name = layout.mesh, "no-web-to-api"
    key = f"{PREFIX}authorizationpolicies/default/{name}"
    policy = render_denial(name, of="api", source="web", port=layout.port("api"))
    with load(layout) as traffic:
        report.watch(traffic, lambda: len(traffic.requests) > _RATE, seconds=_PATIENCE)
        report.document(policy)
        report.command(f"etcdctl put {key} < policy.yaml")
        put_at = time.monotonic()
        mesh.put(key, policy)
        report.watch(traffic, lambda: refused_for(traffic, 1.0), seconds=_PATIENCE)
        refused = [request for request in traffic.since(put_at) if not request.ok]
        took = refused[0].ended - put_at if refused else float("inf")
        late = [request for request in traffic.since(put_at + POLICY_SECONDS) if request.ok]
        report.claim(
            "it took effect within a second",
            took <= POLICY_SECONDS and not late,
            f"first refusal {took:.2f} s after etcdctl was started; then all {len(refused)} were refused",
        )
        serving = [layout.nodes["app-1"], layout.nodes["app-2"]]
        reasons = [r for node in serving for r in evidence.refusals(node, f"default/{name}")]
        cut = [r for node in serving for r in evidence.refusals(node, f"default/{name}", "stream cut")]
        report.claim(
            "connections that were open were cut as well", bool(cut), f"{len(cut)} of web's kept connections"
        )
        for record in reasons[-1:]:
            shown = {key: record[key] for key in ("status", "reason", "detail", "policy", "id", "source")}
            report.say("What the api's proxy logged:")
            report.quote(json.dumps(shown, indent=1))
        told = [
            record
            for record in layout.nodes["web-1"].events("request refused")
            if record["policy"] == f"default/{name}"
        ]
        report.claim(
            "both ends say which policy it was",
            bool(reasons and told),
            f"{len(reasons)} refusals at the api's side, {len(told)} told to web's",
        )
        report.command(f"etcdctl del {key}")
        gone_at = time.monotonic()
        mesh.delete(key)
        report.watch(traffic, lambda: answered_for(traffic, 0.5), seconds=_PATIENCE)
        again = [request for request in traffic.since(gone_at) if request.ok]
        report.claim(
            "when it is deleted, traffic flows again",
            bool(again),
            f"first answer {again[0].ended - gone_at:.2f} s after etcdctl was started"
            if again
            else "no answer",
        )


def show_a_failover(layout: Layout, report: Report) -> None:
    """A service is killed, and its traffic moves to its other endpoint."""
    report.title("A service killed")
    with load(layout) as traffic:
        report.watch(traffic, lambda: len(traffic.requests) > _RATE, seconds=_PATIENCE)
        report.say("Before, both endpoints of api answer:")
        report.traffic(traffic, time.monotonic() - 1)
        victim = layout.nodes["app-1"].services["api"]
        report.command(layout.typed("app-1", f"kill -9 {victim.pid}"))
        killed_at = time.monotonic()
        victim.kill()
        settled_at = killed_at + FAILOVER_SECONDS
        report.watch(traffic, lambda: time.monotonic() > settled_at + 1.5, seconds=_PATIENCE)
        report.say("After, the other one answers alone:")
        report.traffic(traffic, settled_at)
        after = traffic.since(settled_at)
        failed = [request for request in traffic.since(killed_at) if not request.ok]
        moved = min((r.ended for r in traffic.since(killed_at) if r.by == "api@app-2"), default=float("inf"))
        report.claim(
            f"traffic moved to app-2; {FAILOVER_SECONDS:g} s after the kill not one request failed",
            bool(after) and all(request.by == "api@app-2" for request in after),
            f"first answer from there {moved - killed_at:.2f} s after the kill; "
            f"requests under way that failed: {len(failed)}",
        )
        layout.start_service("app-1", "api")
        report.watch(traffic, lambda: "api@app-1" in answering(traffic), seconds=_PATIENCE)
        report.claim(
            "started again, it gets traffic again", "api@app-1" in answering(traffic), "api@app-1 answers"
        )


def show_an_outage(layout: Layout, report: Report) -> None:
    """Traffic goes on without etcd, and edits arrive when it is back."""
    report.title("etcd stopped")
    mesh = layout.mesh
    with load(layout) as traffic:
        report.watch(traffic, lambda: len(traffic.requests) > _RATE, seconds=_PATIENCE)
        with report.step("etcd stopped"):
            mesh.stop_etcd()
        stopped_at = time.monotonic()
        report.watch(traffic, lambda: time.monotonic() > stopped_at + OUTAGE_SECONDS, seconds=60)
        report.traffic(traffic, stopped_at)
        asked = traffic.since(stopped_at)
        failed = [request for request in asked if not request.ok]
        report.claim(
            f"{OUTAGE_SECONDS:g} s without etcd, and not one request failed",
            len(asked) > OUTAGE_SECONDS * _RATE / 2 and not failed,
            f"{len(asked)} requests, half of them on new connections, {len(failed)} failed",
        )
        with report.step("etcd started again"):
            mesh.start_etcd()
        key = f"{PREFIX}authorizationpolicies/default/after-the-outage"
        policy = render_denial("after-the-outage", of="api", source="web", port=layout.port("api"))
        put_at = time.monotonic()
        mesh.put(key, policy)
        report.watch(traffic, lambda: refused_for(traffic, 0.2), seconds=20)
        refused = [request for request in traffic.since(put_at) if not request.ok]
        report.claim(
            "an edit made afterwards is applied",
            bool(refused),
            f"in force {refused[0].ended - put_at:.2f} s after etcdctl was started" if refused else "",
        )
        mesh.delete(key)
        report.watch(traffic, lambda: answered_for(traffic, 0.2), seconds=_PATIENCE)


@contextlib.contextmanager
def load(layout: Layout) -> Iterator[Traffic]:
    """Keep web-1 asking for api while the block runs."""
    process = layout.mesh.processes.start_module(
        "load", layout.plans["web-1"].host.prefix, "tests.support.programs.load", layout.api_url,
        "--rate", str(_RATE),
    )  # fmt: skip
    try:
        process.wait_ready(lambda: list(process.records()), what="the first request")
        yield Traffic(process.log)
    finally:
        process.stop()


def ask(layout: Layout, node: str, url: str) -> bool:
    """Whether a URL is answered well, asked from a node."""
    return layout.nodes[node].host.get(url).status == 200


def answering(traffic: Traffic) -> set[str]:
    """Who answered within the last second."""
    return {request.by for request in traffic.latest(1.0) if request.ok}


def refused_for(traffic: Traffic, seconds: float) -> bool:
    """Whether requests were made in the last `seconds` and all failed."""
    latest = traffic.latest(seconds)
    return bool(latest) and not any(request.ok for request in latest)


def answered_for(traffic: Traffic, seconds: float) -> bool:
    """Whether requests were made in the last `seconds` and none failed."""
    latest = traffic.latest(seconds)
    return bool(latest) and all(request.ok for request in latest)
