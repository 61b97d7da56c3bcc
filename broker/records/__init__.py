"""The records on our logs: declarations, announcements, predictions, feedback, routing."""
