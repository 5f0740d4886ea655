"""The node itself: what this host is, its registration, lease, status and figures."""
