"""Methods that follow a rule, published ones among them. Each takes a problem and gives a plan. Pure."""
