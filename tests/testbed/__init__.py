"""A test bed of emulated phones: one YAML file says which devices, links and conversations, and what happens then."""
