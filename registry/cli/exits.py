"""What meshctl's exit codes mean, and how an error becomes one and a message.

The codes are an interface: scripts branch on them. Add, never renumber.
"""

import enum
from dataclasses import dataclass

from registry.errors import (
    ConfigError,
    Conflict,
    Forbidden,
    InvalidResource,
    NotFound,
    RegistryError,
    Unauthenticated,
)


class ExitCode(enum.IntEnum):
    """How a command ended."""

    OK = 0
    NOT_WELL = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INVALID = 5
    CONFLICT = 6
    DENIED = 7


# Markdown, for the root command's help.
EXIT_CODES_HELP = """\
Exit codes:

- 0: done, and well
- 1: what was asked about does not exist, a node is not well (proxy status), a request leads
  nowhere (route explain), or authz lint has something to say
- 2: wrong usage or configuration
- 3: the registry cannot be reached, or cannot answer
- 4: the registry refuses the token, or what is asked needs another role
- 5: invalid resource
- 6: conflict, somebody else changed it meanwhile
- 7: the call asked about is denied, or would be (authz check, authz diff)
"""


class RegistryUnreachable(RegistryError):
    """No answer came from the registry, or none that a registry gives; says what to look at."""

    status = 503
    title = "registry unreachable"

    def __init__(self, reason: str, *, mend: str = "") -> None:
        self.mend = mend
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as people read it: what went wrong, where, and how to mend it; empty when not known."""

    what: str
    where: str
    mend: str
    code: ExitCode


def explain(error: RegistryError) -> Failure:
    """Say what an error means for the person at the command line."""
    match error:
        case InvalidResource():
            where = f"{error.where}: {error.path}" if error.path else error.where
            return Failure(error.reason, where, error.mend, ExitCode.INVALID)
        case Conflict():
            return Failure(str(error), "", "look at it with `meshctl get` and try again", ExitCode.CONFLICT)
        case Unauthenticated():
            mend = "use the token in the file that `nodemesh-registry init` wrote, or $MESHCTL_TOKEN"
            return Failure(str(error), "", mend, ExitCode.REFUSED)
        case Forbidden():
            return Failure(str(error), "", "", ExitCode.REFUSED)
        case NotFound():
            return Failure(str(error), "", "", ExitCode.NOT_WELL)
        case ConfigError():
            return Failure(str(error), "", "", ExitCode.USAGE)
        case RegistryUnreachable():
            return Failure(str(error), "", error.mend, ExitCode.UNREACHABLE)
        case _:
            return Failure(f"{error.title}: {error}", "", "", ExitCode.UNREACHABLE)
