"""A cluster's model as one of `transformers`: for `generate`, pipelines, and whatever else takes such a model."""
