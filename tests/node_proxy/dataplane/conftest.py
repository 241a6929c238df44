import pytest

from tests.integration.certificates import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Give the root that all hosts of these tests trust."""
    return Authority("nodemesh test root")
