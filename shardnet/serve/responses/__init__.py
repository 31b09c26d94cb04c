"""`/v1/responses`: the same answers as chats have, in items, and kept for the next turn."""
