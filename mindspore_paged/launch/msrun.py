"""What scripts/msrun_launcher.sh asks of Python: ports, and to become msrun.

ports COUNT                                 prints so many free ports
check HOST PORT ...                         ends with 2 if a port is taken
run LOG_FOLDER [HOST PORT ...] -- COMMAND   claims the ports, removes the logs of an earlier job, says "claimed", and
                                            becomes the command, whose output goes to msrun.log
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from socket import socket

from mindspore_paged.errors import ConfigError
from mindspore_paged.launch import processes
from mindspore_paged.launch.ports import claim_port, free_ports

EXIT_BAD_INPUT = 2
PATIENCE_SECONDS = 3.0
"""How long ports are waited for: a job whose msrun was killed goes on listening while it ends."""
OLD_LOGS = ("worker_*.log", "scheduler.log", "msrun.log")


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; 2, and one line on stderr, if a port is taken or no log can be written."""
    action, *rest = arguments
    if action == "ports":
        print(*free_ports(int(rest[0])))
        return 0
    try:
        if action == "check":
            _claim(rest)
        else:
            middle = rest.index("--")
            _become_msrun(Path(rest[0]), _claim(rest[1:middle]), rest[middle + 1 :])
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def _claim(host_and_ports: Sequence[str]) -> list[socket]:
    host, ports = host_and_ports[:1], host_and_ports[1:]
    return [claim_port(*host, int(port), PATIENCE_SECONDS) for port in ports]


def _become_msrun(log_folder: Path, claims: Sequence[socket], command: Sequence[str]) -> None:
    for pattern in OLD_LOGS:
        for log in log_folder.glob(pattern):
            log.unlink()
    output = os.open(log_folder / "msrun.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    print("claimed", flush=True)
    for standard in (1, 2):
        os.dup2(output, standard)
    for claim in claims:
        claim.set_inheritable(True)  # held for as long as msrun lives; what msrun starts does not get it
    os.setsid()  # a session of its own, which the launcher ends as a whole
    processes.die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background processes ignore it
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
