"""What every stage did and when, all devices on one clock; written as a trace, as TensorBoard events, as pictures."""
