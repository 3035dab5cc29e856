"""Projects as their users have them, and what runs them without a server."""
