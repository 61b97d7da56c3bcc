"""The records on logs: declarations, announcements, predictions, feedback, routing."""
