"""Values as bytes that anybody may have sent: written, read, checked. Knows no network."""
