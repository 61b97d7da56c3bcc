"""Trains classifiers and returns them as TorchScript files, which Triton's PyTorch backend could also serve."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import torch
from torch import nn

from deploy.demo.digits import CLASSES, LARGEST, PIXELS, SEED, Digits

EPOCHS = 30
ROWS = 32
SIDE = 8


class Classifier(nn.Module):
    """Maps 64 pixels from 0 to 16 to the probabilities of ten digits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.largest = LARGEST

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images of shape (n, 64) to probabilities of shape (n, 10)."""
        return torch.softmax(self.body(image / self.largest), dim=1)


def linear() -> nn.Module:
    """A linear model with 650 parameters."""
    return nn.Linear(PIXELS, CLASSES)


def cnn() -> nn.Module:
    """A small convolutional network with 9,930 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, CLASSES),
    )


ARMS = {"linear": linear, "cnn": cnn}


def train(make: Callable[[], nn.Module], digits: Digits, on_epoch: Callable[[], None], seed: int = SEED) -> bytes:
    """Train a classifier and return it as the bytes of a TorchScript file."""
    torch.set_num_threads(1)  # more threads are slower with batches of this size
    torch.manual_seed(seed)
    classifier = Classifier(make())
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.005, weight_decay=1e-4)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(images)), ROWS):
            loss = nn.functional.cross_entropy(classifier.body(images[rows] / LARGEST), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        on_epoch()
    return scripted(classifier.eval())


def scripted(module: nn.Module) -> bytes:
    """Compile a module to the bytes of a TorchScript file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Deprecated in favour of torch.export, whose files Triton's backend cannot serve.
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        torch.jit.save(torch.jit.script(module), file)
    return file.getvalue()
