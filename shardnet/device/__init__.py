"""What runs on a device: its process, its endpoints, the stages that it holds, and where their results go."""
