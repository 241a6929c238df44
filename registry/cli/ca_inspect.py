"""Certificates as people read them: of the trust bundle, or of PEM files without a registry."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509

from registry.ca.inspecting import CertificateReport, chain_problem, report
from registry.cli.exits import ExitCode
from registry.cli.output import Cell, Format, Tone
from registry.cli.session import Session
from registry.errors import ConfigError


class FileReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A file's certificates; `chain_problem` is null unless the chain was to be checked."""

    file: str
    certificates: tuple[CertificateReport, ...]
    chain_problem: str | None = None


def inspect_bundle(session: Session, output: Format) -> ExitCode:
    """Show the roots of the trust bundle, federated ones too."""
    spec = session.registry.trust_bundle().spec
    sources = [(f"roots of {spec.trust_domain}", spec.roots_pem)]
    sources += [(f"roots of {each.trust_domain} (federated)", each.roots_pem) for each in spec.federated]
    reports = [
        FileReport(
            file=name,
            certificates=tuple(
                report(certificate, now=session.now())
                for certificate in _read("\n".join(roots), where="the trust bundle")
            ),
        )
        for name, roots in sources
    ]
    return _show(session, reports, output)


def inspect_files(
    session: Session, files: Sequence[Path], *, roots: Path | None, trust_domain: str, output: Format
) -> ExitCode:
    """Show the certificates of PEM files, and check them as chains if there are roots to check against.

    Raises:
        ConfigError: a file cannot be read, or holds no certificate.
    """
    trusted = _read_file(roots) if roots is not None else None
    now = session.now()
    reports = []
    for path in files:
        chain = _read_file(path)
        problem = None
        if trusted is not None:
            problem = chain_problem(chain, roots=trusted, trust_domain=trust_domain, now=now)
        certificates = tuple(report(certificate, now=now) for certificate in chain)
        reports.append(FileReport(file=str(path), certificates=certificates, chain_problem=problem))
    return _show(session, reports, output)


def _read_file(path: Path) -> Sequence[x509.Certificate]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return _read(text, where=str(path))


def _read(text: str, *, where: str) -> Sequence[x509.Certificate]:
    try:
        # A key may stand in the same file; it is passed over.
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise ConfigError(f"{where}: holds no certificate in PEM: {error}") from error


def _show(session: Session, reports: Sequence[FileReport], output: Format) -> ExitCode:
    match output:
        case Format.JSON | Format.YAML:
            session.out.data({"items": reports}, output)
        case Format.NAME:
            for each in (each for source in reports for each in source.certificates):
                session.out.line(each.fingerprint)
        case Format.TABLE | Format.WIDE:
            for source in reports:
                _show_source(session, source)
    wrong = any(
        source.chain_problem or any(each.problems for each in source.certificates) for source in reports
    )
    return ExitCode.NOT_WELL if wrong else ExitCode.OK


def _show_source(session: Session, source: FileReport) -> None:
    session.out.line(Cell(source.file, Tone.QUIET))
    for each in source.certificates:
        session.out.line("")
        session.out.facts(_facts(each))
    match source.chain_problem:
        case None:
            pass
        case "":
            session.out.line(Cell("chain: a peer with these roots would believe it", Tone.GOOD))
        case problem:
            session.out.line(Cell(f"chain: {problem}", Tone.BAD))


def _facts(seen: CertificateReport) -> list[tuple[str, Cell | str]]:
    length = "no limit" if seen.path_length is None else str(seen.path_length)
    facts: list[tuple[str, Cell | str]] = [
        ("subject", seen.subject or "-"),
        ("names", ", ".join(seen.names) or "-"),
        ("issued by", seen.issued_by or "-"),
        ("valid", f"{seen.not_before} to {seen.not_after}"),
        ("authority", f"yes, path length {length}" if seen.authority else "no"),
        ("key", seen.key),
        ("usage", ", ".join((*seen.key_usage, *seen.extended_key_usage)) or "-"),
        ("serial", seen.serial),
        ("SHA-256", seen.fingerprint),
    ]
    if seen.node:
        facts.insert(2, ("node", seen.node))
    facts += [("problem", Cell(each, Tone.BAD)) for each in seen.problems]
    return facts
