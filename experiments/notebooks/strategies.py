# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Strategies of transfer, side by side
#
# The head alone, all layers, a probe followed by all layers (LP-FT), LoRA and scale-and-shift (SSF)
# on a hundred photographs of each class of solar cells.

# %%
import dataclasses

import matplotlib.pyplot as plt

import tl_jax

# %%
start = tl_jax.Config(
    model=tl_jax.ModelConfig("tf_efficientnet_lite0"),
    data=tl_jax.DataConfig("elpv", test_split="test", image_size=64, shots=100),
    augment=tl_jax.AugmentConfig(scale=(0.6, 1.0), vertical_flip=True),
    train=tl_jax.TrainConfig(epochs=5),
)
few, many = 3e-3, 3e-4  # Rates for few trained parameters, and for all.
added = "head+added"

# %% [markdown]
# Each strategy is a change of the sections `transfer` and `optim`; the phases of LP-FT have their own epochs,
# also five. Nothing else differs.

# %%
strategies = {
    "head": (tl_jax.TransferConfig(trained="head"), few),
    "all layers": (tl_jax.TransferConfig(), many),
    "LP-FT": (
        tl_jax.TransferConfig(
            phases=tl_jax.lp_ft(head_epochs=2, epochs=3, head_rate=5e-3, rate=many)
        ),
        many,
    ),
    "LoRA": (tl_jax.TransferConfig(trained=added, adaptation="lora", lora_rank=8), few),
    "SSF": (tl_jax.TransferConfig(trained=added, adaptation="ssf"), few),
}

# %%
# %%capture
reports = {}
for name, (transfer, rate) in strategies.items():
    config = dataclasses.replace(
        start,
        transfer=transfer,
        optim=tl_jax.OptimConfig(learning_rate=rate, head_learning_rate=5e-3),
        train=tl_jax.TrainConfig() if transfer.phases else start.train,
    )
    reports[name] = tl_jax.fit(config, f"runs/strategies/{name}")

# %%
sizes = {name: max(report["trained_parameters"].values()) for name, report in reports.items()}
print(f"{'strategy':12}{'trained':>12}{'accuracy':>10}{'balanced':>10}{'log-loss':>10}")
for name, report in reports.items():
    test = report["metrics"]["test"]
    print(
        f"{name:12}{sizes[name]:12,}{test['accuracy']:10.3f}"
        f"{test['balanced_accuracy']:10.3f}{test['log_loss']:10.3f}"
    )

# %%
tests = [report["metrics"]["test"] for report in reports.values()]
errors = [
    [abs(test["accuracy"] - test["accuracy_interval"][side]) for test in tests] for side in (0, 1)
]
plt.figure(figsize=(6, 2.5))
plt.errorbar([test["accuracy"] for test in tests], list(reports), xerr=errors, fmt="o", capsize=3)
plt.xlabel("accuracy on the test split, with its 95% interval")
plt.gca().invert_yaxis()
plt.grid(alpha=0.3)

# %% [markdown]
# The intervals overlap: on so few images no strategy can be told from the next by one run, and the
# head alone, with a thousandth of the parameters, is as good as any. `docs/strategies.md` compares
# more of them, with several seeds.
