import functools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from registry.cli.client import connect
from registry.cli.main import app
from registry.cli.session import World
from tests.fakes.registry_api import TOKEN, FakeRegistry
from tests.registry.cli.backends import Backend, open_fake, open_real

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

Meshctl = Callable[..., Result]


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture(params=[open_fake, open_real], ids=["fake", "real"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Give the fake registry, then the real application, for tests that must agree on both."""
    with request.param() as backend:
        yield backend


@pytest.fixture
def transport(registry: FakeRegistry) -> httpx.BaseTransport:
    """Give the way to the registry; modules whose tests run on both backends give their own."""
    return registry


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str | None]:
    """What the command finds: a home without configuration, the registry and token in variables."""
    return {
        "HOME": str(tmp_path),
        "MESHCTL_SERVER": "https://registry.test:15010",
        "MESHCTL_TOKEN": TOKEN,
        "MESHCTL_CONFIG": None,
        "MESHCTL_CA": None,
        "NO_COLOR": None,
        "FORCE_COLOR": None,
        "PY_COLORS": None,
        "TERMINAL_WIDTH": "100",
    }


@pytest.fixture
def meshctl(transport: httpx.BaseTransport, environment: dict[str, str | None]) -> Meshctl:
    """Give a function that runs meshctl against the registry; words are split as a shell would."""
    world = World(connect=functools.partial(connect, transport=transport), now=lambda: NOW)
    runner = CliRunner()

    def run(command: str, *, stdin: str = "") -> Result:
        return runner.invoke(app, command, obj=world, env=environment, input=stdin, catch_exceptions=False)

    return run
