from pathlib import Path

import pytest

from node_proxy.capture_settings import CaptureSection, checked_capture
from node_proxy.errors import ConfigError

FILE = Path("proxy.toml")


def test_users_become_numbers() -> None:
    """Users are looked up by name; numbers are taken as they are."""
    checked = checked_capture(FILE, CaptureSection(include_users=("root", 4242), exclude_users=("nobody",)))
    assert checked.include_users == (0, 4242)
    assert checked.exclude_users == (65534,)


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        (CaptureSection(exclude_users=("nosuch",)), "capture.exclude_users: this host has no user 'nosuch'"),
        (CaptureSection(include_users=("42",)), "write the number 42"),
        (CaptureSection(include_cgroups=("shop.slice",)), "capture.include_cgroups: .* write /shop.slice"),
        (CaptureSection(inbound=True, inbound_port=15001), "15001 is capture.port too"),
    ],
)
def test_mistakes(section: CaptureSection, complaint: str) -> None:
    """What the shape does not show is refused, by file and field."""
    with pytest.raises(ConfigError, match=complaint):
        checked_capture(FILE, section)
