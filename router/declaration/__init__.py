"""What an endpoint file says of its policy: read, checked and explained. No numerical library is needed for it."""
