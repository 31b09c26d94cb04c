"""What every test begins with."""

import signal

# A shell starts what it puts in the background deaf to Ctrl-C, and so would be every command that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
