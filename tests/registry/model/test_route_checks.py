"""What people get wrong in routes: each document with one mistake, and where and why it is refused."""

from typing import Any

import pytest

from registry.errors import InvalidResource
from registry.model.parse import from_builtins
from tests.registry.model.documents import GRPC_ROUTE, HTTP_ROUTE, TCP_ROUTE, refusal, with_spec
from tests.registry.model.routes import (
    BACKEND,
    FILTER,
    MATCH,
    NOT_SUPPORTED,
    PARENT,
    RULE,
    SET_X,
    backend,
    cors,
    filtered,
    grpc,
    grpc_method,
    header,
    match,
    mirrored,
    modified,
    path,
    redirected,
    rewritten,
    rule,
)

WRONG: list[tuple[dict[str, Any], str, str]] = [
    # What it attaches to.
    (with_spec(HTTP_ROUTE, parentRefs=[]), "spec.parentRefs", "is empty"),
    (
        with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "kind": "Gateway"}]),
        "spec.parentRefs[0].kind",
        NOT_SUPPORTED,
    ),
    (
        with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "kind": "Pod"}]),
        "spec.parentRefs[0].kind",
        "is not known",
    ),
    (
        with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "kind": "ServiceImport"}]),
        "spec.parentRefs[0].kind",
        NOT_SUPPORTED,
    ),
    (
        with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "group": "gateway.networking.k8s.io"}]),
        "spec.parentRefs[0].group",
        "has no Service",
    ),
    (
        with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "sectionName": "http"}]),
        "spec.parentRefs[0].sectionName",
        NOT_SUPPORTED,
    ),
    (with_spec(HTTP_ROUTE, parentRefs=[PARENT, PARENT]), "spec.parentRefs[1]", "spec.parentRefs[0] again"),
    (
        with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "port": 80}, PARENT]),
        "spec.parentRefs[1]",
        "spec.parentRefs[0] again",
    ),
    (with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "port": 0}]), "spec.parentRefs[0].port", "out of bounds"),
    (with_spec(HTTP_ROUTE, useDefaultGateways="All"), "spec.useDefaultGateways", NOT_SUPPORTED),
    ({**HTTP_ROUTE, "status": {}}, "status", NOT_SUPPORTED),
    ({**HTTP_ROUTE, "apiVersion": "gateway.networking.k8s.io/v2"}, "apiVersion", "is not known"),
    # Hosts.
    (with_spec(HTTP_ROUTE, hostnames=["10.0.0.1"]), "spec.hostnames[0]", "is an address"),
    (with_spec(HTTP_ROUTE, hostnames=["*"]), "spec.hostnames[0]", "is not well-formed"),
    (with_spec(HTTP_ROUTE, hostnames=["API.example.com"]), "spec.hostnames[0]", "is not well-formed"),
    (with_spec(HTTP_ROUTE, hostnames=["a.com:80"]), "spec.hostnames[0]", "is not well-formed"),
    (with_spec(HTTP_ROUTE, hostnames=["a.com", "a.com"]), "spec.hostnames[1]", "already taken"),
    (with_spec(HTTP_ROUTE, hostnames=[f"{'a' * 64}.com"]), "spec.hostnames[0]", "more than 63"),
    # Rules.
    (with_spec(HTTP_ROUTE, rules=[]), "spec.rules", "is empty"),
    (with_spec(HTTP_ROUTE, rules=[{"name": "a"}, {"name": "a"}]), "spec.rules[1].name", "already taken"),
    (with_spec(HTTP_ROUTE, rules=[{"matches": [{}] * 50}] * 3), "spec.rules", "150 matches"),
    (rule(sessionPersistence={}), f"{RULE}.sessionPersistence", NOT_SUPPORTED),
    (rule(weight=1), f"{RULE}.weight", "is not a known field"),
    # Paths.
    (path("api"), f"{MATCH}.path.value", "is no path"),
    (path("/a//b"), f"{MATCH}.path.value", "has a segment"),
    (path("/a/../b", "Exact"), f"{MATCH}.path.value", "has a segment"),
    (path("/a/..;x/b"), f"{MATCH}.path.value", "has a segment"),
    (path("/a?x=1"), f"{MATCH}.path.value", "has a query"),
    (path("/a%2Fb"), f"{MATCH}.path.value", "has an escape"),
    (path("/a%zz"), f"{MATCH}.path.value", "has an escape"),
    (path("/café"), f"{MATCH}.path.value", "has a character"),
    (path("/a b"), f"{MATCH}.path.value", "has a character"),
    (path("/" + "a" * 1024), f"{MATCH}.path.value", "out of bounds"),
    (path("/a", "Suffix"), f"{MATCH}.path.type", "is not known"),
    (path("/(a", "RegularExpression"), f"{MATCH}.path.value", "is no regular expression"),
    (path("/(?=a)", "RegularExpression"), f"{MATCH}.path.value", "is no regular expression"),
    (path(r"/(a)\1", "RegularExpression"), f"{MATCH}.path.value", "is no regular expression"),
    (path("([a-z]{1,100}){1,10}", "RegularExpression"), f"{MATCH}.path.value", "steps for each character"),
    (path("(([a-z]{1,100}){1,100}){1,100}", "RegularExpression"), f"{MATCH}.path.value", "no regular"),
    # Headers, parameters, methods.
    (header(name="bad name"), f"{MATCH}.headers[0].name", "is not well-formed"),
    (header(name="Host"), f"{MATCH}.headers[0].name", "is the host"),
    (header(name="Connection"), f"{MATCH}.headers[0].name", "one connection"),
    (header(name="nodemesh-route"), f"{MATCH}.headers[0].name", "taken from no caller"),
    (header(" x"), f"{MATCH}.headers[0].value", "no header's value"),
    (header("a\nb"), f"{MATCH}.headers[0].value", "no header's value"),
    (header("[", type="RegularExpression"), f"{MATCH}.headers[0].value", "is no regular expression"),
    (
        match(headers=[{"name": "x-team", "value": "a"}, {"name": "X-Team", "value": "b"}]),
        f"{MATCH}.headers[1].name",
        "already taken",
    ),
    (
        match(headers=[{"name": f"x-{i}", "value": "a"} for i in range(17)]),
        f"{MATCH}.headers",
        "more than 16",
    ),
    (
        match(queryParams=[{"name": "q", "value": "a"}, {"name": "q", "value": "b"}]),
        f"{MATCH}.queryParams[1].name",
        "already taken",
    ),
    (
        match(queryParams=[{"name": "q", "value": "*", "type": "RegularExpression"}]),
        f"{MATCH}.queryParams[0].value",
        "is no regular expression",
    ),
    (match(method="get"), f"{MATCH}.method", "is not known"),
    (match(method="CONNECT"), f"{MATCH}.method", "answered by the proxy"),
    # Filters.
    (filtered("ExtensionRef"), f"{FILTER}.type", NOT_SUPPORTED),
    (filtered("ExternalAuth"), f"{FILTER}.type", NOT_SUPPORTED),
    (filtered("URLRewrite", extensionRef={}), f"{FILTER}.extensionRef", NOT_SUPPORTED),
    (filtered("URLRewrite"), f"{FILTER}.urlRewrite", "is missing, and type is URLRewrite"),
    (
        filtered("CORS", cors={"allowOrigins": ["*"]}, **SET_X),
        f"{FILTER}.requestHeaderModifier",
        "stands beside type CORS",
    ),
    (
        rule(filters=[{"type": "RequestHeaderModifier", **SET_X}] * 2),
        f"{RULE}.filters[1].type",
        "already there in spec.rules[0].filters[0]",
    ),
    (
        rule(
            backendRefs=[],
            filters=[
                {"type": "RequestRedirect", "requestRedirect": {"port": 8080}},
                {"type": "URLRewrite", "urlRewrite": {"hostname": "a.com"}},
            ],
        ),
        f"{RULE}.filters",
        "only one can be",
    ),
    (modified(), f"{FILTER}.requestHeaderModifier", "changes nothing"),
    (modified(remove=["Host"]), f"{FILTER}.requestHeaderModifier.remove[0]", "is the host"),
    (
        modified(set=[{"name": "Transfer-Encoding", "value": "chunked"}]),
        f"{FILTER}.requestHeaderModifier.set[0].name",
        "one connection",
    ),
    (
        modified(add=[{"name": "Content-Length", "value": "1"}]),
        f"{FILTER}.requestHeaderModifier.add[0].name",
        "one connection",
    ),
    (
        modified(set=[{"name": "nodemesh-caller", "value": "spiffe://x"}]),
        f"{FILTER}.requestHeaderModifier.set[0].name",
        "the proxies' own",
    ),
    (
        modified(set=[{"name": "x", "value": "a\r\nb: c"}]),
        f"{FILTER}.requestHeaderModifier.set[0].value",
        "no header's value",
    ),
    (
        modified(set=[{"name": "x", "value": "1"}, {"name": "X", "value": "2"}]),
        f"{FILTER}.requestHeaderModifier.set[1].name",
        "already taken",
    ),
    (redirected(), f"{FILTER}.requestRedirect", "go in circles"),
    (redirected(port=1, statusCode=304), f"{FILTER}.requestRedirect.statusCode", "leads nowhere"),
    (redirected(scheme="ftp"), f"{FILTER}.requestRedirect.scheme", "is not known"),
    (redirected(hostname="*.a.com"), f"{FILTER}.requestRedirect.hostname", "is not well-formed"),
    (
        filtered("RequestRedirect", requestRedirect={"port": 1}),
        f"{RULE}.backendRefs",
        "stands beside a redirect",
    ),
    (rewritten(), f"{FILTER}.urlRewrite", "changes nothing"),
    (
        rewritten(path={"type": "ReplaceFullPath"}),
        f"{FILTER}.urlRewrite.path.replaceFullPath",
        "is missing",
    ),
    (
        rewritten(path={"type": "ReplaceFullPath", "replaceFullPath": ""}),
        f"{FILTER}.urlRewrite.path.replaceFullPath",
        "is empty",
    ),
    (
        rewritten(path={"type": "ReplaceFullPath", "replaceFullPath": "/x", "replacePrefixMatch": "/y"}),
        f"{FILTER}.urlRewrite.path.replacePrefixMatch",
        "stands beside type",
    ),
    (
        rewritten(path={"type": "ReplaceFullPath", "replaceFullPath": "/../etc"}),
        f"{FILTER}.urlRewrite.path.replaceFullPath",
        "has a segment",
    ),
    (
        rule(
            matches=[{"path": {"type": "Exact", "value": "/a"}}],
            filters=[
                {
                    "type": "URLRewrite",
                    "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}},
                }
            ],
        ),
        f"{MATCH}.path.type",
        "replaces the prefix",
    ),
    (mirrored(percent=101), f"{FILTER}.requestMirror.percent", "out of bounds"),
    (mirrored(percent=1, fraction={"numerator": 1}), f"{FILTER}.requestMirror.fraction", "beside percent"),
    (
        mirrored(fraction={"numerator": 3, "denominator": 2}),
        f"{FILTER}.requestMirror.fraction.numerator",
        "more than the denominator",
    ),
    (
        filtered("RequestMirror", requestMirror={"backendRef": {**BACKEND, "namespace": "other"}}),
        f"{FILTER}.requestMirror.backendRef.namespace",
        "another than the route's",
    ),
    (cors(allowOrigins=[]), f"{FILTER}.cors.allowOrigins", "is empty"),
    (cors(allowOrigins=["a.com"]), f"{FILTER}.cors.allowOrigins[0]", "is no origin"),
    (cors(allowOrigins=["https://a.com/x"]), f"{FILTER}.cors.allowOrigins[0]", "is no origin"),
    (cors(allowMethods=["*", "GET"]), f"{FILTER}.cors.allowMethods", "beside others"),
    (cors(allowHeaders=["x y"]), f"{FILTER}.cors.allowHeaders[0]", "is no name"),
    (cors(maxAge=0), f"{FILTER}.cors.maxAge", "out of bounds"),
    # Backends.
    (backend(namespace="other"), f"{RULE}.backendRefs[0].namespace", "another than the route's"),
    (backend(kind="ServiceImport"), f"{RULE}.backendRefs[0].kind", NOT_SUPPORTED),
    (backend(group="apps"), f"{RULE}.backendRefs[0].group", "has no Service"),
    (backend(weight=-1), f"{RULE}.backendRefs[0].weight", "out of bounds"),
    (rule(backendRefs=[{"name": "web"}]), f"{RULE}.backendRefs[0].port", "is missing"),
    (
        backend(filters=[{"type": "RequestRedirect", "requestRedirect": {"port": 1}}]),
        f"{RULE}.backendRefs[0].filters[0].type",
        "not for one backend",
    ),
    (
        backend(filters=[{"type": "CORS", "cors": {"allowOrigins": ["*"]}}]),
        f"{RULE}.backendRefs[0].filters[0].type",
        "not for one backend",
    ),
    # Timeouts and retries.
    (rule(timeouts={"request": "5"}), f"{RULE}.timeouts.request", "is not well-formed"),
    (rule(timeouts={"request": "1.5s"}), f"{RULE}.timeouts.request", "is not well-formed"),
    (rule(timeouts={"request": ""}), f"{RULE}.timeouts.request", "is not well-formed"),
    (rule(timeouts={"request": "25h"}), f"{RULE}.timeouts.request", "is too long"),
    (
        rule(timeouts={"request": "1s", "backendRequest": "2s"}),
        f"{RULE}.timeouts.backendRequest",
        "2s for one try is more than 1s",
    ),
    (
        rule(timeouts={"request": "1s", "backendRequest": "0s"}),
        f"{RULE}.timeouts.backendRequest",
        "no limit for one try is more than 1s",
    ),
    (rule(retry={"attempts": 11}), f"{RULE}.retry.attempts", "out of bounds"),
    (rule(retry={"codes": [200]}), f"{RULE}.retry.codes[0]", "out of bounds"),
    (rule(retry={"codes": [503, 503]}), f"{RULE}.retry.codes[1]", "already taken"),
    (rule(retry={"backoff": "0s"}), f"{RULE}.retry.backoff", "is too short"),
    # gRPC.
    (grpc_method(), f"{MATCH}.method", "is empty"),
    (grpc_method(service="shop/Orders"), f"{MATCH}.method.service", "is no service's name"),
    (grpc_method(method="Get.Order"), f"{MATCH}.method.method", "is no method's name"),
    (grpc_method(method="[", type="RegularExpression"), f"{MATCH}.method.method", "is no regular expression"),
    (grpc(timeouts={"request": "1s"}), f"{RULE}.timeouts", NOT_SUPPORTED),
    (grpc(retry={}), f"{RULE}.retry", NOT_SUPPORTED),
    (grpc(sessionPersistence={}), f"{RULE}.sessionPersistence", NOT_SUPPORTED),
    (grpc(filters=[{"type": "URLRewrite"}]), f"{FILTER}.type", NOT_SUPPORTED),
    (grpc(filters=[{"type": "ExtensionRef"}]), f"{FILTER}.type", NOT_SUPPORTED),
    (grpc(filters=[{"type": "RequestHeaderModifier"}]), f"{FILTER}.requestHeaderModifier", "is missing"),
    (grpc(backendRefs=[{**BACKEND, "namespace": "b"}]), f"{RULE}.backendRefs[0].namespace", "another than"),
    # TCP.
    (with_spec(TCP_ROUTE, rules=[{"backendRefs": []}]), f"{RULE}.backendRefs", "is empty"),
    (with_spec(TCP_ROUTE, rules=[{"backendRefs": [BACKEND]}] * 2), "spec.rules", "out of bounds"),
    (
        with_spec(TCP_ROUTE, rules=[{"backendRefs": [BACKEND], "matches": []}]),
        f"{RULE}.matches",
        NOT_SUPPORTED,
    ),
    (with_spec(TCP_ROUTE, parentRefs=[PARENT, PARENT]), "spec.parentRefs[1]", "spec.parentRefs[0] again"),
]


@pytest.mark.parametrize(
    ("document", "where", "reason"), WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrong(document: dict[str, Any], where: str, reason: str) -> None:
    """A route with one mistake is refused at its field, with the reason."""
    error = refusal(document)
    assert (error.path, reason in error.reason) == (where, True), error.reason


def refused(document: dict[str, Any]) -> str:
    """Say why a document is refused; nothing if it is not."""
    try:
        from_builtins(document, where="key")
    except InvalidResource as error:
        return error.describe()
    return ""


@pytest.mark.parametrize(
    "document",
    [
        with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "port": 80}, {**PARENT, "port": 81}]),
        with_spec(HTTP_ROUTE, parentRefs=[PARENT, {**PARENT, "namespace": "shop"}]),
        with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "group": "core", "kind": "Service"}]),
        with_spec(HTTP_ROUTE, hostnames=["*.example.com", "web", "web.default.svc"]),
        with_spec(HTTP_ROUTE, rules=[{"matches": [{}] * 64}] * 2),
        path("/caf%C3%A9/(x)!$&'*+,;=:@~"),
        path(".*", "RegularExpression"),
        header("a b\tc"),
        header("nodemesh-timeout", name="nodemesh-timeout"),
        mirrored(),
        rule(filters=[{"type": "RequestMirror", "requestMirror": {"backendRef": BACKEND}}] * 2),
        rule(timeouts={"request": "0s", "backendRequest": "9s"}),
        rule(timeouts={"request": "0s"}),
        rule(backendRefs=[{**BACKEND, "weight": 0}]),
        rewritten(path={"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}),
        redirected(path={"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}),
        cors(allowOrigins=["https://*.example.com", "http://localhost:3000"], allowCredentials=True),
        backend(filters=[{"type": "URLRewrite", "urlRewrite": {"hostname": "a.com"}}]),
        {**HTTP_ROUTE, "apiVersion": "gateway.networking.k8s.io/v1beta1"},
        {**GRPC_ROUTE, "apiVersion": "gateway.networking.k8s.io/v1alpha2"},
        grpc_method(service="shop.v1.Orders"),
        {**TCP_ROUTE, "apiVersion": "gateway.networking.k8s.io/v1"},
    ],
)
def test_right(document: dict[str, Any]) -> None:
    """What Gateway API allows, and this mesh does, is taken."""
    assert refused(document) == ""


@pytest.mark.parametrize("field", ["creationTimestamp", "resourceVersion", "uid"])
def test_from_a_cluster(field: str) -> None:
    """What a cluster adds to a route is refused by name, and the mend says to remove it."""
    document = {**HTTP_ROUTE, "metadata": {"name": "web", field: "x"}}
    assert "remove it" in refusal(document).mend


def test_a_gateway_is_told_apart() -> None:
    """Who attaches a route to a Gateway is told what routes attach to here."""
    error = refusal(with_spec(HTTP_ROUTE, parentRefs=[{**PARENT, "kind": "Gateway"}]))
    assert "routes attach to Services" in error.mend
