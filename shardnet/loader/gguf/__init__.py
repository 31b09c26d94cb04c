"""GGUF files, believed in nothing, converted once into a folder in Hugging Face layout."""
