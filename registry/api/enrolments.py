"""What administrators decide about nodes: approval, identities, the end."""

from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.bodies import Answer, Asked, answer, decode, read_body
from registry.ca.nodes import Edited, NodeEditor
from registry.model.enrolment import MAX_REASON


class IdentitiesAsked(Asked, frozen=True, kw_only=True):
    """Identities, as namespace/account or in full."""

    identities: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100)]


class RevokeAsked(Asked, frozen=True, kw_only=True):
    """Why a node is revoked."""

    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""


class EnrolmentAnswer(Answer, frozen=True, kw_only=True):
    """A node's enrolment as it stands, and whether it is another than before."""

    node: str
    identities: tuple[str, ...]
    changed: bool


class NodeRevokedAnswer(Answer, frozen=True, kw_only=True):
    """A node whose certificates are revoked; whether it was enrolled."""

    node: str
    enrolled: bool


class EnrolmentHandlers:
    """What is below ``/v1/nodes/<node>``."""

    def __init__(self, *, editor: NodeEditor, administrators: Administrators) -> None:
        self._editor = editor
        self._administrators = administrators

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        only = self._administrators.only
        return [
            Route("/v1/nodes/{node}/approve", only(self.approve), methods=["POST"]),
            Route("/v1/nodes/{node}/allow", only(self.allow), methods=["POST"]),
            Route("/v1/nodes/{node}/forbid", only(self.forbid), methods=["POST"]),
            Route("/v1/nodes/{node}/revoke", only(self.revoke), methods=["POST"]),
        ]

    async def approve(self, request: Request, _administrator: str) -> Response:
        """Enrol a node that waits."""
        return _describe(await self._editor.approve(request.path_params["node"]))

    async def allow(self, request: Request, _administrator: str) -> Response:
        """Let a node hold more identities."""
        asked = decode(await read_body(request), IdentitiesAsked)
        return _describe(await self._editor.allow(request.path_params["node"], asked.identities))

    async def forbid(self, request: Request, _administrator: str) -> Response:
        """Let a node no longer hold identities."""
        asked = decode(await read_body(request), IdentitiesAsked)
        return _describe(await self._editor.forbid(request.path_params["node"], asked.identities))

    async def revoke(self, request: Request, _administrator: str) -> Response:
        """End a node's enrolment and revoke its certificates."""
        asked = decode(await read_body(request), RevokeAsked)
        node = request.path_params["node"]
        enrolled = await self._editor.revoke(node, reason=asked.reason)
        return answer(NodeRevokedAnswer(node=node, enrolled=enrolled))


def _describe(edited: Edited) -> Response:
    spec = edited.spec
    return answer(EnrolmentAnswer(node=spec.node, identities=spec.identities, changed=edited.changed))
