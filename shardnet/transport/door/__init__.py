"""The door: who is in the cluster, under which numbers and addresses. One process serves it; members are connected."""
