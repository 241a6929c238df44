"""The agent: wires discovery, certificates, registration, health, capture, admin and workers together.

Everything runs in one nursery. What goes wrong in one part is that part's to survive; what escapes is a
bug and ends the agent, which systemd starts anew.
"""

import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog
import trio

from node_proxy.agent.admin import AdminPages, admin_app, serve_admin
from node_proxy.agent.cache import Cache
from node_proxy.agent.certificates import Certificates
from node_proxy.agent.compile import Compiled, Compiler
from node_proxy.agent.credentials import Keyring
from node_proxy.agent.decisions import DecisionBook, DecisionPublisher
from node_proxy.agent.discovery import Discovery
from node_proxy.agent.dns.resolver import Resolver
from node_proxy.agent.enforcement import Enforcement
from node_proxy.agent.etcd_certificate import EtcdCertificateFile, EtcdCertificateKeeper, is_wanted
from node_proxy.agent.external_names import ExternalNames, ask_system
from node_proxy.agent.external_views import names_to_resolve
from node_proxy.agent.health import HealthChecks, check_for
from node_proxy.agent.listeners import Listeners, bind_all, explicit_listeners, own_ports
from node_proxy.agent.notify import notify_systemd
from node_proxy.agent.quotas import QuotaBook, QuotaKeeper, QuotaPublisher
from node_proxy.agent.record_signing import RecordSigner
from node_proxy.agent.records import OwnResources, own_resources, own_status
from node_proxy.agent.registration import Registration
from node_proxy.agent.source_routing import SourceRouting, families_of
from node_proxy.agent.start import etcd_config, worker_count
from node_proxy.agent.state import MeshState
from node_proxy.agent.view import View
from node_proxy.agent.vouching import Vouching
from node_proxy.agent.workers import WORKER_COMMAND, WorkerPool
from node_proxy.certificate import read_roots
from node_proxy.config import NodeConfig
from node_proxy.control import OutsidePolicy, WorkerConfig
from node_proxy.errors import ConfigError
from registry.model.enrolment import TrustBundle
from registry.model.workload import NodeStatus
from registry.store import keys
from registry.store.base import Store
from registry.store.etcd import open_etcd
from registry.store.signed import Signatures

# How long to wait for etcd before serving from the cache: the cache may miss the newest edits.
CACHE_PATIENCE = 1.0
# How long open connections may go on when the agent is told to stop.
DRAIN_DEADLINE = 5.0
# Registration waits this long for the first health checks, so that a restart shows no unhealthy moment.
HEALTH_PATIENCE = 2.0
# The store revokes a lease within 2 s or leaves it to expire.
WITHDRAW_PATIENCE = 3.0

log = structlog.get_logger("node_proxy.agent")


def utc_now() -> datetime:
    """Give the wall clock."""
    return datetime.now(UTC)


async def run_agent(config: NodeConfig) -> None:
    """Run the node proxy of this host until SIGTERM or SIGINT; a second one cuts the draining short.

    Raises:
        ConfigError, EnrolmentError: the operator must act before it can run.
    """
    proxy = config.proxy
    listeners = bind_all(proxy)
    etcd = etcd_config(proxy)
    file = EtcdCertificateFile(Path(proxy.state_dir)) if is_wanted(proxy.etcd) else None
    try:
        async with open_etcd(file.configured(etcd) if file else etcd) as store:
            agent = Agent(
                config,
                keyring=Keyring(Path(proxy.state_dir)),
                listeners=listeners,
                store=store,
                etcd_certificate=file,
                reconnect=lambda: store.reconnect(file.configured(etcd) if file else etcd),
            )
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

                async def told_to_stop() -> None:
                    number = await anext(signals)
                    log.info("told to stop", signal=signal.Signals(number).name)

                await agent.run(until=told_to_stop, hurry=told_to_stop)
    finally:
        listeners.close()


class Agent:
    """One node's agent.

    Args:
        config: the operator's files.
        keyring: the node's credentials.
        listeners: bound sockets; they stay the caller's.
        store: where the mesh's state is.
        etcd_certificate: where the certificate for it is kept; None if it needs none of ours.
        reconnect: connects the store with the certificate as it is now.
        worker_command: how workers are started.
        now: the wall clock, in UTC.
        rng: jitter.

    Raises:
        ConfigError, EnrolmentError: this node has not joined, or as another node.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        keyring: Keyring,
        listeners: Listeners,
        store: Store,
        etcd_certificate: EtcdCertificateFile | None = None,
        reconnect: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        worker_command: Sequence[str] = WORKER_COMMAND,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
    ) -> None:
        proxy = config.proxy
        enrolment = keyring.enrolment()
        if enrolment.node != proxy.node:
            raise ConfigError(
                f"node is {proxy.node!r}, but this host has joined as {enrolment.node!r}; "
                "correct proxy.toml, or join again"
            )
        self._config = config
        self._trust_domain = enrolment.trust_domain
        self._listeners = listeners
        speakers = {each.qualified: each.identity(self._trust_domain) for each in config.workloads}
        default = speakers[proxy.default_workload] if proxy.default_workload else None
        self._certificates = Certificates(
            keyring=keyring,
            registry=proxy.registry,
            workloads=speakers.values(),
            default=default,
            changed=self._credentials_changed,
            now=now,
            rng=rng or random.SystemRandom(),
            spread=proxy.renewal_spread,
        )
        self._etcd_keeper = None
        if etcd_certificate is not None:
            self._etcd_keeper = EtcdCertificateKeeper(
                etcd_certificate,
                obtain=self._certificates.obtain_for_etcd,
                connect=reconnect,
                now=now,
                rng=rng or random.SystemRandom(),
            )
        vouching = Vouching(
            Signatures(trust_domain=self._trust_domain, roots=read_roots(enrolment.roots)),
            now,
            enrolment.revocations,
        )
        self._state = MeshState(
            trust_domain=self._trust_domain,
            trust=lambda: self._certificates.enrolment,
            vouching=vouching,
        )
        quota_book = QuotaBook(proxy.node, vouching)
        self._resolver = None
        if proxy.dns.enabled:
            self._resolver = Resolver(
                proxy.dns,
                udp=listeners.dns_udp,
                tcp=listeners.dns_tcp,
                mark=proxy.mark if proxy.capture.enabled else 0,
            )
        self._external_names = ExternalNames(
            ask_system if self._resolver is None else self._resolver.look_up_outside,
            lambda: self._enforcement.own_changed(),
        )
        self._enforcement = Enforcement(
            config,
            state=self._state,
            compiler=Compiler(
                config, trust_domain=self._trust_domain, resolved=self._external_names.addresses_of
            ),
            cache=Cache(Path(proxy.state_dir)),
            own=self._own,
            compiled=self._compiled,
        )
        self._source_routing = None
        if proxy.capture.enabled:
            self._source_routing = SourceRouting(proxy.mark, families_of(config))
        self._discovery = Discovery(store, self._state, self._state_changed, quota_book.observe)
        self._health = HealthChecks(config.workloads, self._health_changed, check_for)
        decisions = DecisionBook(proxy.node, now)
        publisher = DecisionPublisher(store, proxy.node, decisions)
        signer = RecordSigner(lambda: self._certificates.node)
        quota_publisher = QuotaPublisher(store, proxy.node, quota_book, signer)
        self._registration = Registration(
            store, self._own, self._status, (publisher.keep_written, quota_publisher.keep_written), signer
        )
        self._pool = WorkerPool(
            count=worker_count(proxy),
            config=WorkerConfig(
                node=proxy.node,
                trust_domain=self._trust_domain,
                tunnel_fds=tuple(each.fileno() for each in listeners.tunnel),
                captured_fds=tuple(each.fileno() for each in listeners.captured),
                plaintext_fds=tuple(each.fileno() for each in listeners.plaintext),
                listeners=explicit_listeners(proxy, listeners, speakers),
                default_workload=str(default) if default else None,
                # Setting it needs CAP_NET_ADMIN, and without capture there is nothing to be told apart from.
                mark=proxy.mark if proxy.capture.enabled else 0,
                log_level=proxy.log_level,
                refuse_unknown_callers=proxy.unknown_callers == "refuse",
                outside=OutsidePolicy(
                    domain=proxy.dns.domain,
                    namespace=proxy.dns.namespace,
                    passthrough=proxy.outbound_policy == "passthrough",
                    own_ports=own_ports(listeners),
                ),
            ),
            listeners=listeners.for_workers,
            changed=self._report_changed,
            decided=decisions.take,
            demanded=quota_book.take,
            command=worker_command,
        )
        self._quotas = QuotaKeeper(
            quota_book,
            stale_since=lambda: self._discovery.stale_since,
            give=self._pool.give_quotas,
        )
        self.view = View(
            config=config,
            certificates=self._certificates,
            state=self._state,
            discovery=self._discovery,
            registration=self._registration,
            enforcement=self._enforcement,
            pool=self._pool,
            listeners=listeners,
            resolver=self._resolver,
            now=now,
        )
        self._boot_id = _boot_id()

    async def run(
        self,
        *,
        until: Callable[[], Awaitable[None]],
        hurry: Callable[[], Awaitable[None]] = trio.sleep_forever,
    ) -> None:
        """Serve until `until` returns, then leave in order; when `hurry` returns, at once.

        Raises:
            ConfigError: interception is wanted and cannot be had.
        """
        restored = self._enforcement.restore()
        orderly = False
        try:
            await self._enforcement.begin_capture()
            if self._source_routing is not None:
                await self._source_routing.apply()
            async with trio.open_nursery() as nursery:
                stopped = trio.Event()
                withdrawn = trio.Event()
                membership = trio.CancelScope()
                nursery.start_soon(self._run_workers, stopped)
                nursery.start_soon(self._be_registered, membership, withdrawn)
                nursery.start_soon(self._enforce, restored)
                nursery.start_soon(self._discovery.follow)
                nursery.start_soon(self._certificates.keep_fresh)
                if self._etcd_keeper is not None:
                    nursery.start_soon(self._etcd_keeper.keep_fresh)
                nursery.start_soon(self._health.run)
                nursery.start_soon(self._quotas.keep)
                nursery.start_soon(self._enforcement.keep_cached)
                nursery.start_soon(self._enforcement.keep_capture)
                if self._source_routing is not None:
                    nursery.start_soon(self._source_routing.keep)
                nursery.start_soon(self._external_names.keep)
                nursery.start_soon(self._serve_admin)
                if self._resolver is not None:
                    nursery.start_soon(self._resolver.serve)
                await until()
                orderly = True
                notify_systemd("STOPPING=1")
                nursery.start_soon(self._cut_short, hurry, nursery.cancel_scope)
                # Others must stop calling before this node stops answering.
                membership.cancel()
                with trio.move_on_after(WITHDRAW_PATIENCE):
                    await withdrawn.wait()
                self._pool.drain(DRAIN_DEADLINE)
                await stopped.wait()
                nursery.cancel_scope.cancel()
        finally:
            await self._enforcement.close(orderly=orderly)
            if self._source_routing is not None and orderly and not self._config.proxy.capture.keep_on_stop:
                await self._source_routing.release()
        log.info("stopped")

    async def _run_workers(self, stopped: trio.Event) -> None:
        self._pool.give_credentials(self._certificates.update())
        await self._pool.run()
        stopped.set()

    async def _be_registered(self, membership: trio.CancelScope, withdrawn: trio.Event) -> None:
        with membership:
            await self._pool.wait_ready()
            # Workers share their listeners: one of them is enough to answer.
            notify_systemd("READY=1")
            with trio.move_on_after(HEALTH_PATIENCE):
                await self._health.wait_known()
            await self._registration.serve()
        withdrawn.set()

    async def _enforce(self, restored: bool) -> None:
        with trio.move_on_after(CACHE_PATIENCE if restored else float("inf")):
            # Without either, nothing is known of policies: no worker may accept yet.
            await self._discovery.wait_listed()
        await self._enforcement.enforce_changes()

    async def _serve_admin(self) -> None:
        pages = AdminPages(missing=self.view.missing, metrics=self.view.metrics, config=self.view.in_force)
        await serve_admin(admin_app(pages), self._listeners.admin[0])

    async def _cut_short(self, hurry: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        await hurry()
        scope.cancel()

    def _compiled(self, compiled: Compiled) -> None:
        before = self.view.compiled.rejections if self.view.compiled else ()
        for rejection in compiled.rejections:
            if rejection not in before:
                log.error("policy cannot be enforced as it is", key=rejection.key, reason=rejection.reason)
        self.view.compiled = compiled
        self._quotas.follow(compiled.snapshot)
        self._pool.give_snapshot(compiled.snapshot)
        self._external_names.want(names_to_resolve(self._state))
        if self._resolver is not None:
            self._resolver.follow(self._state)
        self._registration.refresh()

    def _state_changed(self) -> None:
        # Not from the cache: what the keyring holds is never older.
        if bundle := self._state.get(keys.render(keys.BundleKey()), TrustBundle):
            self._certificates.follow(bundle.spec)
        self._enforcement.state_changed()

    def _credentials_changed(self) -> None:
        self._pool.give_credentials(self._certificates.update())
        self._registration.refresh()

    def _health_changed(self) -> None:
        self._enforcement.own_changed()
        self._registration.refresh()

    def _report_changed(self) -> None:
        self._registration.refresh()

    def _own(self) -> OwnResources:
        return own_resources(
            self._config,
            trust_domain=self._trust_domain,
            tunnel_port=self._listeners.tunnel[0].getsockname()[1],
            boot_id=self._boot_id,
            version=version("nodemesh"),
            health=self._health.verdicts,
        )

    def _status(self) -> dict[str, NodeStatus]:
        return own_status(
            self._config.proxy.node,
            applied_revision=self._pool.applied_revision,
            rejected=self.view.rejected(),
            certificate_expires=self._certificates.expires,
            in_use=self._certificates.in_use.by(self._pool.generations),
            revoked=tuple(self._certificates.revoked.values()),
            workers=self._pool.running,
            faults=self.view.compiled.faults if self.view.compiled else (),
        )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
