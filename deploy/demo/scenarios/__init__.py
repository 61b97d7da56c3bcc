"""The demonstration's scenarios: each proves one policy on real models, and says so in a picture."""
