"""What is started as a process: the command line and the launcher. Installed as `shardnet.launch`.

The only place that reads YAML files.
"""
