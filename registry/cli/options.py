"""The arguments and options that several commands share, as annotations for typer."""

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.duration import InvalidDuration, parse_duration
from registry.cli.kinds import InvalidTarget, QualifiedName, Target, kind_words, parse_name, parse_target
from registry.cli.output import Format


def _read_target(text: str) -> Target:
    try:
        return parse_target(text)
    except InvalidTarget as error:
        raise typer.BadParameter(str(error)) from error


def _read_name(text: str) -> QualifiedName:
    try:
        return parse_name(text)
    except InvalidTarget as error:
        raise typer.BadParameter(str(error)) from error


def _read_namespace(text: str) -> str:
    name = _read_name(text)
    if name.namespace is not None:
        raise typer.BadParameter(f"{text!r} is no namespace; write {name.namespace!r}")
    return name.name


def _read_duration(text: str | int) -> int:
    if isinstance(text, int):
        # typer hands the default through here too.
        return text
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise typer.BadParameter(str(error)) from error


def _complete_kind(incomplete: str) -> list[str]:
    return [word for word in kind_words() if word.startswith(incomplete.lower())]


KIND_HELP = (
    "services (svc), externalservices (es), httproutes (hr), grpcroutes (gr), tcproutes (tr), "
    "backendpolicies (bp), authorizationpolicies (ap, authz), peerauthentications (pa) or mesh; any case, "
    "also KIND/NAME."
)

KindArgument = Annotated[
    Target,
    typer.Argument(parser=_read_target, metavar="KIND", help=KIND_HELP, autocompletion=_complete_kind),
]
OptionalKindArgument = Annotated[
    Target | None,
    typer.Argument(
        parser=_read_target,
        metavar="KIND",
        help=KIND_HELP,
        autocompletion=_complete_kind,
        show_default=False,
    ),
]
NameArgument = Annotated[
    QualifiedName,
    typer.Argument(parser=_read_name, metavar="NAME", help="NAME or NAMESPACE/NAME."),
]
OptionalNameArgument = Annotated[
    QualifiedName | None,
    typer.Argument(parser=_read_name, metavar="NAME", help="NAME or NAMESPACE/NAME.", show_default=False),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        parser=_read_namespace,
        metavar="NAMESPACE",
        help="Namespace (default, or nodemesh-system for the mesh).",
        show_default=False,
    ),
]
AllNamespacesOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Every namespace.")]
OutputOption = Annotated[
    Format,
    typer.Option(
        "--output",
        "-o",
        help="table and wide for people, json and yaml for programs, name for scripts.",
        case_sensitive=False,
    ),
]
TimeToLiveOption = Annotated[
    int,
    typer.Option(
        "--ttl",
        parser=_read_duration,
        metavar="DURATION",
        help="How long the token lives: 30m, 1h, 7d.",
        show_default="1h",
    ),
]
FilesOption = Annotated[
    list[str],
    typer.Option(
        "--file",
        "-f",
        metavar="FILE|DIR|-",
        help="YAML or JSON, one or several documents; a directory means its *.yaml, *.yml and *.json files; "
        "- means standard input. May be given several times.",
        show_default=False,
    ),
]


def chosen_namespace(said: str | None, *others: str | None, everywhere: bool = False) -> str | None:
    """Settle on one namespace from -n, -A and what stands before a slash; None when none was said.

    Raises:
        typer.BadParameter: two of them disagree.
    """
    named = {namespace for namespace in (said, *others) if namespace is not None}
    if len(named) > 1:
        raise typer.BadParameter(f"two namespaces are named: {' and '.join(sorted(named))}")
    if everywhere and named:
        raise typer.BadParameter("-A means every namespace; leave the namespace out, or -A")
    return named.pop() if named else None


def as_paths(texts: list[str]) -> tuple[Path | None, ...]:
    """Read -f values: None stands for standard input."""
    return tuple(None if text == "-" else Path(text) for text in texts)
