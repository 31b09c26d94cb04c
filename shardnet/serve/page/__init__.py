"""The page that the server shows at `/`: files as they are, and with what headers they go."""
