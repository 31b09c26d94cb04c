"""What models write beside plain text: calls of tools, and thoughts. One file for each way to write them."""
