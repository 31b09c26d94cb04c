"""`python -m shardnet.launch` is `shardnet-run`."""

from shardnet.launch.launcher.run import main

if __name__ == "__main__":
    main()
