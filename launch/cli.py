"""The command `shardnet`: imports nothing that takes time before signals and streams are safe."""

from __future__ import annotations

import sys

from shardnet.process.signals import end_at_once


def main() -> None:
    """Run the command line; see `ending` for the exit codes."""
    end_at_once()
    from shardnet.process.ending import orderly_exit
    from shardnet.process.imports import end_quickly
    from shardnet.process.standard_streams import open_closed, tolerant_streams

    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    is_debug = len(arguments) < len(sys.argv) - 1
    end_quickly()
    stdout_was_open = open_closed()
    with tolerant_streams(), orderly_exit(is_debug, wants_json="--json" in arguments):
        from shardnet.errors import UsageError
        from shardnet.launch.commands import perform
        from shardnet.process.surroundings import require_docstrings, require_folder

        if not stdout_was_open:
            raise UsageError(
                "Standard output is closed, and the result would be lost. Redirect it, such as >/dev/null."
            )
        require_folder()
        require_docstrings()
        sys.exit(perform(arguments))


if __name__ == "__main__":
    main()
