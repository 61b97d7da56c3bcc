"""The handwritten digits of scikit-learn: 1,797 images of 8 x 8 pixels, half for training, half held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 7
PIXELS = 64
LARGEST = 16.0  # the largest value of a pixel in scikit-learn's digits
CLASSES = 10

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Images of shape (n, 64), FP32 pixels from 0 to 16, with labels of shape (n,)."""

    images: Array
    labels: Array

    def take(self, count: int) -> Digits:
        """Return the first `count` images, repeated from the start if there are fewer."""
        rows = np.arange(count) % len(self.images)
        return Digits(self.images[rows], self.labels[rows])


def load() -> tuple[Digits, Digits]:
    """Return the training half and the held-out half, the same every time."""
    images, labels = load_digits(return_X_y=True)
    learn_x, held_x, learn_y, held_y = train_test_split(
        images.astype(np.float32), labels, test_size=0.5, random_state=SEED, stratify=labels
    )
    return Digits(learn_x, learn_y), Digits(held_x, held_y)
