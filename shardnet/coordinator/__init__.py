"""What the coordinator of a cluster that outlives commands answers to sources, and keeps."""
