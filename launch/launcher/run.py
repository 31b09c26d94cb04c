"""The command `shardnet-run`: runs a script against local devices, in torchrun's manner.

    shardnet-run --standalone --nproc-per-node 3 script.py its arguments
    shardnet-run --standalone --nproc-per-node 3 -m package.module its arguments

Other than with torchrun, the script runs once: it is the coordinator. The N processes are devices, which serve it; they
meet at a door of this process. The script finds them with `shardnet.Cluster.connect()`. It runs in this very process,
so it cannot outlive it, and the devices end with it in every case.
"""

from __future__ import annotations

import sys

from shardnet.process.signals import end_at_once


def main() -> None:
    """Run the command line; the exit code is the script's."""
    end_at_once()
    from shardnet.process.ending import orderly_exit
    from shardnet.process.standard_streams import open_closed

    open_closed()
    from shardnet.launch.launcher.script import read_options, run

    options = read_options(sys.argv[1:])
    with orderly_exit(options.debug):
        run(options)


if __name__ == "__main__":
    main()
