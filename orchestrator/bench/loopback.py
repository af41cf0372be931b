"""Bring up the loopback interface of a new network namespace, and become a program.

`python -m orchestrator.bench.loopback program argument ...`; `ip` need not be there.
"""

import fcntl
import os
import socket
import struct
import sys
from typing import Final

# Of <linux/sockios.h> and <net/if.h>.
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_REQUEST: Final = "16sh14x"
_NAME: Final = b"lo"


def bring_up() -> None:
    """Let processes of this namespace reach each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack(_REQUEST, _NAME, 0)
        told = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked)
        flags = struct.unpack(_REQUEST, told)[1] | _IFF_UP
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack(_REQUEST, _NAME, flags))


def main() -> None:
    """Bring it up and go on as what the arguments say."""
    bring_up()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - it is what we are for


if __name__ == "__main__":
    main()
