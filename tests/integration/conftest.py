import pytest

from tests.integration.certificates import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Give the root that every honest process of these tests trusts."""
    return Authority("nodemesh test root")


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """Give a root that nobody trusts."""
    return Authority("another root")
