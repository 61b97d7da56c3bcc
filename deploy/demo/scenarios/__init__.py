"""The demonstration's scenarios: each shows one policy at work on real models, and checks its claims."""
