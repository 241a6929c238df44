"""One run of the benchmark: starts backends and subjects, drives them in rounds, keeps what they did."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.bench.envoy import launch_envoy
from tests.bench.jobs import (
    Figures,
    Job,
    JobFailed,
    hold_idle_connections,
    measure_memory_left,
    repeated_jobs,
)
from tests.bench.nodemesh import launch_nodemesh
from tests.bench.peers import launch_haproxy, launch_nginx, launch_stunnel, start_nginx
from tests.bench.results import OURS, Outcome
from tests.bench.starvation import measure_starvation
from tests.bench.subjects import (
    CALLER,
    LOOPBACK,
    SERVICE,
    SERVICE_NAME,
    Launch,
    Missing,
    Ports,
    Site,
    Subject,
    answers,
    find_program,
    issue_side,
    launch_direct,
    listens,
    pick_ports,
)
from tests.integration.certificates import Authority
from tests.support.processes import Processes, ProcessFailed

LAUNCHES: dict[str, Launch] = {
    "direct": launch_direct,
    "nodemesh": launch_nodemesh,
    "envoy": launch_envoy,
    "nginx": launch_nginx,
    "haproxy": launch_haproxy,
    "stunnel": launch_stunnel,
}


class Bench:
    """Runs what `launches` starts in `folder`; `say` hears what is being done."""

    def __init__(self, folder: Path, processes: Processes, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._processes = processes
        self._say = say
        self._running: dict[str, Subject] = {}
        self.outcomes: dict[str, Outcome] = {}

    def start(self, launches: Mapping[str, Launch]) -> None:
        """Start the backends and every subject; one that does not start is noted and left out.

        Raises:
            Missing: a program is not installed without which nothing can be measured.
        """
        iperf3, nginx = find_program("iperf3", "iperf3"), find_program("nginx", "nginx")
        find_program("wrk", "wrk")
        self._say(f"starting {', '.join(launches)}")
        authority = Authority("bench")
        web = pick_ports().http
        server = start_nginx(self._processes, self.folder, nginx, "web", _web_blocks(self.folder, web))
        server.wait_ready(lambda: answers(web), what="an answer")
        for name, launch in launches.items():
            folder = self.folder / name
            # One each: a server that a failed job left busy is nobody else's trouble.
            bulk = pick_ports().bulk
            server = self._processes.start(f"iperf3-{name}", [iperf3, "-s", "-B", LOOPBACK, "-p", str(bulk)])
            server.wait_ready(partial(listens, bulk), what="a listening iperf3")
            near = issue_side(authority, folder / "near", CALLER)
            far = issue_side(authority, folder / "far", SERVICE, SERVICE_NAME)
            self._launch(name, launch, Site(self._processes, folder, Ports(bulk, web), near, far))

    def _launch(self, name: str, launch: Launch, site: Site) -> None:
        outcome = self.outcomes[name] = Outcome()
        try:
            subject = launch(site)
            for side in subject.sides:
                side.wait_ready(partial(answers, subject.ports.http), what=f"an answer through {name}")
        except Missing as error:
            outcome.absent = f"missing: {error}"
        except ProcessFailed as error:
            outcome.absent = f"did not start: {error}"
        else:
            self._running[name] = subject

    def measure(self, *, rounds: int, seconds: int) -> None:
        """Take memory at rest, then the rounds of jobs, then memory again."""
        self._each("memory", hold_idle_connections)
        self.repeat(repeated_jobs(self.folder, seconds), rounds)
        self._each("memory again", measure_memory_left)
        self._each("starvation", partial(self._starve, rounds * seconds))

    def _starve(self, seconds: int, subject: Subject) -> Figures:
        """Let ours alone show what it costs a flow to share a tunnel; most others share none."""
        return measure_starvation(self._processes, seconds) if subject.name == OURS else {}

    def repeat(self, jobs: Sequence[Job], rounds: int) -> None:
        """Do each job for each subject in turn, so many times."""
        for number in range(rounds):
            for job in jobs:
                self._each(f"round {number + 1} of {rounds}: {job.name}", job.run)

    def _each(self, what: str, measure: Callable[[Subject], Figures]) -> None:
        self._say(what)
        for name, subject in list(self._running.items()):
            try:
                self.outcomes[name].add(measure(subject))
            except (JobFailed, ProcessFailed, OSError) as error:
                self.outcomes[name].failures.append(f"{what.rpartition(': ')[2]}: {error}")
                if isinstance(error, ProcessFailed):
                    # It would fail in the same way from now on.
                    del self._running[name]


def _web_blocks(folder: Path, port: int) -> str:
    """Configure a server that is not to be what is measured: it logs nothing and never closes by itself."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    # Debian's own are not writable for everybody.
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"""http {{
        access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_header_timeout 1h;
        {temporary}
        server {{ listen {LOOPBACK}:{port} backlog=4096; location / {{ return 200 {"x" * 100}; }} }}
    }}"""
