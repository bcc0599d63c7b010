"""What the journals of hosts tell."""
