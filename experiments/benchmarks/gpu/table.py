"""The cases in their order, the most important first, and the module that measures each kind."""

from collections.abc import Iterator

from experiments.benchmarks.gpu.case import NETWORKS, Case

MODULES = {
    "facts": "facts",
    "correctness": "correctness",
    "bits": "determinism",
    "determinism": "determinism",
    "torch alone": "steps",
    "tl_jax alone": "steps",
    "steps": "steps",
    "forward": "forward",
    "switches": "switch",
    "profile": "profile",
    "depthwise": "depthwise",
    "images": "images",
    "heads": "heads",
}
# The forms that a program is timed without, one at a time.
SWITCHES = {
    ("resnet50", "full"): ("pool_gradient", "norm_gradient", "gradient_norm"),
    ("resnet50", "head"): ("own_convolutions", "folding"),
    ("convnext_tiny", "full"): (
        "fusion_autotuner", "cublas_products", "gelu_memory", "own_convolutions",
    ),
    ("efficientnet_b0", "full"): ("fusion_autotuner", "norm_gradient", "library_depthwise"),
    ("resnet50", "lora"): ("folding",),
    ("efficientnet_b0", "head"): ("own_convolutions", "folding"),
}  # fmt: skip


def all_cases() -> list[Case]:
    """Returns every case, the most important first."""
    return list(_cases())


def one_of_each() -> list[Case]:
    """Returns a case of each kind and mode, over all networks, for trying the suite itself."""
    networks = dict(zip(("full", "head", "lora"), NETWORKS, strict=True))
    chosen: dict[tuple[str, str], Case] = {}
    for case in all_cases():
        key = (case.kind, case.mode)
        if key not in chosen or case.network == networks.get(case.mode):
            chosen[key] = case
    return list(chosen.values())


def _cases() -> Iterator[Case]:
    first, *others = NETWORKS
    yield Case("facts", seconds=60)
    # torch compiles on the CPU's cores, several networks at once, and keeps what it compiled; the
    # cases that are timed find it there.
    for mode in ("full", "head"):
        yield Case("torch alone", first, mode, 150, shares=True)
    yield Case("correctness", first, "full", 150, shares=True)
    for network in others:
        for mode in ("full", "head"):
            yield Case("torch alone", network, mode, 240, shares=True)
    for mode in ("full", "head"):
        for network in NETWORKS:
            yield Case("steps", network, mode, 170)
    yield Case("forward", first, "forward", 90)
    yield Case("switches", first, "head", 70)
    yield Case("heads", first, "", 60)
    yield Case("profile", first, "head", 60)
    yield Case("switches", first, "full", 110)
    yield Case("images", "", "", 60)
    yield Case("tl_jax alone", first, "full", 60)
    yield Case("tl_jax alone", first, "head", 60)
    for case in list(SWITCHES)[2:4]:
        yield Case("switches", *case, 300)
    yield Case("bits", first, "full", 60, shares=True)
    yield Case("bits", first, "full determinism", 60, shares=True, deterministic=True)
    yield Case("determinism", first, "full", 150, deterministic=True)
    for network in others:
        yield Case("correctness", network, "full", 150, shares=True)
    for network in NETWORKS:
        yield Case("torch alone", network, "lora", 240, shares=True)
    for network in NETWORKS:
        yield Case("steps", network, "lora", 170)
    for network in others:
        yield Case("forward", network, "forward", 90)
    for case in list(SWITCHES)[4:]:
        yield Case("switches", *case, 90)
    for network in others:
        for mode in ("full", "head"):
            yield Case("tl_jax alone", network, mode, 120)
    for network in NETWORKS:
        yield Case("profile", network, "full", 150)
    yield Case("depthwise", "", "", 200)
