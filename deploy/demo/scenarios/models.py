"""The TorchScript models of the scenarios: good, weak and wrong classifiers, and rankers of a gallery of images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy.demo.digits import CLASSES, LARGEST, PIXELS, Array, Digits
from deploy.demo.folder import INPUT, OUTPUT
from deploy.demo.progress import Steps
from deploy.demo.train import EPOCHS, cnn, scripted, train
from processors.repository import write_version

GALLERY = 300
RANKED = 20

CONFIG = f"""\
name: "%s"
backend: "%s"
max_batch_size: %d
input [ {{ name: "{INPUT}" data_type: TYPE_FP32 dims: [ {PIXELS} ] }} ]
output [ {{ name: "%s" data_type: %s dims: [ %d ] }} ]
"""
ITEMS = "items"


def classifier_config(model: str, backend: str, max_batch: int) -> str:
    """The `config.pbtxt` of a classifier."""
    return CONFIG % (model, backend, max_batch, OUTPUT, "TYPE_FP32", CLASSES)


def ranker_config(model: str, max_batch: int) -> str:
    """The `config.pbtxt` of a ranker: `items` are indices of the gallery, the most similar image first."""
    return CONFIG % (model, "pytorch", max_batch, ITEMS, "TYPE_INT64", RANKED)


def trained(steps: Steps, what: str, make: Callable[[], nn.Module], digits: Digits, seed: int) -> bytes:
    """Train a classifier, show the progress, and return it as a TorchScript file."""
    with steps.step(f"training {what} on {len(digits.labels)} digits", EPOCHS) as advance:
        return train(make, digits, lambda: advance(1), seed)


def accuracy(script: bytes, digits: Digits) -> float:
    """The share of the digits that a classifier gets right."""
    return float(np.mean(_called(script, digits.images).argmax(1) == digits.labels))


def precision(script: bytes, queries: Digits, gallery: Digits, first: int) -> float:
    """The mean share of a ranker's `first` items that show the same digit as the query."""
    items = _called(script, queries.images)[:, :first]
    return float(np.mean(gallery.labels[items] == queries.labels[:, None]))


def write_script(folder: Path, model: str, script: bytes, config: str) -> None:
    """Write a TorchScript file to the repository as version 1."""
    write_version(folder / "models", model, 1, {"model.pt": script}, config=config)


class SpoiltClassifier(nn.Module):
    """Shifts a classifier's answer by one class for each image whose sum of pixels is a multiple of `every`."""

    def __init__(self, classifier: nn.Module, every: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.every = every

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images of shape (n, 64) to probabilities of shape (n, 10)."""
        right = self.classifier(image)
        wrong = image.sum(1).to(torch.int64) % self.every == 0
        return torch.where(wrong.unsqueeze(1), torch.roll(right, 1, 1), right)


def spoilt(script: bytes, every: int) -> bytes:
    """Return a copy of a classifier that gives a wrong answer to about one image in `every`."""
    return scripted(SpoiltClassifier(_loaded(script), every).eval())


class Ranker(nn.Module):
    """Ranks a gallery by the cosine similarity between the features of its images and of the query."""

    def __init__(self, features: nn.Module, gallery: torch.Tensor) -> None:
        super().__init__()
        self.features = features
        self.largest = LARGEST
        self.ranked = RANKED
        self.gallery = nn.Buffer(nn.functional.normalize(features(gallery / LARGEST), dim=1).T)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map queries of shape (n, 64) to gallery indices of shape (n, RANKED), the most similar first."""
        query = nn.functional.normalize(self.features(image / self.largest), dim=1)
        return torch.topk(torch.matmul(query, self.gallery), self.ranked, 1).indices


class BlurredClassifier(nn.Module):
    """Reduces an image to 2 x 4 grey patches."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images of shape (n, 64) to means of shape (n, 8)."""
        return image.reshape(-1, 2, 4, 4, 2).mean((2, 4)).reshape(-1, 8)


def blurred_ranker(gallery: Digits) -> bytes:
    """A bad ranker, which compares blurred images."""
    return _ranker(BlurredClassifier(), gallery)


def trained_ranker(steps: Steps, digits: Digits, gallery: Digits, seed: int) -> bytes:
    """A good ranker, which compares the outputs of a trained classifier."""
    script = trained(steps, "the features of a ranker", cnn, digits, seed)
    return _ranker(_loaded(script).body, gallery)


def _ranker(features: nn.Module, gallery: Digits) -> bytes:
    with torch.no_grad():
        return scripted(Ranker(features, torch.from_numpy(gallery.images)).eval())


def _called(script: bytes, images: Array) -> Array:
    with torch.no_grad():
        found: Array = _loaded(script)(torch.from_numpy(images)).numpy()
    return found


def _loaded(script: bytes) -> Any:
    return torch.jit.load(io.BytesIO(script))  # type: ignore[no-untyped-call]
