"""Settings of the sockets between the processes of a job."""

import os
import socket
from multiprocessing.connection import Connection


def without_delay(connection: Connection) -> Connection:
    """Send small packets at once: the kernel would hold back a message's end until the other side has answered."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
