"""What others wrote, and is not believed: files read with limits, values within bounds, quotes that fit on a line."""
