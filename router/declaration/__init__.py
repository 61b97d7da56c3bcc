"""The declaration of a policy: reading, checks and JSON Schema. It needs no numerical library."""
