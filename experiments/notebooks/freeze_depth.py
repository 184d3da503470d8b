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
# # How much of the backbone should be trained?
#
# The same network is fine-tuned on solar cells with its head alone, with the last one, two or four
# stages, and with all layers. What is frozen costs no backward pass and keeps its bits.

# %%
import dataclasses

import matplotlib.pyplot as plt

import tl_jax

# %% [markdown]
# One configuration, of which only `transfer.trained` and the rate change. The test split is measured once.

# %%
start = tl_jax.Config(
    model=tl_jax.ModelConfig("tf_efficientnet_lite0"),
    data=tl_jax.DataConfig("elpv", test_split="test", image_size=64, shots=100),
    augment=tl_jax.AugmentConfig(scale=(0.6, 1.0), vertical_flip=True),
    train=tl_jax.TrainConfig(epochs=5),
)
# The fewer parameters are trained, the higher the rate that they need.
rates = {
    "head": 3e-3,
    "head+last:1": 1e-3,
    "head+last:2": 1e-3,
    "head+last:4": 5e-4,
    "all": 3e-4,
}

# %% [markdown]
# `%%capture` hides the lines in which each run tells what it does.

# %%
# %%capture
reports = {}
for trained, rate in rates.items():
    config = dataclasses.replace(
        start,
        transfer=tl_jax.TransferConfig(trained=trained),
        optim=tl_jax.OptimConfig(learning_rate=rate, head_learning_rate=3e-3),
    )
    reports[trained] = tl_jax.fit(config, f"runs/freeze_depth/{trained.replace(':', '_')}")

# %%
sizes = {name: max(report["trained_parameters"].values()) for name, report in reports.items()}
print(f"{'trained':12}{'parameters':>12}{'accuracy':>10}{'balanced':>10}   95% of the accuracy")
for trained, report in reports.items():
    test = report["metrics"]["test"]
    low, high = test["accuracy_interval"]
    print(
        f"{trained:12}{sizes[trained]:12,}{test['accuracy']:10.3f}"
        f"{test['balanced_accuracy']:10.3f}   {low:.3f} to {high:.3f}"
    )

# %%
tests = [report["metrics"]["test"] for report in reports.values()]
accuracy = [test["accuracy"] for test in tests]
errors = [
    [abs(test["accuracy"] - test["accuracy_interval"][side]) for test in tests] for side in (0, 1)
]
plt.figure(figsize=(6, 3))
plt.errorbar(list(reports), accuracy, errors, fmt="o", capsize=3)
plt.xlabel("what is trained")
plt.ylabel("accuracy on the test split")
plt.grid(alpha=0.3)

# %% [markdown]
# From 200 photographs the depths differ by less than their intervals: the head alone is not far behind. It is
# one seed, so read it as a first look, and run several (`train.seed`) before you decide.
