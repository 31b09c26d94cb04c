"""The HTTP server: a model of a cluster as OpenAI's API has one. Needs the extra `serve`."""
