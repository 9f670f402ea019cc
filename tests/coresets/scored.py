"""Rows with scores, some of them flat, some held out."""

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from hypothesis import strategies as st

from hf_ltc.data.columns import read_column


@st.composite
def scored_rows(draw):
    """Imbalanced classes (single rows among them), tied scores, and rows without a score."""
    labels = draw(st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 7]), min_size=1, max_size=60))
    score = st.sampled_from([-0.75, -0.5, 0.0, 0.25, 0.5, 1.0, float("nan")])
    scores = draw(st.lists(score, min_size=len(labels), max_size=len(labels)))
    return np.array(scores, dtype=np.float32), np.array(labels)


def best_first(scores, keep):
    """Positions by score, ties by position, those without a score left out."""
    sign = -1 if keep == "highest" else 1
    return sorted((i for i in range(len(scores)) if not np.isnan(scores[i])), key=lambda i: (sign * scores[i], i))


NOT_AN_IMAGE = {"bytes": b"no image at all", "path": None}


def scored_dataset(n=40, classes=4, seed=0):
    """Rows whose images cannot be decoded, some held out (no trajectory), some flat (no score)."""
    draw = np.random.default_rng(seed)
    held, flat = np.zeros(n, bool), np.zeros(n, bool)
    held[3::9], flat[5::11] = True, True
    flat &= ~held
    trajectory = [None if h else values for h, values in zip(held, draw.random((n, 3), dtype=np.float32).tolist())]
    score = [None if h or f else v for h, f, v in zip(held, flat, draw.uniform(-1, 1, n).astype("f4").tolist())]
    features = Features(
        image=Image(),
        label=ClassLabel(names=[f"class {c}" for c in range(classes)]),
        number=Value("int64"),
        loss_trajectory=List(Value("float32"), length=3),
        ltc_score=Value("float32"),
    )
    columns = {
        "image": [NOT_AN_IMAGE] * n,
        "label": draw.integers(0, classes, n).tolist(),
        "number": list(range(n)),
        "loss_trajectory": trajectory,
        "ltc_score": score,
    }
    return (
        Dataset(
            pa.table({k: pa.array(v, features.arrow_schema.field(k).type) for k, v in columns.items()}).cast(
                features.arrow_schema
            )
        ),
        held,
        flat,
    )


def values(dataset, column):
    return read_column(dataset, column).to_pylist()


def many_rows(n=3000, classes=5, seed=0):
    """Imbalanced classes with scores, trajectories that go with them, some flat and some held out."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    easy = draw.beta(2, 1.5, n)
    losses = -np.log(np.clip(easy[:, None] + 0.05 * draw.standard_normal((n, 8)), 0.01, 0.99)).astype("f4")
    scores = np.clip(easy * 2 - 1 + 0.2 * draw.standard_normal(n), -1, 1).astype("f4")
    held, flat = np.arange(n) % 17 == 3, np.arange(n) % 101 == 7
    columns = {
        "label": pa.array(labels),
        "number": pa.array(range(n)),
        "loss_trajectory": pa.FixedSizeListArray.from_arrays(pa.array(losses.ravel()), 8, mask=pa.array(held)),
        "ltc_score": pa.array(scores, mask=held | flat),
    }
    dataset = Dataset(pa.table(columns)).cast_column("label", ClassLabel(num_classes=classes))
    return dataset, labels, scores.astype(float), held, flat & ~held, np.exp(-losses).mean(axis=1, dtype=float)
