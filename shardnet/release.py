"""The release, for modules of this package too: where Python was started beside a folder that is called shardnet, as
`~/.local/state` has one, an editable install gives them all modules but not what the package itself says."""

__version__ = "0.1.0"
