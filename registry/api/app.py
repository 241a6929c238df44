"""The registry's API as one ASGI application."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from registry.api.administrators import AdministratorHandlers
from registry.api.auth import Administrators
from registry.api.authority import AuthorityAdminHandlers
from registry.api.authz import AuthorizationHandlers
from registry.api.ca import AuthorityHandlers
from registry.api.enrolments import EnrolmentHandlers
from registry.api.fleet import FleetReader
from registry.api.health import HealthHandlers
from registry.api.nodes import NodeHandlers
from registry.api.problems import BugBarrier, on_http_exception, on_registry_error
from registry.api.resources import ResourceHandlers
from registry.api.routes import RouteHandlers
from registry.api.services import ServiceHandlers
from registry.api.tokens import TokenHandlers
from registry.ca.authority import Authority
from registry.ca.certifying import Certifier
from registry.ca.enrolment import Registrar
from registry.ca.nodes import NodeEditor
from registry.ca.signed_store import SignedStore
from registry.clock import Clock
from registry.errors import RegistryError
from registry.store.accounts import Accounts, NoAccounts
from registry.store.base import Store


def create_app(
    *, store: Store, authority: Authority, clock: Clock, accounts: Accounts | None = None
) -> Starlette:
    """Make the application over a store and a certificate authority.

    Without `accounts` etcd's users are somebody else's to keep.
    """
    accounts = accounts or NoAccounts()
    signed = SignedStore(store=store, authority=authority, clock=clock)
    administrators = Administrators(signed)
    fleet = FleetReader(store=store, authority=authority)
    registrar = Registrar(store=store, authority=authority, clock=clock, accounts=accounts)
    certifier = Certifier(store=store, authority=authority, clock=clock, accounts=accounts)
    nodes = NodeEditor(store=store, authority=authority, clock=clock, accounts=accounts)
    trust_domain = authority.trust_domain
    groups = (
        HealthHandlers(store),
        AuthorityHandlers(store=store, registrar=registrar, certifier=certifier),
        AuthorityAdminHandlers(store=store, authority=authority, administrators=administrators, clock=clock),
        AdministratorHandlers(store=store, administrators=administrators, signed=signed, clock=clock),
        TokenHandlers(registrar=registrar, administrators=administrators),
        NodeHandlers(store=store, administrators=administrators, fleet=fleet, accounts=accounts),
        EnrolmentHandlers(editor=nodes, administrators=administrators),
        ServiceHandlers(store=store, administrators=administrators, fleet=fleet, trust_domain=trust_domain),
        AuthorizationHandlers(
            store=store, administrators=administrators, fleet=fleet, trust_domain=trust_domain
        ),
        RouteHandlers(store=store, administrators=administrators, fleet=fleet, trust_domain=trust_domain),
        ResourceHandlers(
            store=store, administrators=administrators, signed=signed, trust_domain=trust_domain
        ),
    )
    return Starlette(
        routes=[route for group in groups for route in group.routes()],
        middleware=[Middleware(BugBarrier)],
        exception_handlers={RegistryError: on_registry_error, HTTPException: on_http_exception},
    )
