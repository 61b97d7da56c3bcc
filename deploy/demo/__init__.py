"""The demonstration: two classifiers of handwritten digits behind one endpoint."""
