"""The command nodemesh-proxy: `join` a mesh, `check` this node's files, `run` the node proxy."""

from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import trio
import typer

from node_proxy import config
from node_proxy.agent.capture.commands import app as capture_app
from node_proxy.command_line import ConfigOption, WorkloadsOption, faults_in_one_line
from node_proxy.logs import configure_logging

app = typer.Typer(
    name="nodemesh-proxy",
    help="The node proxy of nodemesh: one per host, carries every service's traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(capture_app, name="capture")


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if show_version:
        typer.echo(f"nodemesh-proxy {version('nodemesh')}")
        raise typer.Exit


@app.command()
def join(
    token: Annotated[
        str,
        typer.Option(
            "--token",
            envvar="NODEMESH_TOKEN",
            help="What `meshctl node token create` printed.",
        ),
    ],
    config_path: ConfigOption = config.DEFAULT_CONFIG,
    registry: Annotated[
        str | None, typer.Option(help="The registry's URL; default: that of the file.")
    ] = None,
) -> None:
    """Enrol this node: trade a one-time token for its certificate, kept below state_dir."""
    # Imported here so that --help and --version need neither.
    from node_proxy.agent.credentials import Keyring
    from node_proxy.agent.enrolment import join as ask_to_join
    from node_proxy.agent.etcd_certificate import EtcdCertificateFile

    with faults_in_one_line():
        proxy = config.load_proxy(config_path)
        keyring = Keyring(Path(proxy.state_dir))
        keyring.prepare()

        def say_waiting() -> None:
            typer.echo(
                f"waits for approval: an administrator lets it in with `meshctl node approve {proxy.node}`; "
                "leave this running",
                err=True,
            )

        enrolment, held, etcd = trio.run(
            partial(
                ask_to_join,
                registry=registry or proxy.registry,
                token=token,
                node=proxy.node,
                on_waiting=say_waiting,
            )
        )
        keyring.save(held)
        if etcd is not None:
            EtcdCertificateFile(Path(proxy.state_dir)).save(etcd)
        keyring.save_enrolment(enrolment)
    typer.echo(
        f"joined {enrolment.trust_domain} as {enrolment.identity}; valid until {held.not_after:%F %R} UTC"
    )


@app.command()
def check(config_path: ConfigOption = config.DEFAULT_CONFIG, workloads: WorkloadsOption = None) -> None:
    """Read this node's files and certificates and say what is wrong; nothing is started or changed."""
    from node_proxy.agent.credentials import Keyring
    from node_proxy.agent.standing import standing

    with faults_in_one_line():
        node = config.load(config_path, workloads=workloads)
        names = ", ".join(workload.qualified for workload in node.workloads) or "none"
        typer.echo(f"node {node.proxy.node}; workloads: {names}")
        keyring = Keyring(Path(node.proxy.state_dir))
        for line in standing(keyring, node.workloads, now=datetime.now(UTC)):
            typer.echo(line)
    for workload in node.workloads:
        if workload.owner is not None:
            typer.echo(f"calls of {workload.qualified} come from {workload.owner}")
    if any(workload.owner is not None for workload in node.workloads):
        typer.echo(f"unknown callers: {node.proxy.unknown_callers}")


@app.command()
def run(config_path: ConfigOption = config.DEFAULT_CONFIG, workloads: WorkloadsOption = None) -> None:
    """Run the node proxy until SIGTERM or Ctrl-C."""
    with faults_in_one_line():
        node = config.load(config_path, workloads=workloads)
        # Only now, since it takes grpc with it.
        from node_proxy.agent.agent import run_agent

        configure_logging(node.proxy.log_level, process="agent")
        trio.run(run_agent, node)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
