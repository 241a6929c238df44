"""What rules do, in words. Pure."""

from collections.abc import Iterable, Iterator

from registry.rules.routing import (
    NO_LIMIT,
    Backend,
    Cors,
    HeaderChange,
    Mirror,
    PathChange,
    Rewrite,
    RouteRetry,
    RouteTimeouts,
    RoutingRule,
)


def words_of_rule(rule: RoutingRule) -> Iterator[str]:
    """Say what a rule does to every request, but for where it leads."""
    yield from _words_of_headers("request", rule.request_headers)
    if rule.rewrite is not None:
        yield from _words_of_rewrite(rule.rewrite)
    yield from _words_of_mirrors(rule.mirrors)
    if rule.cors is not None:
        yield _words_of_cors(rule.cors)
    yield from _words_of_headers("answer", rule.response_headers)
    yield from _words_of_timeouts(rule.timeouts)
    if rule.retry is not None:
        yield _words_of_retry(rule.retry)


def words_of_backend(backend: Backend) -> Iterator[str]:
    """Say what is done to the requests that go to a backend."""
    yield from _words_of_headers("request", backend.request_headers)
    if backend.rewrite is not None:
        yield from _words_of_rewrite(backend.rewrite)
    yield from _words_of_mirrors(backend.mirrors)
    yield from _words_of_headers("answer", backend.response_headers)


def _words_of_headers(of: str, changes: Iterable[HeaderChange]) -> Iterator[str]:
    for change in changes:
        for verb, names in (
            ("sets", [name for name, _ in change.set]),
            ("adds", [name for name, _ in change.add]),
            ("removes", sorted(change.remove)),
        ):
            if names:
                listed = ", ".join(name.decode("latin-1") for name in names)
                yield f"{verb} {listed} in the {of}"


def _words_of_rewrite(rewrite: Rewrite) -> Iterator[str]:
    if rewrite.hostname is not None:
        yield f"replaces the host by {rewrite.hostname.decode('latin-1')}"
    if rewrite.path is not None:
        yield _words_of_path(rewrite.path)


def _words_of_path(change: PathChange) -> str:
    what = "the prefix that matched" if change.prefix else "the path"
    return f"replaces {what} by {change.value or 'nothing'}"


def _words_of_mirrors(mirrors: Iterable[Mirror]) -> Iterator[str]:
    for mirror in mirrors:
        share = "every request" if mirror.share >= 1 else f"{mirror.share:.3g} of the requests"
        yield f"copies {share} to {mirror.backend.service}:{mirror.backend.port}"


def _words_of_cors(cors: Cors) -> str:
    if cors.any_origin:
        origins = "every origin"
    else:
        exact = [f"{each.scheme}://{each.host}:{each.port}" for each in sorted(cors.origins)]
        wide = [f"{each.scheme}://*{each.host}:{each.port}" for each in cors.suffixes]
        origins = ", ".join((*exact, *wide)) or "no origin"
    credentials = ", with credentials" if cors.credentials else ""
    return f"answers preflight requests, and lets {origins} read answers{credentials}"


def _words_of_timeouts(timeouts: RouteTimeouts) -> Iterator[str]:
    for what, limit in (("the request", timeouts.request), ("each try", timeouts.backend_request)):
        if limit is not None:
            yield f"gives {what} " + ("no limit of time" if limit == NO_LIMIT else f"{limit:g} s")


def _words_of_retry(retry: RouteRetry) -> str:
    often = "as often as the policy says" if retry.attempts is None else f"up to {retry.attempts} times"
    codes = f", on {', '.join(map(str, sorted(retry.codes)))} too" if retry.codes else ""
    pause = f", {retry.backoff:g} s apart or more" if retry.backoff is not None else ""
    return f"tries again {often}{codes}{pause}"
