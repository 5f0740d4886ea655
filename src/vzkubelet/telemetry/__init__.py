"""What the agent tells about itself: structured logs (`logs`). Every room may use it; it uses no room."""
