"""One evaluator: what a proxy decided is what the control plane explains, from one store. No I/O here."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from node_proxy.agent.compile import Compiler
from node_proxy.agent.decisions import DecisionBook
from node_proxy.agent.state import MeshState
from node_proxy.config import WorkloadConfig
from node_proxy.dataplane.admission import Admission, Call
from node_proxy.dataplane.open_streams import Admitted
from registry.api.authz_answers import ask, outcome_of
from registry.api.authz_view import MeshView, recorded_request
from registry.api.fleet import read_fleet
from registry.model.authorization import AuthorizationPolicy
from registry.model.decision import Outcome
from registry.model.identity import Identity
from registry.model.mesh import DefaultAuthorization
from registry.model.parse import render
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata, Resource
from registry.model.workload import NodeStatus, NodeStatusSpec
from registry.store import keys
from registry.store.base import Changed, KeyValue
from tests.fakes.context import scene
from tests.node_proxy.agent.documents import TRUST_DOMAIN, mesh, node, node_config, service, workload
from tests.node_proxy.agent.test_decisions import Wall
from tests.registry.rules.policies import (
    API,
    BATCH,
    FOREIGN,
    NODE,
    WEB,
    addresses,
    defaults,
    few_policies,
    modes,
    peer_authentications,
)

ADDRESS = "10.77.0.1"
OWN = "web-1"
CONFIGURED = WorkloadConfig(name="api", ports=(80, 443), labels={"app": "api"})
BROKEN = b'{"kind": "nonsense"}'

callers: st.SearchStrategy[Identity] = st.sampled_from([WEB, API, BATCH, FOREIGN, NODE])
# Which of the operators' resources an edit breaks afterwards: by their place in the list.
broken_edits = st.sets(st.integers(0, 6), max_size=3)


class World:
    """A store's contents, the node that watches it and its proxy."""

    def __init__(self) -> None:
        self.items: dict[str, KeyValue] = {}
        self.former: dict[tuple[str, int], bytes] = {}
        self.state = MeshState(trust_domain=TRUST_DOMAIN)
        self._revision = 0

    def put(self, key: str, value: bytes) -> None:
        """Write, and let the node's watch see it."""
        self._revision += 1
        before = self.items.get(key)
        if before is not None:
            self.former[key, before.revision] = before.value
        item = KeyValue(key, value, before.created if before else self._revision, self._revision)
        self.items[key] = item
        self.state.apply(Changed(item))

    def report(self, status: bool, book: DecisionBook) -> MeshView:
        """Let the node write its status (or not yet) and its decisions; gives what the registry then sees."""
        if status:
            spec = NodeStatusSpec(applied_revision=self._revision, rejected=self.state.rejections())
            resource = NodeStatus(
                api_version=NODEMESH,
                kind=NodeStatus.KIND,
                metadata=Metadata(name=OWN, namespace=ROOT_NAMESPACE),
                spec=spec,
            )
            self.put(f"nodes/{OWN}/status", render(resource))
        self.put(f"nodes/{OWN}/decisions", render(book.resource()))
        items = tuple(self.items.values())
        view = MeshView(items, read_fleet(items), TRUST_DOMAIN)
        view.former = {each: self.former[each] for each in view.wanted_former()}
        return view


@given(
    policies=few_policies,
    peers=peer_authentications,
    default=defaults,
    mode=modes,
    broken=broken_edits,
    never_good=st.booleans(),
    caller=callers,
    port=st.sampled_from([80, 443, 8080]),
    source_ip=addresses,
    sni=st.sampled_from([None, "web", "api.example.com"]),
)
@settings(max_examples=300, deadline=None)
def test_explain_says_what_the_proxy_did(
    policies: list[AuthorizationPolicy],
    peers: list[PeerAuthentication],
    default: DefaultAuthorization,
    mode: MtlsMode,
    broken: set[int],
    never_good: bool,
    caller: Identity,
    port: int,
    source_ip: str | None,
    sni: str | None,
) -> None:
    """A decision of the proxy, recorded, published and replayed by the registry, is the same decision."""
    world = World()
    settings_ = mesh(default)
    edits: list[Resource] = [
        msgspec.structs.replace(settings_, spec=msgspec.structs.replace(settings_.spec, mtls_mode=mode)),
        service("api", port=8000, target=80),
        *policies,
        *peers,
    ]
    world.put(f"nodes/{OWN}/record", render(node(OWN, ADDRESS)))
    ours = workload("api", on=OWN, ports=(80, 443))
    world.put(f"nodes/{OWN}/workloads/default/api", render(ours))
    for number, resource in enumerate(edits):
        key = keys.render(keys.key_of(resource))
        if number not in broken or not never_good:
            world.put(key, render(resource))
        if number in broken:
            world.put(key, BROKEN)

    compiler = Compiler(node_config(CONFIGURED), trust_domain=TRUST_DOMAIN)
    stage = scene(compiler.compile(world.state, own={}, now=0.0).snapshot)
    admission = Admission(stage.context)
    call = Call(source_ip=source_ip, destination_ip=ADDRESS, sni=sni)
    verdict = admission.admit(source=caller, port=port, serving=None, call=call)

    book = DecisionBook(OWN, Wall())
    book.take(stage.context.decisions.take(0.0))
    # Without a rejection there is nothing that only the status says.
    view = world.report(bool(world.state.rejections()), book)
    (recorded,) = view.decisions()
    record = recorded.record
    assert (record.outcome is Outcome.PERMITTED) == isinstance(verdict, Admitted)
    assert verdict.decision in record.ids
    target = view.target(OWN, record.destination, record.port)
    if port == 8080:
        assert target is None
        return
    assert target is not None
    explanation, remarks = ask(view, target, recorded_request(record))
    assert remarks == ()
    assert outcome_of(explanation.decision) is record.outcome
    assert explanation.decision.policy == record.policy
    if isinstance(verdict, Admitted):
        assert explanation.decision == verdict.permit
    else:
        assert explanation.decision.reason == verdict.detail
