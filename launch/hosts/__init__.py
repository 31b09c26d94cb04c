"""What commands share by which machines come together: how one is let in, and how one comes in."""
