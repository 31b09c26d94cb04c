"""What hosts say to each other: link sessions that outlive their connections, and streams in them."""
