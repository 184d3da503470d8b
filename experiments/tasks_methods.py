"""The comparisons of tasks and inputs: recipes, their single-input counterparts, and others."""

import dataclasses
from typing import Any

from configs import (
    combined,
    elpv_multi_task,
    multi_label,
    multi_modal_columns,
    multi_modal_text,
    multi_scale,
    multi_view,
)
from configs.base import composed
from experiments.composed_sets import NAMES
from tl_jax.config import Config, InputsConfig, TaskConfig

ALONE = "columns_alone"
"""Name of the method that sees no image: a classifier of scikit-learn on the columns."""
IMBALANCE = "long_tail"
"""Name of the comparison of what meets imbalance."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way of learning a set.

    Attributes:
      name: in rows and on the command line.
      title: in tables.
      config: of seed 0.
    """

    name: str
    title: str
    config: Config


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods on one set.

    Attributes:
      name: in rows and on the command line; of a composed set its name.
      title: in tables.
      metrics: names of test metrics, with their headings; the first decides.
      methods: the counterpart, the recipe, and others.
      seeds: runs of each method.
    """

    name: str
    title: str
    metrics: dict[str, str]
    methods: tuple[Method, ...]
    seeds: int = 3

    @property
    def is_composed(self) -> bool:
        """Whether each seed has a set of its own."""
        return self.name in NAMES

    def config(self, method: Method, seed: int) -> Config:
        """Returns the configuration of a method with a seed, on the set of that seed."""
        config = method.config
        data = config.data
        if self.is_composed:
            source = data.source.replace(f"{self.name}-0/", f"{self.name}-{seed}/")
            data = dataclasses.replace(data, source=source)
        train = dataclasses.replace(config.train, seed=seed)
        return dataclasses.replace(config, data=data, train=train)


def comparisons() -> tuple[Comparison, ...]:
    """Returns all comparisons, the most important first."""
    return (
        _multi_view(),
        _multi_modal_columns(),
        _multi_modal_text(),
        _multi_label(),
        _multi_scale(),
        _combined(),
        _long_tail(),
        _elpv(),
    )


def with_inputs(config: Config, **changed: Any) -> Config:
    """Returns a configuration with other inputs."""
    return dataclasses.replace(config, inputs=dataclasses.replace(config.inputs, **changed))


def one_image(config: Config, column: str | None = None) -> Config:
    """Returns a configuration whose only input is one image, at one scale, pooled by the average.

    Args:
      config: of more inputs.
      column: of the image, where there are several.
    """
    data = dataclasses.replace(config.data, image_column=column)
    return dataclasses.replace(config, data=data, inputs=InputsConfig())


def _multi_view() -> Comparison:
    config = multi_view.get_config()
    fusions = (
        ("max", "three views, maximum", 0),
        ("attention", "three views, attention", 0),
        ("gru", "three views, GRU", 256),
    )
    others = tuple(
        Method(name, title, with_inputs(config, view_fusion=name, recurrent_width=width))
        for name, title, width in fusions
    )
    return Comparison(
        "multi_view",
        "Views: an article by close-ups",
        {"accuracy": "accuracy", "log_loss": "log-loss"},
        (
            Method("one_view", "one view", one_image(config, "view1")),
            Method("average", "three views, average", config),
            *others,
        ),
    )


def _multi_modal_columns() -> Comparison:
    config = multi_modal_columns.get_config()
    return Comparison(
        "multi_modal_columns",
        "Columns: a poor picture and measures",
        {"accuracy": "accuracy", "log_loss": "log-loss"},
        (
            Method("image", "image", one_image(config)),
            Method("both", "image and columns", config),
            Method(ALONE, "columns alone, boosted trees", config),
            Method("gated", "image and columns, gated sum", with_inputs(config, join="gated_sum")),
        ),
    )


def _multi_modal_text() -> Comparison:
    config = multi_modal_text.get_config()
    return Comparison(
        "multi_modal_text",
        "Text: a thumbnail and a sentence",
        {"accuracy": "accuracy", "macro_f1": "macro F1"},
        (
            Method("image", "image", one_image(config)),
            Method("both", "image and text", config),
            Method(ALONE, "text alone, logistic regression", config),
        ),
        seeds=5,  # There are few stamps to test on.
    )


def _multi_label() -> Comparison:
    config = multi_label.get_config()
    (task,) = config.tasks
    one_stage = one_image(config)

    def with_task(**changed: Any) -> Config:
        return dataclasses.replace(config, tasks=(dataclasses.replace(task, **changed),))

    return Comparison(
        "multi_label",
        "Labels: one to four articles on a canvas",
        {
            "mean_average_precision": "mAP",
            "macro_f1": "macro F1 at 0.5",
            "calibrated.macro_f1": "at chosen thresholds",
            "calibrated.exact_match": "all right",
        },
        (
            Method("average", "last stage, average pooling", one_stage),
            Method("stages_max", "two stages, max pooling", config),
            Method("max", "last stage, max pooling", with_inputs(one_stage, pooling="max")),
            Method(
                "attention",
                "last stage, attention pooling",
                with_inputs(one_stage, pooling="attention"),
            ),
            Method("asymmetric", "two stages, asymmetric loss", with_task(loss="asymmetric")),
            Method(
                "positive", "two stages, positive weights", with_task(balance="positive_weights")
            ),
        ),
    )


def _multi_scale() -> Comparison:
    config = multi_scale.get_config()
    one = with_inputs(config, scales=(1.0,), scale_fusion="average")
    stages = with_inputs(one, stages=("blocks.2", "blocks.4", "blocks.6"))
    twice = dataclasses.replace(one, data=dataclasses.replace(one.data, image_size=128))
    return Comparison(
        "multi_scale",
        "Scales: a large and a small article",
        {"small.accuracy": "small article", "large.accuracy": "large article"},
        (
            Method("one_scale", "one scale, 64 pixels", one),
            Method("pyramid", "64 and 128 pixels", config),
            Method("stages", "three stages, 64 pixels", stages),
            Method("twice", "one scale, 128 pixels", twice),
        ),
    )


def _combined() -> Comparison:
    config = combined.get_config()
    contents, _ = config.tasks
    no_columns: dict[str, Any] = {"numeric": (), "categorical": ()}
    one_photo = dataclasses.replace(
        with_inputs(config, views=(), view_fusion="average"),
        data=dataclasses.replace(config.data, image_column="photo1"),
    )
    return Comparison(
        "combined",
        "Combined: a parcel",
        {
            "articles.mean_average_precision": "contents, mAP",
            "number.accuracy": "number, accuracy",
            "number.mae": "number, MAE",
        },
        (
            Method("one_photo_alone", "one photograph, last stage", one_image(config, "photo1")),
            Method("all", "all", config),
            Method(ALONE, "columns alone, boosted trees", config),
            Method("no_views", "all but the views", one_photo),
            Method("no_columns", "all but the columns", with_inputs(config, **no_columns)),
            Method("no_stages", "all but the stages", with_inputs(config, stages=())),
            Method(
                "contents_alone",
                "all, the contents as the only task",
                dataclasses.replace(
                    config,
                    tasks=(contents,),
                    train=dataclasses.replace(config.train, best_metric="mean_average_precision"),
                ),
            ),
        ),
    )


def _long_tail() -> Comparison:
    config = composed(IMBALANCE, image_size=48)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, best_metric="balanced_accuracy")
    )

    def weighted(**options: Any) -> Config:
        return dataclasses.replace(config, tasks=(TaskConfig("article", **options),))

    def sampled(sampling: Any) -> Config:
        return dataclasses.replace(
            weighted(), data=dataclasses.replace(config.data, sampling=sampling)
        )

    return Comparison(
        IMBALANCE,
        "Imbalance: ten classes, 300 to 6 pictures",
        {
            "balanced_accuracy": "balanced accuracy",
            "accuracy": "accuracy",
            "macro_f1": "macro F1",
            "log_loss": "log-loss",
        },
        (
            Method("nothing", "nothing", weighted()),
            Method("logit_adjustment", "logit adjustment", weighted(balance="logit_adjustment")),
            Method("balanced", "balanced sampling", sampled("balanced")),
            Method("square_root", "square-root sampling", sampled("square_root")),
            Method("inverse", "weights, inverse frequency", weighted(balance="inverse_frequency")),
            Method(
                "effective",
                "weights, effective number (0.99)",
                weighted(balance="effective_number", effective_beta=0.99),
            ),
            Method("focal", "focal loss", weighted(loss="focal")),
        ),
        seeds=5,  # Each has another order of the classes.
    )


def _elpv() -> Comparison:
    config = elpv_multi_task.get_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=64))
    level, cell_type = config.tasks

    def alone(task: TaskConfig, metric: str) -> Config:
        train = dataclasses.replace(config.train, best_metric=metric)
        return dataclasses.replace(config, tasks=(task,), train=train)

    return Comparison(
        "elpv_multi_task",
        "Tasks: level of the defect and type of the cell (ELPV, 64 pixels)",
        {
            "probability.quadratic_kappa": "level, quadratic kappa",
            "probability.mae": "level, MAE",
            "cell_type.accuracy": "type, accuracy",
        },
        (
            Method("level", "the level alone", alone(level, "quadratic_kappa")),
            Method("both", "both tasks", config),
            Method("type", "the type alone", alone(cell_type, "accuracy")),
        ),
    )
