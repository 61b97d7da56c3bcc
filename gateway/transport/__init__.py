"""HTTP itself: connections and their limits, bodies, compression, errors."""
