"""Devices that work together: started, watched, asked what they can do, given shards to hold, and ended."""
