"""What is started as a process: the command line, the launcher, a device. Installed as `shardnet.launch`.

The only place that reads YAML files and the environment.
"""
