"""The process of one device: joins the cluster, serves until it is told to leave or its parent is gone.

    python -m shardnet.launch.worker --endpoint HOST:PORT --name NAME [--threads N]

Ends when its standard input closes: the process that started it holds the other end, so that it never outlives it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading

JOIN_S = 60.0
NEEDED = (
    "torch",
    "transformers.modeling_layers",
    "transformers.generation.utils",
    "shardnet.transport.rpc",
    "shardnet.cluster.worker",
)


def main() -> int:
    """Serve as a device; the exit code is 0 after an orderly goodbye."""
    parser = argparse.ArgumentParser(prog="shardnet-worker", description="Serve as one device of a shardnet cluster.")
    parser.add_argument("--endpoint", required=True, metavar="HOST:PORT", help="where the cluster's store listens")
    parser.add_argument("--name", required=True, help="the name of this device, unique in the cluster")
    parser.add_argument("--threads", type=int, default=1, help="compute threads")
    arguments = parser.parse_args()
    return serve(arguments.endpoint, arguments.name, arguments.threads)


def import_all() -> None:
    """Import what a device needs: most of what its start takes."""
    for module in NEEDED:
        importlib.import_module(module)


def serve(endpoint: str, name: str, threads: int) -> int:
    """Be a device until it is over; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    import_all()

    import torch

    from shardnet.cluster.worker import Worker
    from shardnet.errors import ShardnetError
    from shardnet.transport import RpcTransport

    torch.set_num_threads(threads)
    try:
        with Worker(threads) as worker:
            worker.warm_up()
            with RpcTransport.join(endpoint, name, timeout_s=JOIN_S, prepare=worker.attach):
                worker.left.wait()
    except ShardnetError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def end_with_parent() -> None:
    """End this process at once when its standard input closes. A watching thread: works wherever pipes do."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, name="shardnet-parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
