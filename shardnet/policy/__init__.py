"""When a running plan should change, and to what. Pure: time is an argument, and somebody else performs it."""
