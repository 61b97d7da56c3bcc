"""The handwritten digits that scikit-learn carries: 1,797 images of 8 x 8 pixels, half to learn from, half held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 7
PIXELS = 64
LARGEST = 16.0  # what a pixel of scikit-learn's digits can be
CLASSES = 10

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Images as rows of 64 FP32 pixels from 0 to 16, with their labels."""

    images: Array
    labels: Array

    def take(self, count: int) -> Digits:
        """Return the first `count` images, from the start again when there are fewer."""
        rows = np.arange(count) % len(self.images)
        return Digits(self.images[rows], self.labels[rows])


def load() -> tuple[Digits, Digits]:
    """Return what to learn from, and what is held out; the same halves every time."""
    images, labels = load_digits(return_X_y=True)
    learn_x, held_x, learn_y, held_y = train_test_split(
        images.astype(np.float32), labels, test_size=0.5, random_state=SEED, stratify=labels
    )
    return Digits(learn_x, learn_y), Digits(held_x, held_y)
