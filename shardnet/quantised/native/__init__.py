"""Products with weights of few bits by a C source of ours, compiled where a compiler is: `build`."""
