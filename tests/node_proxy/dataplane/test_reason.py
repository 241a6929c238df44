import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.reason import CODES, MESH_DEFAULT, OTHER, Reason, parse_reason, render_reason

_labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
_policies = st.just("") | st.just(MESH_DEFAULT) | st.tuples(_labels, _labels).map("/".join)
_decisions = st.just("") | st.from_regex(r"[0-9a-f]{8}-[0-9a-f]{1,16}", fullmatch=True)
_reasons = st.builds(Reason, st.sampled_from(sorted(CODES)), _policies, _decisions)


@given(_reasons)
def test_round_trip(reason: Reason) -> None:
    """What is written is read as the same."""
    assert parse_reason(render_reason(reason)) == reason


@given(st.text(max_size=60))
def test_anything_else_is_other(text: str) -> None:
    """Whatever a peer sends gives one of our codes, and text that is not ours gives nothing else."""
    reason = parse_reason(text)
    assert reason.code in CODES | {OTHER}
    assert reason == Reason(OTHER) or render_reason(reason) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "denied;",
        "denied; ",
        "denied\n",
        "denied; id=",
        "denied; id=0011aabb-1\n",
        "denied; id=0011AABB-1",
        "denied; id=0011aabb-1; policy=default/p",
        "denied; policy=; id=0011aabb-1",
        "denied; policy=default; id=0011aabb-1",
        "denied; policy=Default/p; id=0011aabb-1",
        "denied; policy=default/p/q; id=0011aabb-1",
        "denied; policy=default/" + "p" * 64,
        "denied; policy=default/p; id=" + "0" * 40,
        "denied; policy=mesh-default; id=0011aabb-1; more=1",
        "Denied; policy=default/p",
        "made_up; policy=default/p; id=0011aabb-1",
        "denied;policy=default/p",
    ],
)
def test_nearly_ours(text: str) -> None:
    """What is nearly of our form is not taken in parts."""
    assert parse_reason(text) == Reason(OTHER)


def test_parts() -> None:
    """A header gives its code, policy and decision."""
    assert parse_reason("denied; policy=default/no-web; id=0011aabb-1f") == Reason(
        "denied", "default/no-web", "0011aabb-1f"
    )
    assert parse_reason("no_workload; id=0011aabb-1f") == Reason("no_workload", "", "0011aabb-1f")
    assert parse_reason("dial_failed") == Reason("dial_failed")
