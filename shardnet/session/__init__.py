"""What the source sees of a conversation: sessions, requests, streams of text, the model that is asked."""
