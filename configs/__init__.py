"""Data: devices, clusters, models, recipes. Installed as `shardnet.configs_data`.

Read a file with `importlib.resources.files("shardnet.configs_data").joinpath("clusters/home.yaml").read_text()`.
(This file makes the folder a package: an editable install finds no data folder without one.)
"""
