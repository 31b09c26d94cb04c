"""What multiplies with weights of few bits, each with a layout of its own."""
