"""The command `shardnet-run`: runs a script beside devices, in torchrun's manner.

    shardnet-run --standalone --nproc-per-node 3 script.py its arguments
    shardnet-run --standalone --nproc-per-node 3 -m package.module its arguments

Other than with torchrun, the script runs once: it is the coordinator. The N processes are devices, which serve it; they
meet at a door of this process. The script finds them with `shardnet.Cluster.connect()`. With `--every-node` it runs as
torchrun runs it, besides. Neither scripts nor devices outlive this process.
"""

from __future__ import annotations

import sys

from shardnet.process.signals import end_at_once


def main() -> None:
    """Run the command line; the exit code is the script's."""
    end_at_once()
    import os

    from shardnet.process.ending import orderly_exit
    from shardnet.process.imports import end_quickly
    from shardnet.process.standard_streams import open_closed

    open_closed()
    end_quickly()
    from shardnet.launch.launcher.options import read_options

    with orderly_exit(debug=False):
        typed = read_options(sys.argv[1:], os.environ)
    with orderly_exit("debug" in typed.flags):
        from shardnet.launch.launcher.asked import asked_in
        from shardnet.launch.launcher.node import run
        from shardnet.process.surroundings import require_address_space, require_docstrings, require_folder
        from shardnet.profiling.cores import max_threads
        from shardnet.profiling.phone import is_phone

        require_folder()
        require_docstrings()
        require_address_space()
        sys.exit(run(asked_in(typed, max_threads(), on_phone=is_phone()), os.environ))


if __name__ == "__main__":
    main()
