import json

import pytest

from registry.errors import InvalidResource
from registry.model.mesh import Mesh
from registry.model.parse import parse_as


def read(grace: object) -> Mesh:
    """Read settings with a grace."""
    document = {
        "apiVersion": "nodemesh/v1",
        "kind": "Mesh",
        "metadata": {"name": "mesh", "namespace": "nodemesh-system"},
        "spec": {"enforcementGrace": grace},
    }
    return parse_as(Mesh, json.dumps(document).encode(), where="mesh")


@pytest.mark.parametrize("grace", [0, 1, 300])
def test_grace(grace: int) -> None:
    """Open connections may be given up to five minutes."""
    assert read(grace).spec.enforcement_grace == grace


@pytest.mark.parametrize("grace", [-1, 301, 1.5, "30", None])
def test_no_other_grace(grace: object) -> None:
    """A longer one, or what is no number of seconds, is refused by its name."""
    with pytest.raises(InvalidResource, match=r"spec\.enforcementGrace"):
        read(grace)
