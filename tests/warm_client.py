"""Stands for a process that a server forks: `warm_python.py` says why. Imports nothing that takes time.

    python -I -S warm_client.py SERVER [-m MODULE | -c PROGRAM | FILE] [ARGUMENT ...]

The process gets this one's open files under their numbers, its folder and its environment, and the signals that come
here; this one ends as it does. When this one is killed, so is that one.
"""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def main() -> None:
    files = open_files()
    server = socket.socket(socket.AF_UNIX)
    server.connect("\0" + sys.argv[1])
    asked = {"files": files, "folder": os.getcwd(), "environment": dict(os.environ), "arguments": sys.argv[2:]}
    content = json.dumps(asked).encode()
    socket.send_fds(server, [len(content).to_bytes(8, "little")], files)
    server.sendall(content)
    for number in FORWARDED:
        signal.signal(number, lambda number, _: server.sendall(bytes([number])))
    answer = server.makefile().read()
    if not answer:
        sys.exit("the server has ended")
    code = int(answer)
    if code < 0:
        if -code in FORWARDED:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def open_files() -> list[int]:
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            os.fstat(number)
        except OSError:  # the one that the list was read with
            continue
        found.append(number)
    return found


if __name__ == "__main__":
    main()
