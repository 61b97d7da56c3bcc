"""The data of the Open Inference Protocol: requests, tensors, batches, answers."""
