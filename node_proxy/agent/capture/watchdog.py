"""Ends a trial that nobody confirms: `python -m`, with the state directory and the trial's name.

A process of its own session, so that it outlives the shell and the connection that it was started from.
"""

import os
import subprocess
import sys
import syslog
import time
from pathlib import Path

from node_proxy.agent.capture.apply import Kernel
from node_proxy.agent.capture.installing import Installer
from node_proxy.agent.capture.record import RecordFile, Trial
from node_proxy.errors import ConfigError

# How soon it notices that it is no longer needed.
_INTERVAL = 0.25
# A roll-back that failed is tried again so often, a second apart: nft may be held up by another's change.
_ATTEMPTS = 60
_READY = "ready\n"


def start_watchdog(state_dir: Path, trial: Trial) -> None:
    """Start the process that ends `trial`, and wait until it runs.

    Raises:
        ConfigError: it does not run.
    """
    command = [sys.executable, "-m", __spec__.name, str(state_dir.absolute()), trial.name]
    # The shell ends at once: the process is nobody's child, and no signal to ours is for it.
    with subprocess.Popen(  # noqa: S603 (ourselves)
        ["/bin/sh", "-c", '"$@" &', "sh", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        text=True,
    ) as shell:
        if shell.stdout is None or shell.stdout.readline() != _READY:
            raise ConfigError(
                "[capture] the process that would roll back does not start; nothing was changed"
            )


def watch(installer: Installer, name: str) -> bool:
    """Wait until the trial is over or confirmed; whether it was rolled back."""
    failures = 0
    while (trial := installer.records.read().trial) is not None and trial.name == name:
        if (left := trial.deadline - installer.clock()) > 0:
            time.sleep(min(_INTERVAL, left))
            continue
        try:
            installer.settle()
        except (ConfigError, OSError) as error:
            failures += 1
            syslog.syslog(syslog.LOG_ERR, f"capture not rolled back: {error}")
            if failures == _ATTEMPTS:
                return False
            time.sleep(1)
        else:
            syslog.syslog(syslog.LOG_WARNING, "capture rolled back: nobody confirmed it")
            return True
    return False


def main() -> None:
    """Run the watchdog."""
    state_dir, name = sys.argv[1:]
    syslog.openlog("nodemesh-proxy")
    sys.stdout.write(_READY)
    sys.stdout.flush()
    # Whoever started it waits for no more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    watch(Installer(records=RecordFile(Path(state_dir)), kernel=Kernel()), name)


if __name__ == "__main__":
    main()
