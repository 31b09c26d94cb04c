"""Clusters, devices and models that exist on paper: read from descriptions that are checked, sized, estimated."""
