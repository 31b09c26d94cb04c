"""In what hidden states travel between devices: which codecs there are, and what each makes of them."""
