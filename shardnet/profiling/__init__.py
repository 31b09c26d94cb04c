"""What a device, a link and a unit give: measured once, kept, reused until stale, or estimated by a roofline."""
