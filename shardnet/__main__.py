"""`python -m shardnet`: the command `shardnet`, where its script is not on the path."""

from shardnet.launch.cli import main

if __name__ == "__main__":
    main()
