"""etcd's errors become ours, with a sentence that helps."""

import pytest

from registry.errors import Conflict, NotFound, RegistryError, StoreError, StoreForbidden, StoreUnavailable
from registry.store.faults import Remedy, judge, judge_watch_end

AT = "10.0.0.1:2379"


@pytest.mark.parametrize(
    ("code", "details", "remedy", "error", "words"),
    [
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", Remedy.NEW_TOKEN, StoreForbidden, "token"),
        (
            "INVALID_ARGUMENT",
            "etcdserver: user name is empty",
            Remedy.NEW_TOKEN,
            StoreForbidden,
            "who we are",
        ),
        (
            "INVALID_ARGUMENT",
            "etcdserver: authentication failed, invalid user ID or password",
            Remedy.NONE,
            StoreForbidden,
            "password",
        ),
        ("PERMISSION_DENIED", "etcdserver: permission denied", Remedy.NONE, StoreForbidden, "grant"),
        ("PERMISSION_DENIED", "something new", Remedy.NONE, StoreForbidden, "something new"),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", Remedy.NONE, Conflict, ""),
        ("NOT_FOUND", "etcdserver: requested lease not found", Remedy.NONE, NotFound, "lease"),
        ("UNAVAILABLE", "etcdserver: no leader", Remedy.TRY_AGAIN, StoreUnavailable, "no leader"),
        ("DEADLINE_EXCEEDED", "", Remedy.TRY_AGAIN, StoreUnavailable, AT),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Remedy.TRY_AGAIN, StoreUnavailable, ""),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", Remedy.NONE, StoreError, "space"),
        ("INVALID_ARGUMENT", "etcdserver: too many operations", Remedy.NONE, StoreError, "too many"),
        (
            "UNAVAILABLE",
            "… OPENSSL_internal:CERTIFICATE_VERIFY_FAILED …",
            Remedy.TRY_AGAIN,
            StoreUnavailable,
            "configured ca",
        ),
        (
            "UNAVAILABLE",
            "… OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE …",
            Remedy.TRY_AGAIN,
            StoreUnavailable,
            "client certificate",
        ),
    ],
)
def test_judge(code: str, details: str, remedy: Remedy, error: type[RegistryError], words: str) -> None:
    """A fault is judged by its code and its text, and names the member."""
    fault = judge(code, details, at=AT)
    assert fault.remedy is remedy
    assert type(fault.error) is error
    assert AT in str(fault.error)
    assert words in str(fault.error)


def test_denied_watch() -> None:
    """A denied watch may be due to its token."""
    reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    fault = judge_watch_end(reason, at=AT)
    assert fault.remedy is Remedy.NEW_TOKEN
    assert isinstance(fault.error, StoreForbidden)


def test_watch_that_ends() -> None:
    """A watch that etcd ends for any other reason is opened again."""
    fault = judge_watch_end("etcdserver: mvcc: the watcher is closing", at=AT)
    assert fault.remedy is Remedy.TRY_AGAIN
