"""The registry's API as one ASGI application."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from registry.api.auth import Administrators
from registry.api.ca import AuthorityHandlers
from registry.api.health import HealthHandlers
from registry.api.nodes import NodeHandlers
from registry.api.problems import BugBarrier, on_http_exception, on_registry_error
from registry.api.resources import ResourceHandlers
from registry.api.services import ServiceHandlers
from registry.api.tokens import TokenHandlers
from registry.ca.authority import Authority
from registry.ca.enrolment import Registrar
from registry.clock import Clock
from registry.errors import RegistryError
from registry.store.base import Store


def create_app(*, store: Store, authority: Authority, clock: Clock) -> Starlette:
    """Make the application over a store and a certificate authority."""
    administrators = Administrators(store)
    registrar = Registrar(store=store, authority=authority, clock=clock)
    trust_domain = authority.trust_domain
    groups = (
        HealthHandlers(store),
        AuthorityHandlers(store=store, registrar=registrar),
        TokenHandlers(registrar=registrar, administrators=administrators),
        NodeHandlers(store=store, administrators=administrators),
        ServiceHandlers(store=store, administrators=administrators, trust_domain=trust_domain),
        ResourceHandlers(store=store, administrators=administrators, trust_domain=trust_domain),
    )
    return Starlette(
        routes=[route for group in groups for route in group.routes()],
        middleware=[Middleware(BugBarrier)],
        exception_handlers={RegistryError: on_registry_error, HTTPException: on_http_exception},
    )
