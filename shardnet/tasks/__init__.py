"""Tasks as transformers' pipelines have them, over the devices of a cluster."""
